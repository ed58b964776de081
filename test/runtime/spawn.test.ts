/** A worker that a program owns, without a daemon. */
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { limit } from "../../src/base/limits.ts";
import { IpcError, spawnPython } from "../../src/index.ts";
import { whileItBegins } from "../../src/runtime/spawn.ts";
import { isAlive, ROOT, waitUntil, within } from "../home.ts";

const folder = mkdtempSync(join(tmpdir(), "ipcctl-test-"));
process.env.IPCCTL_HOME = join(folder, "home");
process.env.TMPDIR = join(folder);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const script = join(folder, "worker.py");
writeFileSync(
  script,
  `
import os, signal, socket, subprocess, sys, time
import ipcctl

@ipcctl.expose
def add(a, b): return a + b

@ipcctl.expose
def pids(): return [os.getpid(), subprocess.Popen(["sleep", "1000"]).pid]

@ipcctl.expose
def dial():
    socket.create_connection(("127.0.0.1", 80), 1)

@ipcctl.expose
def leave_channel():
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"): os.close(int(fd))
        except OSError: pass
    time.sleep(1000)

@ipcctl.expose
def say(text):
    print(text)
    print("!", text, file=sys.stderr)

@ipcctl.expose
def arguments(): return [sys.argv[1:], os.environ.get("COLOUR"), os.getcwd()]

@ipcctl.expose
def end(status): os._exit(status)

@ipcctl.expose
def leave_shim():
    seen, told = os.pipe()
    if os.fork() == 0:
        os.setsid()
        os.write(told, b"%d" % os.getpid())
        time.sleep(1000)
    with open("left", "wb") as file: file.write(os.read(seen, 16))
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1000)

@ipcctl.expose
def refuse(): signal.signal(signal.SIGTERM, signal.SIG_IGN)

ipcctl.serve()
`,
);

const runFolders = (): string[] => readdirSync(folder).filter((name) => name.startsWith("ipcctl-run-"));

test("it is called, confined and shown, and nothing of it is left when it is disposed", async () => {
  const shown: string[] = [];
  const long = `\ufeff${"é€😀".repeat(limit("pieceBytes") / 6)}`; // some pieces, whose borders are inside of characters
  let pids: number[];
  {
    await using py = await spawnPython(script, {
      args: ["one", "two"],
      env: { COLOUR: "red" },
      cwd: folder,
      onOutput: (stream, text) => shown.push(`${stream}: ${text}`),
    });
    expect(await py.call("add", 2, 3)).toBe(5);
    expect(await py.call("arguments")).toEqual([["one", "two"], "red", folder]);
    const denied: unknown = await py.call("dial").catch((error: unknown) => error);
    expect(String(denied)).toMatch(/PermissionError/);
    await py.call("say", "hello");
    await py.call("say", long);
    pids = await py.call("pids");
    expect(pids.every(isAlive)).toBe(true);
    expect(runFolders()).toHaveLength(1);
  }
  expect(pids.some(isAlive)).toBe(false);
  expect(runFolders()).toEqual([]);
  const all = (stream: string): string =>
    shown.flatMap((one) => (one.startsWith(stream) ? one.slice(stream.length) : [])).join("");
  expect(all("stderr: ") === `! hello\n! ${long}\n`).toBe(true);
  expect(all("stdout: ") === `hello\n${long}\n`).toBe(true);
  expect(shown.length).toBeGreaterThan(4);
});

test("what it cannot be started with is said as a start says it", async () => {
  const codeOf = (act: Promise<unknown>): Promise<unknown> =>
    act.catch((error: unknown) => (error instanceof IpcError ? error.code : error));
  expect(await codeOf(spawnPython(join(folder, "nowhere.py")))).toBe("NOT_FOUND");
  expect(await codeOf(spawnPython(script, { policy: "nowhere" }))).toBe("POLICY_REFUSED");
  writeFileSync(join(folder, "broken.py"), "import nowhere_to_be_found\n");
  expect(await codeOf(spawnPython(join(folder, "broken.py"), { onOutput: () => undefined }))).toBe("WORKER_CRASHED");
  expect(runFolders()).toEqual([]);
  const { IPCCTL_HOME: home, TMPDIR: temporary } = process.env;
  for (const [variable, was] of [
    ["IPCCTL_HOME", home],
    ["TMPDIR", temporary],
  ] as const) {
    process.env[variable] = join(script, "below a file");
    const error: unknown = await spawnPython(script).catch((one: unknown) => one);
    process.env[variable] = was;
    expect(error).toMatchObject({ code: "FAILED", message: expect.stringMatching(/^spawnPython: ENOTDIR/) });
    expect((error as IpcError).hint).toContain(variable);
  }
});

