/** How a worker waits: its rules in C and in Python by one script, then counts of what real ones do. */
import { afterAll, beforeAll, expect, spyOn, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Ipcctl, type PythonWorker } from "ipcctl";
import { busyPoll } from "../../src/plane/busy-poll.ts";
import { Sharing } from "../../src/plane/sharing.ts";
import { Home, outcomeOf, ROOT, waitUntil, workerPrelude } from "../home.ts";

const PRELUDE = workerPrelude();
const folder = mkdtempSync(join(tmpdir(), "ipcctl-busy-poll-"));
const binary = join(folder, "busy-poll-peer");
const PEERS: Record<string, string[]> = {
  C: [binary],
  Python: ["python3", join(import.meta.dir, "peers/busy_poll_peer.py"), join(ROOT, "python")],
};

beforeAll(() => {
  const sources = ["native/fuzz/busy_poll_peer.c", "native/python/busy_poll.c"].map((path) => join(ROOT, path));
  const flags = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined"];
  const { stderr, exitCode } = Bun.spawnSync(["cc", ...flags, "-o", binary, ...sources]);
  expect(`${exitCode} ${stderr.toString()}`).toBe("0 ");
});
afterAll(() => rmSync(folder, { recursive: true }));

/** Lines for a peer, each with what it is to print. Times in µs. */
type Script = (readonly [line: string, printed: string])[];
const [IDLE, UNKNOWN, BUSY] = [1, 0, -1];
const rest = (us: number, here: number, load: number): string => `rest ${us * 1000} ${here} ${load}`;
const slept = (us: number): string => `slept ${us * 1000}`;

const SCRIPTS: Record<string, Script> = {
  "the first wait, and those after a long rest, are sleep": [
    [rest(1000, 1, IDLE), "sleep 0 0"],
    [slept(1200), "- 0 0"],
    [rest(1300, 1, IDLE), "sleep 0 0"],
  ],
  "after a short rest it looks, and goes on while that pays": [
    [rest(1000, 1, IDLE), "sleep 0 0"],
    [slept(1050), "- 0 0"],
    ["from 2 1", "- 0 0"],
    [rest(1060, 1, IDLE), "look 0 0"],
    ["found 0", "- 0 0"],
    [rest(1070, 1, BUSY), "look 0 0"],
  ],
  "each miss doubles the rests before the next look, up to a limit; what was found wipes them out": [
    [rest(1000, 1, BUSY), "sleep 0 0"],
    [slept(1050), "- 0 0"],
    ["missed", "- 1 1"],
    [rest(1060, 1, BUSY), "sleep 0 1"],
    [rest(1070, 1, BUSY), "look 0 1"],
    ["missed", "- 3 2"],
    ["missed", "- 7 3"],
    ["missed", "- 15 4"],
    ["missed", "- 31 5"],
    ["missed", "- 63 6"],
    ["missed", "- 127 7"],
    ["missed", "- 255 8"],
    ["missed", "- 255 8"],
    ["found 1", "- 255 8"], // found, but only after we were off the core
    ["found 0", "- 255 0"],
  ],
  "on the client's core it does not look where no core is free": [
    [rest(1000, 3, BUSY), "sleep 0 0"],
    [slept(1050), "- 0 0"],
    ["from 3 1", "- 0 0"],
    [rest(1060, 3, BUSY), "sleep 1 1"],
  ],
  "on the client's core it leaves where one is free, but not all the time": [
    [rest(1000, 3, IDLE), "sleep 0 0"],
    [slept(1050), "- 0 0"],
    ["from 3 1", "- 0 0"],
    [rest(1060, 3, IDLE), "part 0 0"],
    [rest(1070, 3, IDLE), "sleep 1 1"],
    ["found 0", "- 1 0"],
    [rest(3000, 3, IDLE), "sleep 0 0"],
    [rest(3060, 3, IDLE), "part 0 0"],
  ],
  "where nothing is known of the machine it guesses a few times": [
    [rest(1000, 3, UNKNOWN), "sleep 0 0"],
    [slept(1050), "- 0 0"],
    ["from 3 1", "- 0 0"],
    ...Array.from({ length: 8 }, (_, index) => [rest(10_000 * (index + 1), 3, UNKNOWN), "part 0 0"] as const),
    [rest(90_000, 3, UNKNOWN), "sleep 1 1"],
  ],
  "a rare message on a busy machine takes it to the client's core": [
    [rest(1000, 1, BUSY), "sleep 0 0"],
    [slept(4000), "- 0 0"],
    ["missed", "- 1 1"],
    ["from 2 1", "- 1 1"],
    [rest(4010, 1, BUSY), "join 0 0"],
    [slept(7000), "- 0 0"],
    ["from 2 1", "- 0 0"],
    [rest(7010, 2, BUSY), "sleep 0 0"], // it is there
    [slept(9000), "- 0 0"],
    ["from 2 5", "- 0 0"],
    [rest(9010, 1, BUSY), "sleep 0 0"], // many came
    [slept(12_000), "- 0 0"],
    ["from 2 1", "- 0 0"],
    [rest(12_010, 1, IDLE), "sleep 0 0"],
    [slept(12_900), "- 0 0"],
    ["from 0 1", "- 0 0"],
    [rest(12_910, 1, BUSY), "sleep 0 0"], // nobody knows where it is
  ],
  "it joins at most every two milliseconds, whatever the client says": [
    [rest(1000, 1, BUSY), "sleep 0 0"],
    [slept(4000), "- 0 0"],
    ["from 4294967295 1", "- 0 0"],
    [rest(4010, 1, BUSY), "join 0 0"],
    [slept(4800), "- 0 0"],
    ["from 4294967295 1", "- 0 0"],
    [rest(4810, 1, BUSY), "sleep 0 0"],
    [slept(6000), "- 0 0"],
    ["from 4294967295 1", "- 0 0"],
    [rest(6010, 1, BUSY), "join 0 0"],
  ],
};

