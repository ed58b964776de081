/** Programs in TypeScript that ipcctl starts and that serve calls, and what clients and strangers do to them. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { Ipcctl } from "ipcctl";
import { existsSync, mkdirSync, openSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ERRNO } from "../../contract/linux.ts";
import { CHANNEL_KIND, MAGIC, OPEN, RING_CAPACITY_MIN, SEGMENT, SEGMENT_VERSION } from "../../contract/segment.ts";
import { REPLY, REQUEST } from "../../contract/shim.ts";
import { limit } from "../../src/base/limits.ts";
import {
  closeFd,
  connectUnix,
  createLife,
  createPair,
  createSegment,
  map,
  receive,
  sendWithFds,
  SEQPACKET,
  STREAM,
} from "../../src/plane/system.ts";
import { Home, outcomeOf, ROOT, waitUntil, withDaemon, within } from "../home.ts";
import { skipUnless } from "../needs.ts";
import { installNode, NODE_VERSION } from "../node.ts";

const PACKAGE = JSON.stringify(join(ROOT, "src/index.ts"));
const BODY = `
let ticks = 0;
let aborted = 0;
const serving = await serve({
  add: (a, b) => a + b,
  ticks: () => ticks,
  clients: () => serving.clients,
  aborted: () => aborted,
  wait: () => new Promise((_, reject) => callContext().signal.addEventListener("abort", () => reject(new Error(String(++aborted))))),
  rows: function* () { for (let at = 0; ; at++) yield at; },
  leave: () => { setTimeout(() => serving[Symbol.dispose]()); },
});
setInterval(() => ticks++, 1).unref();
serve({}).catch((error) => console.log(error.message));
`;
const SERVER = `import { callContext, serve } from ${PACKAGE};${BODY}`;
const BUN = { interpreter: process.execPath };

let home: Home;
let ipc: Ipcctl;
beforeAll(async () => {
  home = new Home();
  ipc = new Ipcctl(await home.connect());
  await home.start("server", home.script("server.ts", SERVER), BUN);
});
afterAll(async () => {
  ipc[Symbol.dispose]();
  await home[Symbol.asyncDispose]();
});

test("the command line and programs call it, its own timers go on, and status counts", async () => {
  const worker = await ipc.worker("server");
  expect(worker.hello.implementation).toStartWith("bun ");
  expect(await worker.call("add", 1, 2)).toBe(3);
  const before = await worker.call<number>("ticks");
  await waitUntil(async () => (await worker.call<number>("ticks")) > before, "a timer of its own has run");
  expect((await home.cli("call", "server", "add", "2", "3")).stdout.trim()).toBe("5");
  const wrong = await home.cli("call", "server", "none");
  expect([wrong.status, wrong.stderr]).toEqual([1, expect.stringContaining("no function 'none' is exposed")]);
  const { calls } = await ipc.status("server");
  expect(calls!.errors).toBe(1);
  expect(calls!.total).toBeGreaterThanOrEqual(5);
  expect([calls!.bytes_in > 20, calls!.bytes_out > 20, calls!.seconds! > 0]).toEqual([true, true, true]);
  expect(calls!.latency_us.histogram.reduce((sum, count) => sum + count, 0)).toBe(calls!.total);
  worker[Symbol.dispose]();
  expect(await home.lines("server")).toEqual(["serve: this program serves already"]);
});

test("as many clients as there may be are served at once, and it hears when each is gone", async () => {
  const most = limit("channels") - 1;
  const all = await Promise.all(Array.from({ length: most }, () => ipc.worker("server")));
  expect(await Promise.all(all.map((one, at) => one.call("add", at, 1)))).toEqual(all.map((_, at) => at + 1));
  const waiting = all.map((one) => one.call("wait").catch((error: unknown) => error));
  for (const one of all) one[Symbol.dispose]();
  await Promise.all(waiting);
  const left = await ipc.worker("server");
  await waitUntil(async () => (await left.call("aborted")) === most, "each of them was told that its client is gone");
  await waitUntil(async () => (await left.call("clients")) === 1, "one is left");
  left[Symbol.dispose]();
});

test("a client that is killed in the middle of a stream costs nobody else anything", async () => {
  const program = home.script(
    "client.ts",
    `import { connect } from ${PACKAGE};
const worker = await (await connect()).worker("server");
for await (const row of worker.stream("rows")) if (row === 1000) process.kill(process.pid, "SIGKILL");`,
  );
  const child = Bun.spawn([process.execPath, program], { env: home.env, stdio: ["ignore", "pipe", "pipe"] });
  expect((await within(60_000, "its end", outcomeOf(child))).stderr).toBe("");
  const worker = await ipc.worker("server");
  await waitUntil(async () => (await worker.call("clients")) === 1, "its channel is closed");
  worker[Symbol.dispose]();
});

test("it evaluates no code and has no pipes, and says so", async () => {
  const worker = await ipc.worker("server");
  expect(await worker.eval("1").catch(String)).toContain("this worker does not evaluate code");
  const pipe = await worker.pipe("any");
  await waitUntil(() => !pipe.isOpen, "the pipe is turned away");
  worker[Symbol.dispose]();
});

test("a program that ipcctl has not started is told so", async () => {
  const child = Bun.spawn([process.execPath, join(home.dir, "server.ts")], { stdio: ["ignore", "pipe", "pipe"] });
  const { status, stderr } = await outcomeOf(child);
  expect(status).toBe(1);
  expect(stderr).toContain("ipcctl has not started this program");
});

test("one that serves no more ends, and its clients hear of it", async () => {
  await home.start("leaving", join(home.dir, "server.ts"), { ...BUN, restart_policy: "no" });
  const worker = await ipc.worker("leaving");
  await worker.call("leave");
  expect(await worker.call("wait").catch((error: { code: string }) => error.code)).toMatch(
    /CONNECTION_LOST|WORKER_STOPPED|NOT_RUNNING/,
  );
  await waitUntil(async () => (await ipc.status("leaving")).state === "Stopped", "it has ended");
});

test("it serves where the policy hides the file system, by the connection that is passed to it", async () => {
  const folder = join(home.dir, "confined");
  mkdirSync(folder);
  writeFileSync(join(folder, "server.ts"), SERVER);
  const policy = { version: 1, extends: "strict", process: { procfs: "self" }, files: { read: [ROOT, folder] } };
  await home.start("confined", join(folder, "server.ts"), { ...BUN, policy: JSON.stringify(policy) });
  const worker = await ipc.worker("confined");
  expect(await worker.call("add", 1, 2)).toBe(3);
  worker[Symbol.dispose]();
});

/** Offers a channel to a worker as a client of ours would not. Gives what its shim answers. */
async function offer(name: string, bell: number, write: (memory: Uint8Array) => void): Promise<readonly number[]> {
  const bytes = SEGMENT.data + 2 * RING_CAPACITY_MIN;
  const segment = createSegment(bytes);
  const memory = map(segment, bytes);
  memory.set([...Buffer.from(MAGIC), SEGMENT_VERSION, 0], SEGMENT.magic);
  write(memory);
  const request = Buffer.alloc(5 + OPEN.name);
  request.writeUInt32LE(1 + OPEN.name, 0);
  request.writeUInt8(REQUEST.open, 4);
  request.writeUInt32LE(SEGMENT_VERSION, 5 + OPEN.version);
  request.writeUInt32LE(RING_CAPACITY_MIN, 5 + OPEN.capacity);
  request.writeUInt8(CHANNEL_KIND.calls, 5 + OPEN.kind);
  const shim = connectUnix(join(home.paths.workersDir, name, "sock"))!;
  const [descriptors, life] = [createPair(SEQPACKET), createLife()];
  sendWithFds(shim, request, [segment, bell, descriptors[1], life[1]]);
  const answer = receive(shim, 10_000)!;
  for (const fd of [segment, shim, ...descriptors, ...life]) closeFd(fd);
  return [answer[4]!, answer[6] ?? 0];
}

