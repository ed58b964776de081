/** The command `ipc` beside a program that asks the host itself: both at once, as one worker. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { Ipcctl } from "ipcctl";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { COMMAND_PROTOCOL } from "../../contract/shim.ts";
import { limit } from "../../src/base/limits.ts";
import { ROOT, waitUntil } from "../home.ts";
import { recordsOf } from "./asking.ts";
import { openSlowHome, startShell, type SlowHome } from "./slow-plugin.ts";

const ROUTER = "host-router";
let scene: SlowHome;
let { home, ipc, folder, slow } = {} as SlowHome;

beforeAll(async () => {
  scene = await openSlowHome();
  ({ home, ipc, folder, slow } = scene);
});
afterAll(async () => {
  ipc[Symbol.dispose](); // one that a test has opened anew
  await scene[Symbol.asyncDispose]();
});

const HEAD = `import json, os, socket, subprocess, threading, time
from ipcctl import host
def ipc(*words):
    done = subprocess.run(["ipc", *words], capture_output=True, text=True)
    return json.loads(done.stdout or done.stderr)
def begin(*words):
    return subprocess.Popen(["ipc", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
def await_file(name):
    while not os.path.exists(name): time.sleep(0.01)
`;

const begin = (name: string, text: string, more: object = {}, interpreter = "python3"): Promise<void> =>
  startShell(scene, name, text, {
    interpreter,
    policy: { limits: { openFiles: 512 }, host: { tools: ["echo.*", "slow.*"] }, ...more },
  });

/** What it prints until its end. */
async function run(...[name, ...more]: Parameters<typeof begin>): Promise<string[]> {
  await begin(name, ...more);
  await ended(name);
  expect(await home.errorLines(name)).toEqual([]);
  return await home.lines(name);
}

const ended = (name: string): Promise<void> =>
  waitUntil(async () => (await ipc.status(name)).state === "Stopped", `${name} has ended`);
const killRouter = async (): Promise<void> => void process.kill((await ipc.status(ROUTER)).pid!, "SIGKILL");

test.each<[string, Record<string, object>]>([
  ["without a socket", {}],
  ["with sockets by their paths", { isolation: { want: [] }, network: { mode: "none", unix: "any" } }],
  ["in a root of its own, with sockets", { network: { mode: "none", unix: "any" } }],
  ["with a network", { network: { mode: "any" } }],
  ["with nothing recorded", { audit: { denied: false } }],
])("%s both ask as one worker: its session, its rates, its audit", async (what, more) => {
  const name = what.replaceAll(/\W/g, "-");
  const asIt = more.isolation === undefined ? {} : { process: { exec: true, fork: true, uid: "keep" } };
  const output = await run(
    name,
    `${HEAD}
mine, its = host.call("core.get_session_info"), ipc("call", "core.get_session_info")
print([mine[key] == its[key] for key in ("worker", "session", "group", "opened_at")])
print([host.call("echo.echo", value=1), ipc("call", "echo.echo", '{"value":2}'), host.call("echo.echo", value=3)])
print(ipc("call", "echo.echo", '{"value":4}'))
try: host.call("echo.echo", value=5)
except host.HostError as error: print(error.code)
print(ipc("call", "echo.echo", '{"value":6}')["error"]["code"])
`,
    { ...more, ...asIt, host: { tools: ["echo.*"], rate: { "echo.echo": "4/h" } } },
  );
  expect(output).toEqual([
    ...["[True, True, True, True]", "[{'value': 1}, {'value': 2}, {'value': 3}]"],
    ...["{'value': 4}", "RATE_LIMITED", "RATE_LIMITED"],
  ]);
  const records = recordsOf(home).filter(({ worker, event }) => worker === name && event === "tool");
  expect(new Set(records.map(({ session }) => session)).size).toBe(1);
  const calls = records.filter(({ tool }) => tool === "echo.echo");
  const byCommand = ({ correlation }: Record<string, unknown>): boolean => String(correlation).startsWith("ipc-");
  expect(calls.map((call) => `${(call.code as string | undefined) ?? "done"} ${byCommand(call)}`)).toEqual([
    ...["done false", "done true", "done false", "done true", "RATE_LIMITED false", "RATE_LIMITED true"],
  ]);
  expect(new Set(calls.map(({ correlation }) => correlation)).size).toBe(calls.length);
});