test.each(Object.entries(SCRIPTS))("%s", (_, script) => {
  for (const [language, command] of Object.entries(PEERS)) {
    const stdin = Buffer.from(script.map(([line]) => `${line}\n`).join(""));
    const { stdout, stderr } = Bun.spawnSync(command, { stdin });
    expect(stderr.toString()).toBe("");
    const said = stdout.toString().trimEnd().split("\n");
    expect([language, ...script.map(([line], index) => `${line}: ${said[index]}`)]).toEqual([
      language,
      ...script.map(([line, printed]) => `${line}: ${printed}`),
    ]);
  }
});

const WORKER = `
import asyncio, os, threading, time
import ipcctl
from ipcctl import _backend
@ipcctl.expose
def add(a, b): return a + b
@ipcctl.expose
def waiting(): return _backend.waiting()
@ipcctl.expose
def pin(core): os.sched_setaffinity(0, {core})
@ipcctl.expose
def cores(): return sorted(os.sched_getaffinity(0))
@ipcctl.expose
def switches():
    text = open("/proc/self/status").read()
    return int(text.split("\\nvoluntary_ctxt_switches:")[1].split()[0])
@ipcctl.expose
def share():
    global held
    held = ipcctl.shared(4096)
    return held
@ipcctl.expose
def forget():
    global held
    held = None
@ipcctl.expose
def forget_later(ms):
    def later():
        time.sleep(ms / 1000)
        forget()
    threading.Thread(target=later).start()
@ipcctl.expose
async def large(size):
    await asyncio.sleep(0.05)
    return bytes(size)
ipcctl.serve()
`;
type Waiting = Record<"looks" | "found" | "sleeps" | "parted" | "joined" | "bells", number>;

async function withWorker(use: (py: PythonWorker) => Promise<void>): Promise<void> {
  await using home = new Home();
  const ipc = new Ipcctl(await home.connect());
  const py = await ipc.start(home.script("waits.py", PRELUDE + WORKER), { cwd: home.dir });
  try {
    await use(py);
  } finally {
    ipc[Symbol.dispose]();
  }
}

test("what is found by a look is not rung for, and both sides count it", () =>
  withWorker(async (py) => {
    const waits = async (): Promise<Waiting> => await py.call<Waiting>("waiting");
    const [theirs, ours] = [await waits(), { ...busyPoll.counts }];
    const CALLS = 2000;
    for (let index = 0; index < CALLS; index++) expect(await py.call("add", index, 1)).toBe(index + 1);
    const [theirsNow, oursNow] = [await waits(), { ...busyPoll.counts }];
    // Whoever slept was rung for, at most once; whoever found something was not, unless it was asleep again before the
    // sender looked.
    const LATE = CALLS / 4;
    expect(theirsNow.bells - theirs.bells).toBeLessThanOrEqual(oursNow.sleeps - ours.sleeps + LATE);
    expect(oursNow.bells - ours.bells).toBeLessThanOrEqual(theirsNow.sleeps - theirs.sleeps + LATE);
    expect(oursNow.found - ours.found + (oursNow.sleeps - ours.sleeps)).toBeGreaterThan(0);
  }));

