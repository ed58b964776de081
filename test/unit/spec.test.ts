/**
 * What the daemon writes for the shim; the numbers are those of docs/internals/shim.md, typed here once more on
 * purpose.
 */
import { expect, test } from "bun:test";
import { encodeSpec, type Spec } from "../../src/shim/spec.ts";

const SPEC: Spec = { run: 1, argv: ["/bin/true"], env: {}, cwd: "/", stop: { graceMs: 1000, signal: 15 } };

function framesOf(bytes: Uint8Array): [type: number, payload: number[]][] {
  if (bytes.length === 0) return [];
  const end = 4 + Buffer.from(bytes).readUInt32LE(0);
  return [[bytes[4]!, [...bytes.subarray(5, end)]], ...framesOf(bytes.subarray(end))];
}

test("a specification is of the lowest version that knows its frames: a snapshot of an older installation reads it", () => {
  for (const spec of [SPEC, { ...SPEC, killMode: null }]) {
    const frames = framesOf(encodeSpec(spec));
    expect(frames[0]).toEqual([1, [1, 0, 0, 0]]);
    expect(frames.map(([type]) => type)).not.toContain(28);
    expect(frames.at(-1)).toEqual([255, []]);
  }
  for (const [killMode, number] of [
    ["main", 0],
    ["group", 1],
    ["tree", 2],
  ] as const) {
    const frames = framesOf(encodeSpec({ ...SPEC, killMode }));
    expect(frames[0]).toEqual([1, [2, 0, 0, 0]]);
    expect(frames).toContainEqual([28, [number]]);
  }
});
