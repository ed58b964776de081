/** Messages in CBOR, each after its length. */
import { ByteQueue } from "../base/byte-queue.ts";
import { limit } from "../base/limits.ts";
import { decode, decodeHead } from "../plane/cbor-decode.ts";
import { Encoder } from "../plane/cbor-encode.ts";
import { CodecError } from "../plane/values.ts";
import { BrokenChannel } from "../plane/ring.ts";
import { checked, Unreadable, type Codec } from "./codec.ts";
import type { Message, Role } from "./transport.ts";

const MESSAGE_BYTES_MAX = limit("messageBytes");
const HEAD_BYTES = 4;

export class Frames implements Codec {
  readonly #encoder = new Encoder();
  readonly #held = new ByteQueue();
  #needed = HEAD_BYTES;
  role: Role = "client";

  encode(message: Message): Uint8Array {
    const body = this.#encoder.encode(message);
    const frame = Buffer.allocUnsafe(HEAD_BYTES + body.length);
    frame.writeUInt32LE(body.length);
    frame.set(body, HEAD_BYTES);
    return frame;
  }

  push(bytes: Uint8Array): void {
    this.#held.push(bytes, this.#needed);
  }

  next(): Message | Unreadable | undefined {
    if (this.#held.length < this.#needed) return undefined;
    const { buffer, byteOffset } = this.#held.bytes;
    const length = new DataView(buffer, byteOffset).getUint32(0, true);
    if (length > MESSAGE_BYTES_MAX) throw new BrokenChannel(`a message of more than ${MESSAGE_BYTES_MAX} bytes`);
    this.#needed = HEAD_BYTES + length;
    if (this.#held.length < this.#needed) return undefined;
    const body = this.#held.take(this.#needed).subarray(HEAD_BYTES);
    this.#needed = HEAD_BYTES;
    return read(body, this.role === "server");
  }
}

function read(body: Uint8Array, hasStreams: boolean): Message | Unreadable {
  let value: unknown;
  try {
    value = decode(body, undefined, hasStreams);
  } catch (error) {
    const isOurs = error instanceof CodecError && error.code === "TYPE"; // a type that this engine does not have
    const head = isOurs ? decodeHead(body) : undefined;
    if (!head) throw new BrokenChannel(`a malformed message: ${(error as Error).message}`);
    return new Unreadable(...head, error as Error);
  }
  return checked(value);
}