test("100 at once, and the program all the time: each has its own answer", async () => {
  const output = await run(
    "hundred",
    `${HEAD}
wrong, count, over = 0, 0, threading.Event()
def ask():
    global wrong, count
    while not over.is_set():
        wrong += host.call("echo.echo", value=["own", count]) != {"value": ["own", count]}
        count += 1
thread = threading.Thread(target=ask)
thread.start()
all = [begin("call", "echo.echo", json.dumps({"value": n})) for n in range(100)]
got = [json.loads(one.communicate()[0]) for one in all]
over.set()
thread.join()
print(wrong, count > 100, [n for n in range(100) if got[n] != {"value": n}])
`,
    { limits: { openFiles: 512, pids: 400 }, process: { exec: true, fork: true, threads: 400 } },
  );
  expect(output).toEqual(["0 True []"]);
}, 60_000);

test("from TypeScript, too", async () => {
  const output = await run(
    "typed",
    `import { host } from ${JSON.stringify(join(ROOT, "src/index.ts"))};
import { spawn } from "node:child_process";
const ask = (value) => new Promise((done) => {
  const child = spawn("ipc", ["call", "echo.echo", JSON.stringify({ value })]);
  child.stdout.on("data", (data) => done(JSON.parse(data)));
  child.stderr.on("data", (data) => done(String(data)));
});
const values = Array.from({ length: 10 }, (_, value) => value);
const got = await Promise.all(values.flatMap((value) => [ask(value), host.call("echo.echo", { value })]));
console.log(JSON.stringify(got.map(({ value }) => value)));
`,
    {
      files: { read: [ROOT, folder], exec: ["/usr/bin", "/bin"] },
      ...{ process: { exec: true, fork: true, procfs: "self" }, limits: { memory: "2G" } },
    },
    process.execPath,
  );
  expect(output).toEqual([JSON.stringify(Array.from({ length: 20 }, (_, at) => at >> 1))]);
});

test("kill -9 of a command, of the router and of the worker: the others go on, or are given up", async () => {
  const text = `${HEAD}
got = []
own = threading.Thread(target=lambda: got.append(host.call("slow.gate")))
own.start()
first, second = begin("call", "slow.gate"), begin("call", "slow.gate")
await_file("kill")
first.kill()
print(first.wait())
print("second", second.communicate()[0].strip())
own.join()
print("own", got[0])
`;
  await begin("killed", text);
  await waitUntil(() => slow.effects("gate") === 3, "all three were begun");
  process.kill((await ipc.status("killed")).pid!, "SIGKILL");
  await waitUntil(() => slow.effects("aborted gate") === 3, "all three were given up");
  await begin("goes-on", text);
  await waitUntil(() => slow.effects("gate") === 6, "all three were begun");
  writeFileSync(join(folder, "kill"), "");
  await waitUntil(() => slow.effects("aborted gate") === 4, "that of the command was given up, and no other");
  await killRouter();
  await waitUntil(() => slow.effects("gate") === 8, "two were repeated to the next router");
  slow.open("gate");
  await ended("goes-on");
  expect((await home.lines("goes-on")).toSorted()).toEqual(["-9", "own {'done': 'gate'}", 'second {"done":"gate"}']);
  expect(await home.errorLines("goes-on")).toEqual([]);
}, 60_000);

test("kill -9 of the daemon: what has a channel goes on, and a command that comes waits for the next daemon", async () => {
  await begin(
    "orphan",
    `${HEAD}
print(host.call("echo.echo", value=1))
await_file("killed")
print(host.call("echo.echo", value=2))
waits = begin("call", "echo.echo", '{"value":3}')
try: waits.wait(0.3)
except subprocess.TimeoutExpired: print("waits")
print(waits.communicate()[0].strip())
`,
  );
  await waitUntil(async () => (await home.lines("orphan")).length === 1, "it has its channel");
  await home.killDaemon();
  writeFileSync(join(folder, "killed"), "");
  const log = join(home.paths.workersDir, "orphan", "logs", "0000000001.log"); // to ask for it would start a daemon
  await waitUntil(() => readFileSync(log, "utf8").includes(" waits\n"), "the command waits");
  ipc[Symbol.dispose]();
  ipc = new Ipcctl(await home.connect());
  await ended("orphan");
  expect(await home.lines("orphan")).toEqual(["{'value': 1}", "{'value': 2}", "waits", '{"value":3}']);
}, 60_000);