test("a bell of another kind is refused, and a ring that is none costs its client the channel", async () => {
  const worker = await ipc.worker("server");
  const [pid, clients] = [worker.hello.pid, await worker.call("clients")];
  const [file, pipe, packets] = [openSync("/dev/null", "r+"), createLife(), createPair(SEQPACKET)];
  for (const bell of [file, ...pipe, ...packets])
    expect(await offer("server", bell, () => undefined)).toEqual([REPLY.error, ERRNO.EINVAL]);
  const bells = createPair(STREAM);
  expect(await offer("server", bells[1], (memory) => memory.fill(0xf1, SEGMENT.ringA, SEGMENT.data))).toEqual([
    REPLY.ok,
    0,
  ]);
  for (const fd of [file, ...pipe, ...packets, bells[1]]) closeFd(fd);
  expect(receive(bells[0], 10_000)).toHaveLength(0);
  closeFd(bells[0]);
  expect(await worker.call("clients")).toBe(clients);
  expect((await ipc.status("server")).pid).toBe(pid);
  worker[Symbol.dispose]();
});

test("of two programs of one worker the second is told, also by a shim that is slow", async () => {
  const asked = join(home.dir, "asked");
  const second = home.script(
    "second.ts",
    `import { serve } from ${PACKAGE};
import { writeFileSync } from "node:fs";
import { setImmediate as turn } from "node:timers/promises";
process.stdin.once("data", async () => {
  serve({}).then(() => console.log("serves"), (error) => console.log(error.message));
  for (let turns = 0; turns < 10; turns++) await turn();
  writeFileSync(${JSON.stringify(asked)}, "");
});
console.log("waits");`,
  );
  const first = `const child = Bun.spawn([process.execPath, ${JSON.stringify(second)}], { stdio: ["pipe", "inherit", "inherit"] });`;
  const go = SERVER.replace("add:", "go: () => { child.stdin.write('x'); child.stdin.flush(); }, add:");
  await home.start("both", home.script("both.ts", go.replace("\n", `\n${first}`)), BUN);
  const worker = await ipc.worker("both");
  await waitUntil(async () => (await home.lines("both")).includes("waits"), "the second one waits");
  const shim = (await ipc.status("both")).shim_pid!;
  process.kill(shim, "SIGSTOP");
  try {
    await worker.call("go");
    await waitUntil(() => existsSync(asked), "the second one has asked");
  } finally {
    process.kill(shim, "SIGCONT");
  }
  await waitUntil(async () => (await home.lines("both")).length === 3, "it has its answer");
  expect((await home.lines("both")).at(-1)).toContain("another process of this worker has met its shim already");
  worker[Symbol.dispose]();
});

