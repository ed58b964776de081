/**
 * A client that writes anything costs a server in TypeScript its session, and nothing else; and the other way round.
 */
import { openSync, readdirSync } from "node:fs";
import { PassThrough } from "node:stream";
import { expect, test } from "bun:test";
import { CHANNEL_KIND, MAGIC, OPEN, SEGMENT, SEGMENT_VERSION } from "../../contract/segment.ts";
import { TO_CLIENT, TO_WORKER } from "../../contract/messages.ts";
import { LIMITS } from "../../contract/limits.ts";
import { frames, lines } from "../../src/calls/byte-transport.ts";
import { CallClient } from "../../src/calls/client.ts";
import { Frames } from "../../src/calls/frames.ts";
import { CallServer, type Exposed } from "../../src/calls/server.ts";
import { Encoder } from "../../src/plane/cbor-encode.ts";
import { decode } from "../../src/plane/cbor-decode.ts";
import { StreamRef } from "../../src/plane/values.ts";
import { Channel } from "../../src/plane/channel.ts";
import { closeFd, createPair, createSegment, map, sendWithFds, SEQPACKET, STREAM } from "../../src/plane/system.ts";
import { within } from "../deadline.ts";
import { pick, randomFrom, seed } from "../seed.ts";
import { served } from "./served.ts";

const T = TO_WORKER;
const frame = (message: unknown): Buffer => {
  const body = new Encoder().encode(message);
  const head = Buffer.alloc(4);
  head.writeUInt32LE(body.length);
  return Buffer.concat([head, body]);
};

/** A server, and what is written to it as bytes; it gives what it has answered until it has ended. */
async function serve(
  bytes: readonly Uint8Array[],
  over = frames,
  exposed: Exposed = served,
): Promise<{ cause: Error; answers: unknown[] }> {
  const [to, from] = [new PassThrough(), new PassThrough()];
  const server = new CallServer(over(to, from), exposed);
  const read: Buffer[] = [];
  from.on("data", (chunk: Buffer) => read.push(chunk));
  for (const one of bytes) to.write(one);
  to.end();
  const cause = await within(60_000, "the session is over", server.closed);
  const all = Buffer.concat(read);
  const answers: unknown[] = [];
  for (let at = 0; over === frames && at + 4 <= all.length; at += 4 + all.readUInt32LE(at))
    answers.push(decode(all.subarray(at + 4, at + 4 + all.readUInt32LE(at))));
  return { cause, answers };
}

test.each([
  ["a kind that does not exist", [99, 1]],
  ["a text for a kind", ["call", 1, "add", [], null]],
  ["a number below zero", [T.call, -1, "add", [1, 2], null]],
  ["a number that is a fraction", [T.call, 1.5, "add", [1, 2], null]],
  ["no array", { call: 1 }],
  ["an empty array", []],
  ["a credit below zero", [T.credit, 7, -5]],
])("%s ends the session", async (_, message: unknown) => {
  const { cause } = await serve([[T.call, 7, "count", [3], null], message].map(frame));
  expect(cause.name).toBe("BrokenChannel");
});

test.each(["__proto__", "constructor", "toString", "hasOwnProperty", "", "missing"])(
  "the function %p is not there",
  async (name) => {
    const { answers } = await serve([frame([T.call, 1, name, [], null])]);
    expect(answers.at(-1)).toMatchObject([TO_CLIENT.error, 1, { message: expect.stringMatching(/no function/) }]);
  },
);

test("a number that is used twice, a stream that is one of two, and a length beyond the limit end the session", async () => {
  const sleeps = frame([T.call, 1, "sleep_later", [60], null]);
  expect((await serve([sleeps, sleeps])).cause.message).toContain("in progress already");
  const twice = frame([T.call, 1, "total", [new StreamRef(5), new StreamRef(5)], null]);
  expect((await serve([twice])).cause.message).toContain("open already");
  const head = Buffer.alloc(4);
  head.writeUInt32LE(LIMITS.messageBytes.value + 1);
  expect((await serve([head])).cause.message).toContain(`more than ${LIMITS.messageBytes.value} bytes`);
});

test("more requests than may be under way are refused, and the others go on", async () => {
  const limit = LIMITS.requests.value;
  const calls = Array.from({ length: limit + 1 }, (_, at) => frame([T.call, at, "never", [], null]));
  const { answers } = await serve(calls, frames, { never: () => new Promise(() => undefined) });
  expect(answers.slice(1)).toMatchObject([
    [TO_CLIENT.error, limit, { message: `more than ${limit} requests are in progress` }],
  ]);
});

