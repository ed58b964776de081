/** The same for an ordinary user: no root, no cgroup of its own, folders from HOME and XDG. */
import { expect, test } from "bun:test";
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { copyOfApp, isAlive, outcomeOf, waitUntil } from "../home.ts";
import { isRoot, skipUnless } from "../needs.ts";

const NOBODY = 65534;
skipUnless(isRoot, "root", "all of it as an ordinary user");

/** A folder of the user's own with a copy of what runs, because the checkout may lie where only root may look. */
function ordinaryUser(more: Record<string, string> = {}) {
  const dir = mkdtempSync(join(tmpdir(), "ipcctl-user-"));
  chmodSync(dir, 0o755);
  const app = copyOfApp(join(dir, "app"));
  const home = join(dir, "home");
  mkdirSync(home);
  chownSync(home, NOBODY, NOBODY);
  const env: Record<string, string> = { PATH: "/usr/local/bin:/usr/bin:/bin", HOME: home, ...more };
  const cli = async (...args: string[]) => {
    const child = Bun.spawn([join(app, "bin/ipcctl"), ...args], {
      cwd: home,
      env,
      uid: NOBODY,
      gid: NOBODY,
      stdio: ["ignore", "pipe", "pipe"],
    });
    return await outcomeOf(child);
  };
  return {
    home,
    env,
    cli,
    async [Symbol.asyncDispose]() {
      await cli("daemon", "stop");
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

test.if(isRoot)("an ordinary user has all of it: start, logs, adoption, and a stop that leaves nothing", async () => {
  await using user = ordinaryUser();
  writeFileSync(
    join(user.home, "tree.py"),
    `
import os, signal, time
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        open("grandchild", "w").write(str(os.getpid()))
        print("grandchild up", flush=True)
        time.sleep(600)
    os._exit(0)
time.sleep(600)
`,
  );
  const started = await user.cli("start", "tree.py");
  expect(started.stderr).toBe("");
  await waitUntil(async () => (await user.cli("logs", "tree")).stdout === "grandchild up\n", "it is logged");
  const grandchild = Number(readFileSync(join(user.home, "grandchild"), "utf8"));
  const [before] = JSON.parse((await user.cli("status", "--json")).stdout);
  for (const folder of [".local/state/ipcctl", ".local/state/ipcctl/run"])
    expect(statSync(join(user.home, folder)).mode & 0o777).toBe(0o700);
  const { pid } = JSON.parse((await user.cli("daemon", "status", "--json")).stdout);
  process.kill(pid, "SIGKILL");
  await waitUntil(() => !isAlive(pid), "the daemon is gone");
  const [after] = JSON.parse((await user.cli("status", "--json")).stdout);
  expect(after).toMatchObject({ pid: before.pid, restarts: 0, state: "Running" });
  expect((await user.cli("stop", "tree", "-t", "1")).stdout).toBe("tree: stopped\n");
  await waitUntil(() => !isAlive(grandchild), "nothing is left of the tree");
  const refused = await user.cli("start", "tree.py", "--name", "root", "--uid", "0");
  expect(refused.status).toBe(1);
  expect(refused.stderr).toContain("root");
});

test.if(isRoot)(
  "a policy that grants fork gives an ordinary user's worker processes of its own, where it can",
  async () => {
    await using user = ordinaryUser();
    writeFileSync(
      join(user.home, "forking.json"),
      JSON.stringify({ version: 1, extends: "strict", process: { fork: true, threads: 3 } }),
    );
    const explained = await user.cli("policy", "explain", "./forking.json");
    expect(explained.stderr).toBe("");
    const hasNamespaces = /namespaces +limited: a root, processes/.test(explained.stdout);
    if (skipUnless(hasNamespaces, "namespaces", "an ordinary user's processes of its own")) return;
    writeFileSync(
      join(user.home, "forks.py"),
      `
import os
children = []
try:
    while len(children) < 9:
        child = os.fork()
        if child == 0:
            os.read(0, 1)
            os._exit(0)
        children.append(child)
except BlockingIOError:
    pass
print(os.getpid(), children, flush=True)
`,
    );
    const { stdout, stderr } = await user.cli("run", "--policy", "./forking.json", "forks.py");
    expect({ stdout, stderr }).toEqual({ stdout: "2 [3, 4]\n", stderr: "" }); // with itself three
  },
);

test.if(isRoot)("what is written beside a script below /tmp is refused, not lost", async () => {
  await using user = ordinaryUser(); // at home below /tmp
  const script = `
import os, tempfile
for path in (os.path.join(os.path.dirname(os.path.abspath(__file__)), "beside"), "here", "/tmp/free", os.path.join(tempfile.gettempdir(), "own")):
    try:
        open(path, "w").close()
        print("written")
    except OSError as error:
        print("refused")
print(open(__file__).readline() == "\\n")
`;
  writeFileSync(join(user.home, "writes.py"), script);
  const { stdout, stderr } = await user.cli("run", "writes.py");
  expect({ stdout, stderr }).toEqual({ stdout: "refused\nrefused\nwritten\nwritten\nTrue\n", stderr: "" });
});

test.if(isRoot)("relative and foreign XDG folders are not used", async () => {
  await using user = ordinaryUser({ XDG_RUNTIME_DIR: "/run", XDG_STATE_HOME: "relative" });
  const { stderr, status } = await user.cli("status");
  expect(status).toBeGreaterThan(0);
  expect(stderr).toContain("/run/ipcctl");
  expect(existsSync(join(user.home, "relative"))).toBe(false);
  expect(existsSync("/run/ipcctl/ipcctl.sock") && statSync("/run/ipcctl").uid === NOBODY).toBe(false);
});

test.if(isRoot)("a run begins also where one may make temporary folders and not see others", async () => {
  await using user = ordinaryUser();
  const closed = join(user.home, "closed");
  mkdirSync(closed);
  chownSync(closed, NOBODY, NOBODY);
  chmodSync(closed, 0o300);
  user.env.TMPDIR = closed;
  expect(await user.cli("run", "-c", "print(1)")).toMatchObject({ status: 0, stdout: "1\n", stderr: "" });
});

test.if(isRoot)("what a worker has closed, or names, ends nothing but itself", async () => {
  await using user = ordinaryUser();
  const out = join(user.home, "out");
  mkdirSync(out);
  chownSync(out, NOBODY, NOBODY);
  const closer = `import os\nos.makedirs("${out}/sub/.git")\nos.chmod("${out}/sub", 0o400)\n`;
  writeFileSync(join(user.home, "closer.py"), closer);
  const grant = ["--policy", "strict", "--allow-write", out];
  expect(await user.cli("start", "closer.py", "--restart", "no", ...grant)).toMatchObject({ status: 0 });
  const made = async (): Promise<string> => (await user.cli("audit", "closer", "--json")).stdout;
  await waitUntil(async () => (await made()).includes(`"${out}/sub/.git"`), "what it has made is told");
  const state = async (): Promise<string> => JSON.parse((await user.cli("status", "--json")).stdout)[0].state;
  await waitUntil(async () => (await state()) === "Stopped", "it has ended");
  expect(await user.cli("delete", "closer")).toMatchObject({ status: 0 });
  // It could open it again, and then write there.
  const again = await user.cli("run", ...grant, "-c", "pass");
  expect(again).toMatchObject({ status: 0, stderr: expect.stringContaining(`${out}: not all of it can be looked`) });

  // So may its own folder be, where that is on the machine's disk.
  const own = JSON.stringify({ version: 1, extends: "read-only", files: { metadata: "allow" } });
  const shuts = "import os, sys\nos.chdir(os.environ['TMPDIR'])\nos.makedirs('a/b')\nos.chmod('a', 0)\nsys.exit(3)";
  const shut = await user.cli("run", "--policy", own, "-c", shuts);
  expect(shut).toEqual({ status: 3, stdout: "", stderr: "" });
  writeFileSync(join(user.home, "shuts.py"), shuts);
  expect(await user.cli("start", "shuts.py", "--restart", "no", "--policy", own)).toMatchObject({ status: 0 });
  await waitUntil(async () => (await state()) === "Stopped", "it has ended");
  expect(await user.cli("delete", "shuts")).toMatchObject({ status: 0 });
  const workers = join(user.home, ".local/state/ipcctl/workers");
  expect(readdirSync(workers)).toEqual([]);

  const words = "import os, sys\nos.write(198, sys.argv[1].encode())\nsys.exit(3)";
  for (const path of ["/root/secret", `/${"a".repeat(5000)}`, "/etc/passwd/x"]) {
    const said = `[Errno 13] Permission denied: '${path}'`;
    const { status, stderr } = await user.cli("run", "--policy", "read-only", "-c", words, "--", said);
    expect({ path, status, stderr }).toEqual({ path, status: 3, stderr: "" });
  }
});
