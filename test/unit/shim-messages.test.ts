/**
 * Requests to a shim and what it answers and reports, by cases that both sides are held to: the daemon's link sends and
 * reads these bytes, and a shim that runs is sent them as they are. test/python/test_shim.py reads the requests too.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createConnection, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { REPLY, REQUEST, SCOPE, SHIM_MAX } from "../../contract/shim.ts";
import { SHIM_BINARY } from "../../src/base/install.ts";
import { ShimLink, spawnShim, type ShimListener } from "../../src/shim/link.ts";
import { encodeSpec } from "../../src/shim/spec.ts";
import { waitUntil, within } from "../deadline.ts";
import { temporaryTree } from "../tree.ts";
import vectors from "../vectors/shim.json" with { type: "json" };

type Request = {
  says: string;
  ask: [string, ...(string | number)[]];
  bytes: string;
  /** Of a shim that runs; absent: it is not asked. */
  reply?: string | number | number[];
};
type Reply = { says: string; bytes: string; reads: [{ state: unknown } | null]; hears?: unknown[] | null };
const requests = (vectors.requests as (Omit<Request, "ask"> & Partial<Request>)[]).filter(
  (one): one is Request => one.ask !== undefined,
);
const replies = vectors.replies as unknown as Reply[];
/** Those that a listener hears, and states; counts are the answer to one who asks. */
const unasked = replies.filter(({ hears, reads }) => hears !== undefined || reads[0]?.state !== undefined);
const tree = temporaryTree("shim-messages");
const STATE_BYTES = Buffer.from(replies[0]!.bytes, "hex");

/** What a link hears, as `[name, ...arguments]`. */
function recorder(): { heard: unknown[][]; listener: ShimListener } {
  const heard: unknown[][] = [];
  const note =
    (name: string) =>
    (...args: unknown[]): void =>
      void heard.push([name, ...args]);
  const names = ["onReady", "onExited", "onRotated", "onLogFull", "onStatusText", "onAttached", "onGone"];
  return { heard, listener: Object.fromEntries(names.map((name) => [name, note(name)])) as unknown as ShimListener };
}

describe("the daemon's link", () => {
  let server: Server;
  let peer: Socket;
  let dir: string;
  let greeting = STATE_BYTES;
  const came: Buffer[] = [];
  beforeAll(async () => {
    dir = join(tree.dir, "link");
    mkdirSync(dir);
    server = createServer((socket) => {
      peer = socket;
      socket.on("data", (bytes) => came.push(bytes as Buffer)).write(greeting);
    });
    await new Promise<void>((resolve) => server.listen(join(dir, "sock"), resolve));
  });
  afterAll(() => server.close());

  test("sends these requests", async () => {
    const link = (await ShimLink.open(dir, recorder().listener))!;
    const ways: Readonly<Record<string, (...args: never[]) => unknown>> = {
      hello: () => undefined, // sent when it was opened
      signal: (signal: number, scope: keyof typeof SCOPE) => link.signal(signal, SCOPE[scope]),
      stop: (graceMs: number, signal: number) => link.stop(graceMs, signal),
      flush: () => link.flushLogs(),
      calls: () => link.calls(),
    };
    const ours = requests.filter(({ ask }) => Object.hasOwn(ways, ask[0]));
    // Nobody answers them.
    const asked = ours.map(({ ask }) => Promise.resolve(ways[ask[0]]!(...(ask.slice(1) as never[]))));
    const wanted = ours.map(({ bytes }) => bytes).join("");
    await waitUntil(() => Buffer.concat(came).length >= wanted.length / 2, "all have come");
    expect(Buffer.concat(came).toString("hex")).toBe(wanted);
    link.release();
    await Promise.allSettled(asked);
  });

  test.each(unasked.map((one) => [one.says, one] as const))("reads %s", async (_, { bytes, reads, hears }) => {
    const { heard, listener } = recorder();
    greeting = hears === undefined ? Buffer.from(bytes, "hex") : STATE_BYTES;
    const link = (await ShimLink.open(dir, listener))!;
    if (hears === undefined) {
      const { startedNs, ...rest } = link.state as unknown as Record<string, unknown>;
      expect({ ...rest, startedNs: String(startedNs) } as unknown).toEqual(reads[0]?.state);
    } else {
      peer.write(Buffer.from(bytes, "hex"));
      peer.end();
      await waitUntil(() => heard.at(-1)?.[0] === "onGone", "its end is heard");
      expect(heard.slice(0, -1)).toEqual(hears === null ? [] : [hears]);
    }
    link.release();
  });
});

