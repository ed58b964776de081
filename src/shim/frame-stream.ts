/** Frames of a shim's socket, found in what came of it. */

const FRAME_BYTES_MAX = 65_536;

/** Hands out whole frames and returns the rest. */
export function takeFrames(
  held: Buffer,
  onFrame: (type: number, payload: Buffer) => void,
  onBroken: () => void,
): Buffer {
  let at = 0;
  while (held.length - at >= 5) {
    const length = held.readUInt32LE(at);
    if (length < 1 || length > FRAME_BYTES_MAX) {
      onBroken();
      return Buffer.alloc(0);
    }
    if (held.length - at < 4 + length) break;
    onFrame(held.readUInt8(at + 4), held.subarray(at + 5, at + 4 + length));
    at += 4 + length;
  }
  return held.subarray(at);
}