test("its end is what calls that are under way reject with", async () => {
  await using py = await spawnPython(script, { policy: "trusted" });
  const [gone] = await Promise.allSettled([py.call("end", 3)]);
  expect(gone).toMatchObject({ status: "rejected", reason: { code: "WORKER_CRASHED" } });
  const [later] = await Promise.allSettled([py.call("add", 1, 2)]);
  expect(later).toMatchObject({ status: "rejected", reason: { code: "WORKER_CRASHED" } });
});

test("ten at once", async () => {
  const all = await Promise.all(Array.from({ length: 10 }, () => spawnPython(script)));
  expect(await Promise.all(all.map((py, at) => py.call("add", at, 1)))).toEqual(all.map((_, at) => at + 1));
  await Promise.all(all.map((py) => py[Symbol.asyncDispose]()));
  expect(runFolders()).toEqual([]);
});

test("a program that is killed takes its worker along, whatever that has begun", async () => {
  const program = join(folder, "owner.ts");
  writeFileSync(
    program,
    `import { spawnPython } from ${JSON.stringify(join(ROOT, "src/index.ts"))};
const py = await spawnPython(${JSON.stringify(script)});
console.log(JSON.stringify(await py.call("pids")));
await new Promise(() => setInterval(() => undefined, 1000));`,
  );
  const owner = Bun.spawn([process.execPath, "--no-env-file", program], { stdio: ["ignore", "pipe", "inherit"] });
  const { value } = await within(30_000, "the worker's processes", owner.stdout.getReader().read());
  const pids = JSON.parse(Buffer.from(value!).toString()) as number[];
  expect(pids.every(isAlive)).toBe(true);
  const shims = pids.map((pid) => Number(/^PPid:\s*(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))![1]));
  owner.kill("SIGKILL");
  await waitUntil(() => ![...pids, shims[0]!].some(isAlive), "the worker, what it has begun and its shim are gone");
  // Its folder is taken away by the next one.
  const py = await within(30_000, "the next worker", spawnPython(script));
  expect(await within(30_000, "its answer", py.call("add", 1, 1))).toBe(2);
  await within(30_000, "its end", py[Symbol.asyncDispose]());
});

const failure = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => undefined,
    (error: unknown) => error,
  );

test("what a worker has begun whose shim is killed ends with it", async () => {
  const own = await spawnPython(script, { policy: "trusted", cwd: folder });
  const error = (await own.call("leave_shim").catch((one: unknown) => one)) as IpcError;
  expect(error.code).toBe("START_FAILED");
  const left = Number(readFileSync(join(folder, "left"), "utf8"));
  await own[Symbol.asyncDispose]();
  expect(isAlive(left)).toBe(false);
  expect(runFolders()).toEqual([]);
});

test("a socket that is there before its shim listens is tried again, and an end is seen", async () => {
  const refused = new IpcError("NOT_RUNNING", "refused");
  let tries = 0;
  const begin = (over: Partial<Parameters<typeof whileItBegins>[0]>): Promise<void> => {
    tries = 0;
    const attach = async (): Promise<void> => {
      if (++tries < 4) throw refused;
    };
    const deadline = performance.now() + 60_000;
    const all = { isThere: () => true, attach, isOver: () => false, deadline, ...over };
    return within(30_000, "the first channel", whileItBegins(all));
  };
  await begin({});
  expect(tries).toBe(4);
  expect(await failure(begin({ isOver: () => tries > 0 }))).toBe(refused);
  expect(tries).toBe(2);
  expect(await failure(begin({ deadline: 0 }))).toBe(refused);
  expect(await failure(begin({ isThere: () => false, isOver: () => true }))).toBe(refused);
  const lost = new IpcError("CONNECTION_LOST", "lost");
  expect(await failure(begin({ attach: () => Promise.reject(lost) }))).toBe(lost);
});

test("a call rejects when the worker closes its channel and goes on", async () => {
  await using py = await spawnPython(script);
  const error = await within(30_000, "the call's end", failure(py.call("leave_channel")));
  expect((error as IpcError).code).toBe("CONNECTION_LOST");
});