/** What a shim says of itself, which may come before a reply, as the news of a rotation before the next one. */
const UNASKED: ReadonlySet<number> = new Set([
  REPLY.state,
  REPLY.ready,
  REPLY.exited,
  REPLY.rotated,
  REPLY.logFull,
  REPLY.status,
  REPLY.attached,
]);

function wholeFrames(bytes: Buffer): Buffer[] {
  const frames: Buffer[] = [];
  for (let at = 0; bytes.length - at >= 5;) {
    const end = at + 4 + bytes.readUInt32LE(at);
    if (end > bytes.length) break;
    frames.push(bytes.subarray(at, end));
    at = end;
  }
  return frames;
}

test("what is for a worker's standard input comes whole, as much as may be; with less of it nothing is started", async () => {
  const most = SHIM_MAX.inputBytes;
  const specOf = (name: string) => {
    const dir = join(tree.dir, name);
    mkdirSync(join(dir, "logs"), { recursive: true });
    const script = "wc -c; wc -c";
    const [argv, stop] = [["/bin/sh", "-c", `cd '${dir}'; (${script}) > counts`], { graceMs: 1000, signal: 15 }];
    return { dir, spec: { run: 1, argv, env: { PATH: "/usr/bin:/bin" }, cwd: "/", stop } };
  };
  const { dir, spec } = specOf("input");
  expect(await spawnShim(SHIM_BINARY, dir, { ...spec, input: "a".repeat(most) }).exited).toBe(0);
  expect(readFileSync(join(dir, "counts"), "utf8").trim().split(/\s+/)).toEqual([`${most}`, "0"]);
  expect(Buffer.from(encodeSpec({ ...spec, input: "aaa" })).includes("aaa")).toBe(false); // which is in a file
  const short = specOf("short");
  writeFileSync(join(short.dir, "spec"), encodeSpec({ ...short.spec, input: "abc" }));
  const { exitCode } = Bun.spawnSync([SHIM_BINARY, short.dir], { stdin: Buffer.from("ab"), env: {} });
  expect([exitCode === 0, existsSync(join(short.dir, "counts"))]).toEqual([false, false]);
});

test("a shim answers each of these requests with its reply", async () => {
  const dir = join(tree.dir, "shim");
  mkdirSync(dir);
  const stop = { graceMs: 1000, signal: 15 };
  const { exited } = spawnShim(SHIM_BINARY, dir, { run: 1, argv: ["/bin/sleep", "1000"], env: {}, cwd: "/", stop });
  const held: Buffer[] = [];
  let socket: Socket | undefined;
  await waitUntil(async () => {
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const trying = createConnection(join(dir, "sock"), () => resolve(true)).on("error", () => resolve(false));
    if (await promise) socket = trying;
    return socket !== undefined;
  }, "the shim listens");
  socket!.on("data", (bytes) => held.push(bytes as Buffer));
  for (const { says, ask, bytes, reply } of requests) {
    if (reply === undefined) continue;
    held.length = 0;
    socket!.write(Buffer.from(bytes, "hex"));
    const wanted = typeof reply === "string" ? REPLY[reply as keyof typeof REPLY] : REPLY.error;
    const answer = (): Buffer | undefined =>
      wholeFrames(Buffer.concat(held)).find((one) => one[4] === wanted || !UNASKED.has(one[4]!));
    await within(
      10_000,
      says,
      waitUntil(() => answer() !== undefined, `the reply to ${says}`),
    );
    const all = answer()!;
    const number = REQUEST[ask[0] as keyof typeof REQUEST];
    if (typeof reply === "string") {
      expect(all.readUInt8(4), says).toBe(wanted);
      if (reply === "ok") expect(all.subarray(0, 6).toString("hex"), says).toBe(`0200000045${number.toString(16)}`);
    } else {
      expect([all.readUInt8(4), all.readUInt8(5)], says).toEqual([wanted, number]);
      expect([reply].flat(), says).toContain(all.readInt32LE(6));
    }
  }
  expect(await within(10_000, "its end", exited)).toBe(0);
});