test("memory that is let go of during a call is told of before the worker sleeps", () =>
  withWorker(async (py) => {
    const told = spyOn(Sharing.prototype, "forget");
    try {
      const shared = await py.call<Uint8Array>("share");
      expect(shared.length).toBe(4096);
      await py.call("forget");
      await waitUntil(() => told.mock.calls.length > 0, "the worker told what it let go of");
    } finally {
      told.mockRestore();
    }
  }));

test("what another thread lets go of, or cannot send at once, wakes a worker that sleeps", () =>
  withWorker(async (py) => {
    const told = spyOn(Sharing.prototype, "forget");
    try {
      await py.call("share");
      await py.call("forget_later", 200);
      await waitUntil(() => told.mock.calls.length > 0, "the worker told what it let go of");
    } finally {
      told.mockRestore();
    }
    // More than a ring holds, from the event loop's thread while the serving one sleeps.
    const sizes = [300_000, 900_000, 900_000, 900_000, 900_000];
    const answers = (await Promise.all(sizes.map((size) => py.call("large", size)))) as Uint8Array[];
    expect(answers.map(({ length }) => length)).toEqual(sizes);
  }));

const CROWD = `
import os, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}) # no room for two, on whatever machine
import ipcctl
from ipcctl import _serving
done = 0
@ipcctl.expose
def wait_for(path):
    while not os.path.exists(path): pass
@ipcctl.expose
def busy(us):
    global done
    done += 1
    end = time.monotonic_ns() + us * 1000
    while time.monotonic_ns() < end: pass
@ipcctl.expose
def count(): return done
@ipcctl.expose
def others_awake():
    channels = [one.channel for one in _serving.serving()._sessions]
    return [int.from_bytes(one.map[512 + 72:512 + 76], "little") for one in channels]
ipcctl.serve()
`;

/** Two channels to one worker, which is busy until all that `send` asks for lies in its rings. */
async function withTwo(send: (one: PythonWorker, other: PythonWorker) => Promise<void>): Promise<void> {
  await using home = new Home();
  const ipc = new Ipcctl(await home.connect());
  const one = await ipc.start(home.script("crowd.py", PRELUDE + CROWD), { cwd: home.dir });
  const other = await ipc.worker("crowd");
  const flag = join(home.dir, "flag");
  try {
    const blocked = one.call("wait_for", flag);
    const rest = send(one, other);
    writeFileSync(flag, "");
    await blocked;
    await rest;
  } finally {
    other[Symbol.dispose]();
    ipc[Symbol.dispose]();
  }
}

test.each(["calls", "code"])("a program with many %s under way does not keep others from theirs", (kind) =>
  withTwo(async (one, other) => {
    const MANY = 2000;
    const all: Promise<unknown>[] = [];
    for (let index = 0; index < MANY; index++) all.push(kind === "calls" ? one.call("busy", 20) : one.eval("busy(20)"));
    const seen = Number(await other.call("count"));
    await Promise.all(all);
    expect(seen).toBeLessThan(MANY / 4);
    expect(await other.call("count")).toBe(MANY);
  }),
);

test("where more wait than there are cores, one after the other has the worker", () =>
  withTwo(async (one, other) => {
    const busy = Array.from({ length: 10 }, () => one.call("busy", 1000));
    const seen: Promise<unknown>[] = [];
    for (let index = 0; index < 4; index++) {
      busy.push(other.call("busy", 1000));
      seen.push(other.call("others_awake"));
    }
    const words = (await Promise.all(seen)) as number[][];
    await Promise.all(busy);
    if (PRELUDE !== "") return; // each message is a turn
    expect(words.map(([first]) => first)).toContain(1); // it had its turn, and knows that others wait
    expect(await one.call("others_awake")).toEqual([0, 0]);
  }));

/**
 * A program that is on one core with its worker and with the server of a raw echo, and prints what it counted and
 * measured.
 */
