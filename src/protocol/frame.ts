/**
 * Framing of the control socket: `[u32 length, little-endian][payload]`. No I/O here. The peer must never send a length
 * over the limit; we must refuse it before allocating anything.
 */
import { ByteQueue } from "../base/byte-queue.ts";
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
  readonly #held = new ByteQueue();
  #needed = HEADER_BYTES;
  #broken: IpcError | undefined;
  readonly #maxBytes: number;

  constructor(maxBytes: number = limit("frameBytes")) {
    this.#maxBytes = maxBytes;
  }

  /** Bytes that wait for the rest of their frame. */
  get heldBytes(): number {
    return this.#held.length;
  }

  /** Adds received bytes; the decoder may keep a reference to them. */
  push(bytes: Uint8Array): void {
    if (this.#broken || bytes.length === 0) return;
    this.#held.push(bytes, this.#needed);
  }

  /**
   * The next whole payload, or `undefined` until more bytes come.
   * @throws IpcError BAD_FRAME, and again on every later call.
   */
  next(): Uint8Array | undefined {
    if (this.#broken) throw this.#broken;
    if (this.#held.length < this.#needed) return undefined;
    const { buffer, byteOffset } = this.#held.bytes;
    const length = new DataView(buffer, byteOffset).getUint32(0, true);
    if (length > this.#maxBytes) {
      this.#held.clear();
      this.#broken = new IpcError(
        "BAD_FRAME",
        `frame of ${length} bytes refused, the limit is ${this.#maxBytes} bytes`,
      );
      throw this.#broken;
    }
    this.#needed = HEADER_BYTES + length;
    if (this.#held.length < this.#needed) return undefined;
    const payload = this.#held.take(this.#needed).subarray(HEADER_BYTES);
    this.#needed = HEADER_BYTES;
    return payload;
  }
}