test("credit of a server's stream: streamCredit at once, and one more", async () => {
  const most = LIMITS.streamCredit.value;
  const granted = (credit: unknown) =>
    serve(
      [
        [T.call, 7, "count", [3], null],
        [T.credit, 7, credit],
      ].map(frame),
    );
  expect((await granted(most)).cause.message).not.toContain("credit");
  expect((await granted(most + 1)).cause.message).toContain(`must be from 1 to ${most} items`);
});

/** What comes of a client whose own stream is granted so much: an item, or the end of its session. */
async function wanted(credit: unknown): Promise<string> {
  const [to, from] = [new PassThrough(), new PassThrough()];
  const outcome = Promise.withResolvers<string>();
  const onClose = (cause: Error): void => outcome.resolve(cause.message);
  using client = new CallClient(frames(to, from), { name: "hostile", onClose });
  void client.hello.catch(() => undefined);
  void client.call("total", [new Blob(["item"]).stream()]).catch(() => undefined);
  const told = new Frames();
  told.role = "server";
  from.on("data", (bytes: Buffer) => {
    told.push(bytes);
    for (let one = told.next(); one; one = told.next())
      if ((one as readonly unknown[])[0] === T.push) outcome.resolve("an item");
  });
  for (let number = 0; number < 4; number++) to.write(frame([TO_CLIENT.want, number, credit]));
  return await within(20_000, "the client sends an item or ends", outcome.promise);
}

test("credit of a client's stream: streamCredit at once, and one more", async () => {
  const most = LIMITS.streamCredit.value;
  expect(await wanted(most)).toBe("an item");
  for (const wrong of [most + 1, 0, -1, 1.5, "64", null])
    expect(await wanted(wrong)).toContain(`must be from 1 to ${most} items`);
});

test("names of lent functions: as long as boundNameBytes, and one byte more", async () => {
  const most = LIMITS.boundNameBytes.value;
  const lent = async (name: string): Promise<string> => (await serve([frame([T.bind, 0, name])])).cause.message;
  expect(await lent("ü".repeat(most / 2))).not.toContain("bound function");
  expect(await lent(`${"ü".repeat(most / 2)}n`)).toContain(`text of at most ${most} bytes`);
});

test("as many functions are lent, and streams sent, as requests may be under way, and one more of each", async () => {
  const most = LIMITS.requests.value;
  const lent = Array.from({ length: most + 1 }, (_, at) => frame([T.bind, 0, `f${at}`]));
  expect((await serve(lent.slice(1))).cause.message).not.toContain("lent");
  expect((await serve(lent)).cause.message).toContain(`more than ${most} functions are lent`);
  const streams = Array.from({ length: most }, (_, at) => new StreamRef(at));
  const never: Exposed = { never: () => new Promise(() => undefined) };
  const sent = (all: StreamRef[]) => serve([frame([T.call, 1, "never", all, null])], frames, never);
  expect((await sent(streams)).cause.message).not.toContain("open already");
  expect((await sent([...streams, new StreamRef(most)])).cause.message).toContain(`or more than ${most} are`);
});

test.each([
  ["no JSON", "nonsense\n"],
  ["a byte order mark before the message", `\ufeff[1,1,"add",[1,2],null]\n`],
  ["no message", "{}\n"],
  ["bytes that are not text", Buffer.from([0xff, 0xfe, 0x0a])],
  ["a depth without end", `${"[".repeat(500_000)}\n`],
])("a line of %s ends the session", async (_, line) => {
  const { cause } = await serve([Buffer.from(line)], lines);
  expect(cause.name).toBe("BrokenChannel");
});

test("what is not a call of a lent function is an error of that call, and others are answered", async () => {
  const [to, from] = [new PassThrough(), new PassThrough()];
  const answers = new Frames();
  const twice = (value: number): number => 2 * value;
  using client = new CallClient(frames(to, from), { name: "hostile", bound: new Map([["twice", twice]]) });
  void client.hello.catch(() => undefined);
  const fields = [
    [],
    [2, [], null],
    ["twice", "ab", null],
    ["twice", [], [1]],
    ["twice", []],
    ["twice", [], null, null],
  ];
  for (const [at, more] of fields.entries()) to.write(frame([TO_CLIENT.invoke, at, ...more]));
  to.write(frame([TO_CLIENT.invoke, 99, "twice", [21], null]));
  const told: (readonly unknown[])[] = [];
  const read = async (): Promise<void> => {
    for await (const bytes of from as AsyncIterable<Uint8Array>) {
      answers.push(bytes);
      for (let one = answers.next(); one; one = answers.next()) told.push(one as readonly unknown[]);
      if (told.at(-1)?.[1] === 99) return;
    }
  };
  await within(20_000, "all are answered", read());
  expect(told).toMatchObject([
    [T.bind, 0, "twice"],
    ...fields.map((_, at) => [T.throw, at, { type: "IpcError", code: "BAD_REQUEST" }]),
    [T.return, 99, 42],
  ]);
});