const node = await installNode();
test.skipIf(skipUnless(node !== undefined, `Node ${NODE_VERSION}`, "serving on Node"))("on Node too", async () => {
  const bundle = JSON.stringify(join(ROOT, "build/js/ipcctl.node.js"));
  const script = home.script("server.mjs", `import { callContext, serve } from ${bundle};${BODY}`);
  await home.start("of-node", script, { interpreter: node });
  const worker = await ipc.worker("of-node");
  expect(worker.hello.implementation).toBe(`node ${NODE_VERSION}`);
  expect(await worker.call("add", 1, 2)).toBe(3);
  worker[Symbol.dispose]();
});

test("what is sent to the shim beside a bell ends the meeting, and it is met again", async () => {
  await withDaemon(async (other) => {
    using connection = new Ipcctl(await other.connect());
    // What comes meanwhile is handed to the noise, which never answers: a client comes when it is over.
    const isOver = join(other.dir, "noise-is-over");
    const noise = `import { connectUnix, sendWithFds, closeFd, createPair, SEQPACKET } from ${JSON.stringify(join(ROOT, "src/plane/system.ts"))};
for (const [bytes, fds] of [[[98], []], [[98], [0]], [[97], []], [Array(100).fill(98), []], [[98], createPair(SEQPACKET)]]) {
  const socket = connectUnix(process.env.IPCCTL_PLANE, SEQPACKET);
  sendWithFds(socket, Buffer.from(bytes), fds);
  while (sendWithFds(socket, Buffer.of(1), [])) await new Promise((done) => setTimeout(done, 1));
  closeFd(socket);
}
await Bun.write(${JSON.stringify(isOver)}, "");
`;
    await other.start("noisy", other.script("noisy.ts", SERVER.replace("\n", `\n${noise}`)), BUN);
    await waitUntil(() => existsSync(isOver), "the noise is over");
    const worker = await connection.worker("noisy");
    expect(await worker.call("add", 1, 2)).toBe(3);
  });
});
