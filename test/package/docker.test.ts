/**
 * The image that the Dockerfile makes, built and run without an engine. Its two bases are stand-ins: Debian of the same
 * release, with the Node and the Python that those have, under their names.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { ROOT } from "../home.ts";
import { environment, hasTool, isRoot, skipUnless } from "../needs.ts";
import { installNode } from "../node.ts";
import { runCommand } from "./installed.ts";

const COMMAND_MS = 900_000;
const BASES = ["node:22-bookworm-slim", "python:3.11-slim-bookworm"];
const PACKAGES = ["binutils", "ca-certificates", "gcc", "libc6-dev", "python3", "python3-dev"];
const CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt";

const node = await installNode();
const has = async (tool: string): Promise<boolean> => isRoot && (await hasTool(tool, tool));
const isThere =
  !skipUnless(isRoot, "root", "the image") &&
  !skipUnless(await has("buildah"), "buildah", "the image") &&
  !skipUnless(await has("mmdebstrap"), "mmdebstrap", "the image") &&
  !skipUnless(node !== undefined, "Node 22", "the image");

const dir = mkdtempSync(join(tmpdir(), "ipcctl-image-"));
const env = { ...environment, STORAGE_DRIVER: "vfs", BUILDAH_ISOLATION: "chroot" };

async function run(...command: string[]): Promise<string> {
  const { status, stdout, stderr } = await runCommand(command, { cwd: ROOT, env }, COMMAND_MS);
  if (status !== 0)
    throw new Error(`${command.join(" ")}: exit ${status}: ${stdout.slice(-2000)}${stderr.slice(-2000)}`);
  return stdout.trim();
}

const buildah = (...args: string[]): Promise<string> =>
  run("buildah", "--root", join(dir, "store"), "--runroot", join(dir, "run"), ...args);

/** A command as the image's own user. */
const inside = (container: string, script: string): Promise<string> =>
  buildah("run", container, "--", "sh", "-euc", script);

async function makeBases(): Promise<void> {
  const base = join(dir, "base.tar");
  await run("mmdebstrap", "--quiet", "--variant=minbase", `--include=${PACKAGES.join(",")}`, "bookworm", base);
  const container = await buildah("from", "scratch");
  await buildah("add", "--quiet", container, base, "/");
  rmSync(base);
  await buildah("copy", "--quiet", container, node!, "/usr/local/bin/node");
  const npm = dirname(dirname(await run("readlink", "-f", Bun.which("npm")!)));
  await buildah("copy", "--quiet", container, npm, "/usr/local/lib/node_modules/npm");
  await inside(container, "ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm");
  // What this machine trusts: it may reach the registries only by way of somebody who answers for them.
  if (existsSync(CERTIFICATES)) await buildah("copy", "--quiet", container, CERTIFICATES, CERTIFICATES);
  await buildah("config", "--env", `NODE_EXTRA_CA_CERTS=${CERTIFICATES}`, container);
  await buildah("config", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", container);
  const image = await buildah("commit", "--quiet", "--rm", container);
  for (const name of BASES) await buildah("tag", image, `localhost/${name}`);
}

beforeAll(async () => {
  if (isThere) await makeBases();
});
afterAll(async () => {
  if (isThere) await buildah("rm", "--all");
  rmSync(dir, { recursive: true, force: true });
});

let made: Promise<unknown> | undefined;
/** The image of the checkout, made once. */
const makeImage = (): Promise<unknown> =>
  (made ??= buildah("bud", "--quiet", "--format", "docker", "--pull=never", "--tag", "ipcctl", "."));

/** One that nobody has at the moment: containers here share the network of the machine. */
function freePort(): number {
  const server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => undefined } });
  server.stop(true);
  return server.port;
}

