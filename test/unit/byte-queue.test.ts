/** Bytes that arrive in pieces, whoever holds them until they are a message or a line. */
import { heapStats } from "bun:jsc";
import { expect, test } from "bun:test";
import fc from "fast-check";
import { PART } from "../../contract/segment.ts";
import { ByteQueue } from "../../src/base/byte-queue.ts";
import { Frames } from "../../src/calls/frames.ts";
import { Lines } from "../../src/calls/lines.ts";
import { LineJoiner } from "../../src/logs/cri.ts";
import { Channel, type ChannelListener } from "../../src/plane/channel.ts";
import { closeFd, createPair, SEQPACKET } from "../../src/plane/system.ts";
import { FrameDecoder } from "../../src/protocol/frame.ts";
import { waitUntil } from "../deadline.ts";

test("what is taken is what was pushed, stays as it is, and costs at most twice what is held", () => {
  const step = fc.tuple(fc.uint8Array({ maxLength: 40 }), fc.double({ min: 0, max: 1, noNaN: true }));
  fc.assert(
    fc.property(fc.array(step), fc.option(fc.integer({ min: 1, max: 100 }), { nil: undefined }), (steps, expected) => {
      const queue = new ByteQueue();
      const pushed: number[] = [];
      const taken: Uint8Array[] = [];
      let most = 0;
      for (const [bytes, share] of steps) {
        pushed.push(...bytes);
        queue.push(Buffer.from(bytes), expected);
        most = Math.max(most, queue.length);
        expect(queue.bytes.buffer.byteLength).toBeLessThanOrEqual(Math.max(Buffer.poolSize, 2 * most));
        taken.push(queue.take(Math.floor(share * queue.length)));
      }
      expect([...taken.flatMap((one) => [...one]), ...queue.bytes]).toEqual(pushed);
      expect(taken.every((one) => !(one instanceof Buffer))).toBe(true);
    }),
  );
});

test("no more room is made than for what is expected", () => {
  const queue = new ByteQueue();
  for (let byte = 0; byte < 1000; byte++) queue.push(Uint8Array.of(byte), 1000);
  expect(queue.bytes.buffer.byteLength).toBe(1000);
});

const PIECES = 20_000;
const head = new Uint8Array(4);
new DataView(head.buffer).setUint32(0, 2 * PIECES, true);
const pushing = ({ push }: { push: (bytes: Uint8Array) => void }, first: Uint8Array): ((byte: number) => void) => {
  push(first);
  return (byte) => push(Uint8Array.of(byte));
};
const inPieces: Readonly<Record<string, () => (byte: number) => void>> = {
  "a frame of a session": () => {
    const frames = new Frames();
    return pushing({ push: (bytes) => (frames.push(bytes), void frames.next()) }, head);
  },
  "a line of a session": () => {
    const lines = new Lines();
    return pushing({ push: (bytes) => (lines.push(bytes), void lines.next()) }, Buffer.from("["));
  },
  "a frame of the control socket": () => {
    const decoder = new FrameDecoder();
    return pushing({ push: (bytes) => (decoder.push(bytes), void decoder.next()) }, head);
  },
  "a line of a log": () => {
    const joiner = new LineJoiner();
    return (byte) => void joiner.push({ timestamp: "T", stream: "stdout", isPartial: true, text: Uint8Array.of(byte) });
  },
};

const heldObjects = (): number => {
  Bun.gc(true);
  return heapStats().objectTypeCounts.Uint8Array ?? 0;
};

test.each(Object.keys(inPieces))("%s that comes byte by byte is held in one piece", (name) => {
  const push = inPieces[name]!();
  const before = heldObjects();
  for (let at = 0; at < PIECES; at++) push(0x20);
  expect(heldObjects() - before).toBeLessThan(PIECES / 100);
  push(0x20); // it is still held
});

test("a message of a channel that comes in parts of a byte is held in one piece", async () => {
  const [ours, theirs] = createPair(SEQPACKET);
  const got: Uint8Array[] = [];
  const listener: ChannelListener = { onMessage: (bytes) => void got.push(bytes.slice()), onClose: () => undefined };
  const offering = Channel.offer(ours, listener);
  const accepting = Channel.accept(theirs, 10_000, listener);
  try {
    const before = heldObjects();
    for (let at = 0; at < PIECES; at++) {
      offering.send(Uint8Array.of(PART.more, at));
      if (at % 1000 === 999) {
        offering.send(Uint8Array.of(0xff, at / 1000));
        await waitUntil(() => got.length === (at + 1) / 1000, "a thousand parts have arrived");
      }
    }
    expect(heldObjects() - before).toBeLessThan(PIECES / 100);
    offering.send(Uint8Array.of(PART.last, 7));
    await waitUntil(() => got.at(-1)!.length === PIECES + 1, "the message is whole");
    expect(got.at(-1)!.at(-1)).toBe(7);
  } finally {
    for (const one of [offering, accepting]) one[Symbol.dispose]();
    for (const fd of [ours, theirs]) closeFd(fd);
  }
});