const PINNED = `
import { existsSync } from "node:fs";
import { connect } from ${JSON.stringify(join(ROOT, "src/index.ts"))};
import { busyPoll } from ${JSON.stringify(join(ROOT, "src/plane/busy-poll.ts"))};
const [core, python, server, path] = process.argv.slice(2);
const ipc = await connect();
const py = await ipc.worker("waits");
await py.call("pin", Number(core));
// In a session of its own, as the worker is: the kernel shares cores out by sessions.
const echo = Bun.spawn([python, server, path], { stdio: ["ignore", "ignore", "ignore"], detached: true });
while (!existsSync(path)) await new Promise((done) => setTimeout(done, 1));
let wake;
const socket = await Bun.connect({ unix: path, socket: { data: () => wake() } });
const payload = new Uint8Array(64);
const raw = () => new Promise((resolve) => { wake = resolve; socket.write(payload); });
const call = () => py.call("add", 1, 2);
async function measure(once) {
  const found = new Float64Array(200);
  for (let index = 0; index < found.length; index++) {
    const start = Bun.nanoseconds();
    await once();
    found[index] = Bun.nanoseconds() - start;
  }
  found.sort();
  return found[100];
}
await measure(call);
await measure(raw);
const before = [await py.call("waiting"), { ...busyPoll.counts }, await py.call("switches")];
const rounds = [];
for (let round = 0; round < 9; round++) rounds.push([await measure(call), await measure(raw)]);
const after = [await py.call("waiting"), { ...busyPoll.counts }, await py.call("switches")];
console.log(JSON.stringify({ before, after, rounds }));
echo.kill();
process.exit(0);
`;
const ECHO = `
import os, socket, sys
path = sys.argv[1]
listener = socket.socket(socket.AF_UNIX); listener.bind(path + "-"); listener.listen(); os.rename(path + "-", path)
listener.settimeout(30)
peer, _ = listener.accept()
while data := peer.recv(65536): peer.sendall(data)
`;

test("on one core both sides sleep at once, and a call takes as long as a raw echo", async () => {
  await using home = new Home();
  const ipc = new Ipcctl(await home.connect());
  await ipc.start(home.script("waits.py", PRELUDE + WORKER), { cwd: home.dir });
  ipc[Symbol.dispose]();
  const core = Number(/^\d+/.exec(readFileSync("/sys/devices/system/cpu/online", "latin1"))![0]);
  const pin = `import os, sys; os.sched_setaffinity(0, {${core}}); os.execvp(sys.argv[1], sys.argv[1:])`;
  const program = [process.execPath, "--no-env-file", home.script("pinned.ts", PINNED)];
  const args = [`${core}`, "python3", home.script("echo.py", ECHO), join(home.dir, "echo.sock")];
  const child = Bun.spawn(["python3", "-c", pin, ...program, ...args], {
    env: home.env,
    stdio: ["ignore", "pipe", "pipe"],
    timeout: 50_000,
  });
  const { stdout, stderr, status } = await outcomeOf(child);
  expect(`${status} ${stderr}`).toBe("0 ");
  type Counts = [worker: Waiting, client: typeof busyPoll.counts, switches: number];
  const { before, after, rounds } = JSON.parse(stdout) as {
    before: Counts;
    after: Counts;
    rounds: [call: number, raw: number][];
  };
  const CALLS = 9 * 200;
  // Looking out keeps the other side from running: neither does, nor leaves a core that it was put on.
  expect(after[0].looks - before[0].looks).toBe(0);
  expect(after[1].looks - before[1].looks).toBe(0);
  expect([after[0].parted, after[0].joined, after[1].left]).toEqual([
    before[0].parted,
    before[0].joined,
    before[1].left,
  ]);
  // One sleep and one bell a call on either side, and no more.
  expect(after[0].sleeps - before[0].sleeps).toBeLessThanOrEqual(CALLS + 10);
  expect(after[0].bells - before[0].bells).toBeLessThanOrEqual(CALLS + 10);
  expect(after[1].bells - before[1].bells).toBeLessThanOrEqual(CALLS + 10);
  expect(after[2] - before[2]).toBeLessThanOrEqual(CALLS * 1.1);
  if (PRELUDE !== "") return; // whose interpreter takes longer than the kernel
  const ratio = rounds.map(([call, raw]) => call / raw).toSorted((a, b) => a - b)[rounds.length >> 1]!;
  console.log(`on one core a call takes ${ratio.toFixed(2)} of a raw echo`);
  expect(ratio).toBeLessThan(3); // 10, where one of them looks out first
});