test("bytes of any kind end a session, or are answered, on each side", async () => {
  const dice = randomFrom(seed);
  const kinds = [...Object.values(T), 0, 255];
  const values: unknown[] = [
    null,
    true,
    -1,
    0,
    1,
    2 ** 40,
    1.5,
    "add",
    "count",
    [],
    [1, 2],
    {},
    new Uint8Array(3),
    new StreamRef(1),
  ];
  for (let round = 0; round < 200; round++) {
    const messages = Array.from({ length: 20 }, () => {
      const bytes = frame([
        pick(dice, kinds),
        Math.floor(dice() * 4),
        ...Array.from({ length: 3 }, () => pick(dice, values)),
      ]);
      if (dice() < 0.1) bytes[4 + Math.floor(dice() * (bytes.length - 4))] = Math.floor(dice() * 256);
      return bytes;
    });
    await serve(messages);
    const [to, from] = [new PassThrough(), new PassThrough()];
    from.resume();
    const over = Promise.withResolvers<Error>();
    const client = new CallClient(frames(to, from), { name: "hostile", onClose: over.resolve });
    void client.hello.catch(() => undefined);
    const calls = [client.call("x", []), client.call("y", [])].map((one) => one.catch(() => undefined));
    for (const one of messages) to.write(one);
    to.end();
    await within(20_000, "the client's session is over", over.promise);
    await Promise.all(calls);
  }
});

const OFFER = {
  isSealed: true,
  bytes: SEGMENT.data + 2 * 65_536,
  capacity: 65_536,
  magic: MAGIC,
  version: SEGMENT_VERSION,
  count: 3,
  kind: CHANNEL_KIND.calls as number,
  length: OPEN.name as number,
};

test.each<[string, Partial<typeof OFFER>]>([
  ["memory that is not sealed", { isSealed: false }],
  ["memory that is too small", { bytes: 4096 }],
  ["another magic", { magic: "IPCXXX" }],
  ["another version", { version: 99 }],
  ["a capacity that is no power of two", { capacity: 5000 }],
  ["a capacity without bound", { capacity: 2 ** 31 }],
  ["descriptors that do not come", { count: 1 }],
  ["another kind", { kind: CHANNEL_KIND.pipe }],
  ["a packet that is cut", { length: OPEN.kind }],
])("%s is not accepted as a channel", (_, other) => {
  const { isSealed, bytes, capacity, magic, version, count, kind, length } = { ...OFFER, ...other };
  const [ours, theirs] = createPair(SEQPACKET);
  const memory = isSealed ? createSegment(bytes) : createPair(STREAM)[0];
  if (isSealed) map(memory, bytes).set([...Buffer.from(magic), version, 0], SEGMENT.magic);
  const head = Buffer.alloc(OPEN.name);
  head.writeUInt32LE(version, OPEN.version);
  head.writeUInt32LE(capacity, OPEN.capacity);
  head.writeUInt8(kind, OPEN.kind);
  sendWithFds(ours, head.subarray(0, length), [memory, ours, ours].slice(0, count));
  const nobody = { onMessage: () => undefined, onClose: () => undefined };
  expect(() => Channel.accept(theirs, count === 3 ? 5000 : 50, nobody)).toThrow(
    /not known|not sealed|magic|did not offer a channel|not served here|too few/,
  );
  for (const fd of [ours, theirs, memory]) closeFd(fd);
});

test("a bell that is no socket ends the channel, and stays open nowhere", async () => {
  const [ours, theirs] = createPair(SEQPACKET);
  const before = readdirSync("/proc/self/fd").length;
  const memory = createSegment(OFFER.bytes);
  map(memory, OFFER.bytes).set([...Buffer.from(MAGIC), SEGMENT_VERSION, 0], SEGMENT.magic);
  const head = Buffer.alloc(OPEN.name);
  head.writeUInt32LE(SEGMENT_VERSION, OPEN.version);
  head.writeUInt32LE(OFFER.capacity, OPEN.capacity);
  const bell = openSync("/dev/null", "r+");
  sendWithFds(ours, head, [memory, bell, ours]);
  for (const fd of [memory, bell]) closeFd(fd);
  const closed = Promise.withResolvers<Error>();
  Channel.accept(theirs, 5000, { onMessage: () => undefined, onClose: closed.resolve });
  expect((await within(10_000, "its end", closed.promise)).message).toContain("bell");
  expect(readdirSync("/proc/self/fd").length).toBe(before);
  for (const fd of [ours, theirs]) closeFd(fd);
});
