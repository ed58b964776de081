/**
 * The daemon as the first process of a PID namespace, as in a container: who comes from outside (`docker exec`, a
 * health check), orphans, signals, and ending with the main program. Needs root and namespaces.
 */
import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Home, outcomeOf, ROOT, waitUntil, within, type CliResult } from "../home.ts";
import { isRoot, skipUnless } from "../needs.ts";

const IPCCTL = join(ROOT, "bin/ipcctl");
const SLEEP = "import time\ntime.sleep(600)\n";

async function isContainable(what: string): Promise<boolean> {
  if (skipUnless(isRoot, "root", what)) return false;
  const tried = Bun.spawn(["unshare", "--fork", "--pid", "--mount-proc", "true"], { stderr: "ignore" });
  return !skipUnless((await tried.exited) === 0, "namespaces", what);
}

/** A PID namespace with the daemon as its init. It ends with this object, and everything in it. */
class Container implements AsyncDisposable {
  readonly #home: Home;
  readonly #unshare: Bun.Subprocess;

  constructor(home: Home, ...flags: string[]) {
    this.#home = home;
    const unshare = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"];
    this.#unshare = Bun.spawn([...unshare, IPCCTL, "daemon", "--stop-workers", ...flags], {
      cwd: home.dir,
      env: home.env,
      stdio: ["ignore", "ignore", "ignore"],
    });
  }

  /** The daemon, as it is called outside. */
  get init(): number {
    const { pid } = this.#unshare;
    const [found] = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ");
    return Number(found);
  }

  get exited(): Promise<number> {
    return within(120_000, "the container ends", this.#unshare.exited);
  }

  /** As `docker exec` does it: a process in there whose parent is not. */
  async exec(...command: string[]): Promise<CliResult> {
    const child = Bun.spawn(["nsenter", "-t", String(this.init), "-p", "-m", ...command], {
      cwd: this.#home.dir,
      env: this.#home.env,
      stdio: ["ignore", "pipe", "pipe"],
    });
    return await within(120_000, command.join(" "), outcomeOf(child));
  }

  async ipcctl(...args: string[]): Promise<CliResult> {
    return await this.exec(IPCCTL, "--no-autostart", ...args);
  }

  async started(): Promise<void> {
    await waitUntil(async () => (await this.ipcctl("daemon", "status")).status === 0, "the daemon answers");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#unshare.kill("SIGKILL");
    await this.#unshare.exited;
  }
}

test("who is put into the daemon's PID namespace from outside is served; who stays outside is told why not", async () => {
  if (!(await isContainable("clients from outside the PID namespace"))) return;
  await using home = new Home();
  await using container = new Container(home);
  await container.started();
  expect((await container.ipcctl("start", home.script("worker.py", SLEEP))).status).toBe(0);
  const { status, stdout } = await container.ipcctl("status");
  expect([status, stdout]).toEqual([0, expect.stringContaining("running")]);
  const outside = await home.cli("--no-autostart", "status");
  expect(outside.status).not.toBe(0);
  expect(outside.stderr).toContain("another PID namespace");
  expect(outside.stderr).toContain("docker exec");
  // What a worker starts is its worker's still.
  const asking = [IPCCTL, "--no-autostart", "--socket", home.paths.socket, "status"];
  const inside = home.script(
    "asks.py",
    `import subprocess\nprint(subprocess.run(${JSON.stringify(asking)}, capture_output=True, text=True, start_new_session=True).stderr)\n${SLEEP}`,
  );
  await container.ipcctl("start", inside, "--policy", "trusted");
  await waitUntil(
    async () => (await container.ipcctl("logs", "asks")).stdout.includes("inside a worker's tree"),
    "the worker is refused",
  );
});

test("as the first process the daemon leaves no zombie, and SIGQUIT ends it", async () => {
  if (!(await isContainable("the daemon as the first process"))) return;
  await using home = new Home();
  await using container = new Container(home);
  await container.started();
  // Its parent ends at once, and nobody but the first process is left to take its end.
  const orphan = (await container.exec("sh", "-c", "sleep 0.1 >/dev/null 2>&1 & echo $!")).stdout.trim();
  expect(Number(orphan)).toBeGreaterThan(1);
  await waitUntil(async () => (await container.exec("test", "-e", `/proc/${orphan}`)).status !== 0, "its end is taken");
  await container.ipcctl("start", home.script("worker.py", SLEEP));
  process.kill(container.init, "SIGQUIT");
  expect(await container.exited).toBe(0);
  expect(readdirSync(home.dir)).toContain("home");
});

test("the container ends with its main program, and as that ended", async () => {
  if (!(await isContainable("a container that ends with its main program"))) return;
  await using home = new Home();
  home.script("side.py", SLEEP);
  home.script("main.py", "import os, time\nwhile not os.path.exists('go'): time.sleep(.01)\nraise SystemExit(3)\n");
  const config = home.script(
    "apps.json",
    JSON.stringify({
      apps: [
        { name: "main", script: "main.py", restart_policy: "no" },
        { name: "side", script: "side.py" },
      ],
    }),
  );
  await using container = new Container(home, "--config", config, "--exit-with", "main");
  await container.started();
  await waitUntil(async () => /main .*running/.test((await container.ipcctl("status")).stdout), "main runs");
  await container.ipcctl("stop", "main"); // asked for: that is no end
  await container.ipcctl("start", "main");
  home.script("go", "");
  expect(await container.exited).toBe(3);
});