test("hostCommands: as many ask at once, the next one waits, and the program does not", async () => {
  const most = limit("hostCommands");
  await begin(
    "many",
    `${HEAD}
all = [begin("call", "slow.gate_once") for _ in range(${most})]
await_file("begun")
print(ipc("--deadline", "0.5", "call", "echo.echo", '{"value":1}')["error"])
print(host.call("echo.echo", value=2))
waits = begin("call", "echo.echo", '{"value":3}')
all[0].kill()
print(waits.communicate()[0].strip())
await_file("open")
print({one.communicate()[0].strip() for one in all[1:]})
`,
  );
  await waitUntil(() => slow.effects("gate_once") === most, "all were begun");
  writeFileSync(join(folder, "begun"), "");
  await waitUntil(async () => (await home.lines("many")).length === 3, "another one had its turn");
  slow.open("gate_once");
  writeFileSync(join(folder, "open"), "");
  await ended("many");
  const [late, ...rest] = await home.lines("many");
  expect(late).toContain("PLUGIN_UNAVAILABLE");
  expect(late).toContain(`${most} commands`);
  expect(rest).toEqual(["{'value': 2}", '{"value":3}', `{'{"done":"gate_once"}'}`]);
}, 60_000);

/** Of a process and its children. */
function descriptorsOf(pid: number): number {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim().split(" ");
  const own = readFileSync(`/proc/${pid}/stat`, "utf8").split(" ")[0]!;
  return [own, ...children.filter((child) => child !== "")].reduce(
    (sum, one) => sum + readdirSync(`/proc/${one}/fd`).length,
    0,
  );
}
const parentOf = (pid: number): number =>
  Number(/^PPid:\t(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))![1]);

test("a program that writes garbage to both harms only itself, and leaves no descriptor", async () => {
  await begin(
    "bystander",
    `${HEAD}
await_file("stormed")
print(host.call("echo.echo", value=1), ipc("call", "echo.echo", '{"value":2}'))
`,
  );
  await begin(
    "hostile",
    `${HEAD}
import array, mmap, random
def door():
    while True:
        try: return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, ${COMMAND_PROTOCOL})
        except BlockingIOError: time.sleep(0.001)
def channel():
    while True:
        with door() as one:
            one.settimeout(5)
            try: data, ancillary, _, _ = one.recvmsg(256, 256)
            except OSError: continue
            if ancillary: return array.array("i", ancillary[0][2]).tolist()
print(host.call("echo.echo", value=0))
await_file("begin")
for n in range(300):
    with door() as one:
        try: one.send(os.urandom(n % 100))
        except OSError: pass
for n in range(100):
    fds = channel()
    with mmap.mmap(fds[0], 0) as memory:
        at = 0 if n % 2 else random.randrange(len(memory) // 2)
        memory[at : at + 4096] = os.urandom(4096)
    for fd in fds[1:]:
        try: os.write(fd, os.urandom(100))
        except OSError: pass
    for fd in fds: os.close(fd)
held = [channel() for _ in range(${limit("hostCommands")})]
print(host.call("echo.echo", value=1))
open("/tmp/full", "w").close()
for fds in held:
    for fd in fds: os.close(fd)
print(ipc("call", "echo.echo", '{"value":2}'), host.call("echo.echo", value=3))
await_file("end")
`,
  );
  const lines = (name: string): Promise<string[]> => home.lines(name);
  await waitUntil(async () => (await lines("hostile")).length === 1, "it has its channel");
  const shim = parentOf((await ipc.status("hostile")).pid!);
  const router = (await ipc.status(ROUTER)).pid!;
  const before = [descriptorsOf(shim), descriptorsOf(router)];
  writeFileSync(join(folder, "begin"), "");
  await waitUntil(async () => (await lines("hostile")).length === 3, "it has done its worst", 60_000);
  expect((await lines("hostile")).slice(1)).toEqual(["{'value': 1}", "{'value': 2} {'value': 3}"]);
  await waitUntil(() => descriptorsOf(shim) === before[0] && descriptorsOf(router) === before[1], "all are closed");
  expect((await ipc.status(ROUTER)).pid).toBe(router);
  writeFileSync(join(folder, "stormed"), "");
  await ended("bystander");
  expect(await lines("bystander")).toEqual(["{'value': 1} {'value': 2}"]);
  writeFileSync(join(folder, "end"), "");
  await ended("hostile");
}, 120_000);
