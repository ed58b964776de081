import { expect, test } from "bun:test";
import fc from "fast-check";
import { encodeFrame, FrameDecoder } from "../../src/protocol/frame.ts";

test("a stream of frames comes out whole wherever it is cut", () => {
  fc.assert(
    fc.property(
      fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 20 }),
      fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1 }),
      (payloads, cuts) => {
        const stream = Buffer.concat(payloads.map((payload) => encodeFrame(payload)));
        const decoder = new FrameDecoder();
        const found: Uint8Array[] = [];
        for (let at = 0, index = 0; at < stream.length; index++) {
          const size = cuts[index % cuts.length]!;
          decoder.push(stream.subarray(at, at + size));
          at += size;
          for (let payload = decoder.next(); payload; payload = decoder.next()) found.push(Uint8Array.from(payload));
        }
        expect(found).toEqual(payloads.map((payload) => Uint8Array.from(payload)));
        expect(decoder.heldBytes).toBe(0);
      },
    ),
  );
});

test("a frame of exactly the limit passes, one byte more is refused before it arrives", () => {
  const decoder = new FrameDecoder(8);
  decoder.push(encodeFrame(new Uint8Array(8)));
  expect(decoder.next()?.length).toBe(8);
  decoder.push(Uint8Array.of(9, 0, 0, 0));
  expect(() => decoder.next()).toThrow("frame of 9 bytes refused, the limit is 8 bytes");
  expect(decoder.heldBytes).toBe(0);
});

test("a broken decoder stays broken", () => {
  const decoder = new FrameDecoder();
  decoder.push(Uint8Array.of(0xff, 0xff, 0xff, 0xff));
  expect(() => decoder.next()).toThrow("4294967295");
  decoder.push(encodeFrame(new Uint8Array(1)));
  expect(() => decoder.next()).toThrow("4294967295");
});

test("ten mebibytes can be sent, one byte more cannot", () => {
  expect(encodeFrame(new Uint8Array(10_485_760)).length).toBe(10_485_764);
  expect(() => encodeFrame(new Uint8Array(10_485_761))).toThrow("does not fit");
});
