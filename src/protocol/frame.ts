/**
 * Framing of the control socket: `[u32 length, little-endian][payload]`. No I/O here. The peer must never send a length
 * over the limit; we must refuse it before allocating anything.
 */
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";

const HEADER_BYTES = 4;

/** One frame around a payload. @throws IpcError LIMIT if it would be larger than a peer accepts. */
export function encodeFrame(payload: Uint8Array): Uint8Array {
  if (payload.length > limit("frameBytes")) {
    throw new IpcError(
      "LIMIT",
      `a message of ${payload.length} bytes does not fit a frame (at most ${limit("frameBytes")})`,
    );
  }
  const frame = new Uint8Array(HEADER_BYTES + payload.length);
  new DataView(frame.buffer).setUint32(0, payload.length, true);
  frame.set(payload, HEADER_BYTES);
  return frame;
}

/** One frame around a value as JSON. */
export function encodeMessage(message: unknown): Uint8Array {
  return encodeFrame(Buffer.from(JSON.stringify(message), "utf8"));
}

/**
 * Cuts a byte stream into payloads, however the stream arrives. A length over the limit throws; after that the decoder
 * stays broken, because the place in the stream is lost.
 */
export class FrameDecoder {
  /** Bytes received and not yet given out. Invariant: `#held` is the sum of the lengths of `#parts`. */
  #parts: Uint8Array[] = [];
  #held = 0;
  #broken: IpcError | undefined;
  readonly #maxBytes: number;

  constructor(maxBytes: number = limit("frameBytes")) {
    this.#maxBytes = maxBytes;
  }

  /** Bytes that wait for the rest of their frame. */
  get heldBytes(): number {
    return this.#held;
  }

  /** Adds received bytes; the decoder may keep a reference to them. */
  push(bytes: Uint8Array): void {
    if (this.#broken || bytes.length === 0) return;
    this.#parts.push(bytes);
    this.#held += bytes.length;
  }

  /**
   * The next whole payload, or `undefined` until more bytes come.
   * @throws IpcError BAD_FRAME, and again on every later call.
   */
  next(): Uint8Array | undefined {
    if (this.#broken) throw this.#broken;
    const length = this.#peekLength();
    if (length === undefined) return undefined;
    if (length > this.#maxBytes) {
      this.#parts = [];
      this.#held = 0;
      this.#broken = new IpcError(
        "BAD_FRAME",
        `frame of ${length} bytes refused, the limit is ${this.#maxBytes} bytes`,
      );
      throw this.#broken;
    }
    if (this.#held < HEADER_BYTES + length) return undefined;
    return this.#take(HEADER_BYTES + length).subarray(HEADER_BYTES);
  }

  #peekLength(): number | undefined {
    if (this.#held < HEADER_BYTES) return undefined;
    // A header cut in pieces is rare: join all pieces once and read it from there.
    if (this.#parts[0]!.length < HEADER_BYTES) this.#parts = [Buffer.concat(this.#parts)];
    const first = this.#parts[0]!;
    return new DataView(first.buffer, first.byteOffset).getUint32(0, true);
  }

  /** Removes and returns the first `count` bytes; copies only when a frame came in several pieces. */
  #take(count: number): Uint8Array {
    if (this.#parts[0]!.length < count) this.#parts = [Buffer.concat(this.#parts)];
    const first = this.#parts[0]!;
    if (first.length === count) this.#parts.shift();
    else this.#parts[0] = first.subarray(count);
    this.#held -= count;
    return first.subarray(0, count);
  }
}