test.if(isThere)(
  "an image on top of it, as docs/docker.md makes one, serves, stops in time, and ends as its worker does",
  async () => {
    await makeImage();
    const port = freePort();
    const page = readFileSync(join(ROOT, "docs/docker.md"), "utf8").replaceAll("8080", String(port));
    const block = (language: string): string => new RegExp(`\`\`\`${language}\\n([^]*?)\`\`\``).exec(page)![1]!;
    const context = join(dir, "context");
    mkdirSync(context);
    for (const [name, language] of [
      ["Dockerfile", "dockerfile"],
      ["ipcctl.json", "json"],
      ["worker.py", "python"],
    ] as const)
      writeFileSync(join(context, name), block(language));
    await buildah("bud", "--quiet", "--pull=never", "--tag", "service", context);
    const container = await buildah("from", "--pull=never", "localhost/service");
    const [, command] = /^CMD (.*)$/m.exec(block("dockerfile"))!;
    const main = (JSON.parse(command!) as string[]).join(" ");
    const said = await inside(
      container,
      `
${main} >daemon.log 2>&1 &
daemon=$!
until python3 -c 'import urllib.request as r; r.urlopen("http://127.0.0.1:${port}").read()' 2>/dev/null; do kill -0 $daemon || exit 1; done
ipcctl status 2>/dev/null | tail -n 1 | sed 's/  */ /g' | cut -d ' ' -f 1,2
ipcctl logs -n 100 web 2>&1 | grep -c 'GET / ' || true
kill -TERM $daemon
wait $daemon && echo "ended $?" || echo "ended $?"
${main} >daemon.log 2>&1 &
daemon=$!
until ipcctl --no-autostart status 2>/dev/null | grep -q running; do kill -0 $daemon || exit 1; done
ipcctl signal web KILL >/dev/null
wait $daemon && echo "ended $?" || echo "ended $?"
`,
    );
    expect(said.split("\n")).toEqual(["web running", "1", "ended 0", "ended 137"]);
  },
);

test.if(isThere)(
  "the image runs workers, confined and not, as an ordinary user, and says truly whether it is healthy",
  async () => {
    await makeImage();
    const { Docker: image } = JSON.parse(await buildah("inspect", "--type", "image", "ipcctl")) as {
      Docker: { config: { StopSignal: string; User: string; Cmd: string[]; Healthcheck: { Test: string[] } } };
    };
    const { StopSignal, User, Cmd, Healthcheck } = image.config;
    expect({ StopSignal, User, Cmd }).toEqual({
      StopSignal: "SIGTERM",
      User: "worker",
      Cmd: ["ipcctl", "daemon", "--stop-workers"],
    });
    const [kind, health] = Healthcheck.Test as [string, string];
    expect(kind).toBe("CMD-SHELL");
    const container = await buildah("from", "--pull=never", "localhost/ipcctl");
    const said = await inside(
      container,
      `
healthy() { if ( ${health} ) >/dev/null 2>&1; then echo healthy; else echo sick; fi; }
id -un
pwd
healthy
${Cmd.join(" ")} >daemon.log 2>&1 &
daemon=$!
until ipcctl --no-autostart status >/dev/null 2>&1; do kill -0 "$daemon" || exit 1; done
healthy
printf 'import ipcctl\\n@ipcctl.expose\\ndef add(a, b): return a + b\\nprint("up", flush=True)\\nipcctl.serve()\\n' >worker.py
ipcctl start worker.py 2>/dev/null | cut -d ' ' -f 1,2
ipcctl call worker add 2 3
ipcctl eval worker 'type(__import__("sys").modules["ipcctl._ipcctl"]).__name__'
ipcctl run -c 'print(6 * 7)' 2>/dev/null
ipcctl logs worker
ipcctl doctor | grep -c ^FAIL || true
kill -${StopSignal.replace("SIG", "")} "$daemon"
wait "$daemon" || true
healthy
`,
    );
    expect(said.split("\n")).toEqual([
      ...["worker", "/home/worker", "sick", "healthy", "started worker", "5", "'module'", "42", "up", "0", "sick"],
    ]);

    // A user that the image does not know, as docs/docker.md says.
    const flags = /docker run --user (\d+) -e (\S+=\S+)`/.exec(readFileSync(join(ROOT, "docs/docker.md"), "utf8"))!;
    const other = await buildah(
      ...["run", "--user", flags[1]!, "--env", flags[2]!, container, "--", "sh", "-euc"],
      "ipcctl start --command 'sleep 100' --name nap >/tmp/said; ipcctl run -c 'print(7)' 2>/dev/null; ipcctl daemon stop",
    );
    expect(other).toBe("7\ndaemon and workers stopped");
  },
);
