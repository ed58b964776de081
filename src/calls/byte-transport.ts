/**
 * Calls over a byte stream: a socket pair, two pipes, stdin and stdout. Either as frames of CBOR, or as lines of JSON.
 */
import { TO_WORKER } from "../../contract/messages.ts";
import { limit } from "../base/limits.ts";
import { BrokenChannel, PeerGone } from "../plane/ring.ts";
import { Unreadable, type Codec } from "./codec.ts";
import { Frames } from "./frames.ts";
import { Lines } from "./lines.ts";
import type { Message, Role, Transport, TransportListener } from "./transport.ts";

const UNREAD_BYTES_MAX = limit("unreadBytes");

/** What is used of a `Readable` of `node:stream`; said here, so that a program needs no types of Node for ours. */
export type ReadableBytes = {
  on(event: "data", listener: (bytes: Uint8Array) => void): unknown;
  on(event: "end" | "close" | "error", listener: () => void): unknown;
  pause(): unknown;
  resume(): unknown;
  destroy(): unknown;
  readonly readableEnded: boolean;
  readonly destroyed: boolean;
};

/** Likewise of a `Writable`. */
export type WritableBytes = {
  on(event: "error", listener: () => void): unknown;
  write(bytes: Uint8Array): unknown;
  end(): unknown;
  readonly writable: boolean;
  readonly writableLength: number;
};

/**
 * Frames `[u32 length, little-endian][CBOR]`: every value that a channel carries; arrays in shared memory are copied.
 */
export function frames(readable: ReadableBytes, writable: WritableBytes): Transport {
  return new ByteTransport(readable, writable, new Frames());
}

/** Each message is a line of JSON. A value that JSON cannot express is an error of the call it belongs to. */
export function lines(readable: ReadableBytes, writable: WritableBytes): Transport {
  return new ByteTransport(readable, writable, new Lines());
}

class ByteTransport implements Transport {
  readonly blocking = undefined;
  readonly #readable: ReadableBytes;
  readonly #writable: WritableBytes;
  readonly #codec: Codec;
  #listener: TransportListener | undefined;
  readonly #interrupted = new Set<number>();
  #isOpen = true;
  #isPaused = false;
  #isEnding = false;

  constructor(readable: ReadableBytes, writable: WritableBytes, codec: Codec) {
    this.#readable = readable;
    this.#writable = writable;
    this.#codec = codec;
  }

  get isOpen(): boolean {
    return this.#isOpen;
  }

  get isEnding(): boolean {
    return this.#isEnding;
  }

  get isInterrupting(): boolean {
    return this.#interrupted.size > 0;
  }

  listen(role: Role, listener: TransportListener): void {
    this.#listener = listener;
    this.#codec.role = role;
    this.#readable.on("data", (bytes: Uint8Array) => {
      if (!this.#isOpen) return;
      this.#codec.push(bytes);
      this.#takeAll();
    });
    for (const event of ["end", "close", "error"] as const) this.#readable.on(event, () => this.#endAfterAll());
    this.#writable.on("error", () => {
      // What the other side sent before it closed can still be read; then the other half closes as well.
      if (this.#readable.readableEnded || this.#readable.destroyed) this.#endAfterAll();
    });
  }

  #takeAll(): void {
    try {
      while (this.#isOpen && (!this.#isPaused || this.#isEnding)) {
        const message = this.#codec.next();
        if (message === undefined) return;
        if (message instanceof Unreadable) this.#listener!.onUnreadable(message.kind, message.number, message.cause);
        else this.#listener!.onMessage(message);
      }
    } catch (error) {
      this.#end(error as Error);
    }
  }

  #endAfterAll(): void {
    this.#isEnding = true;
    this.#takeAll();
    this.#end(new PeerGone("the other side is gone"));
  }

  send(message: Message): void {
    if (!this.#isOpen) throw new BrokenChannel("the transport is closed");
    const bytes = this.#codec.encode(message);
    if (this.#writable.writableLength > UNREAD_BYTES_MAX) {
      const error = new BrokenChannel(`the other side left more than ${UNREAD_BYTES_MAX} bytes unread`);
      this.#end(error);
      throw error;
    }
    if (this.#writable.writable) this.#writable.write(bytes);
  }

  /** Nothing is shared here. */
  forget(): void {}
  expect(): void {}
  countRequest(): void {}
  countAnswer(_isError: boolean, _nanoseconds: number): void {}

  interrupt(number: number): void {
    this.#interrupted.add(number);
    this.send([TO_WORKER.cancel, number]);
  }

  settled(number: number): void {
    this.#interrupted.delete(number);
  }

  pause(): void {
    this.#isPaused = true;
    this.#readable.pause();
  }

  resume(): void {
    this.#isPaused = false;
    if (!this.#isOpen) return;
    this.#takeAll();
    if (!this.#isPaused) this.#readable.resume();
  }

  setRef(isRef: boolean): void {
    for (const stream of [this.#readable, this.#writable] as { ref?: () => void; unref?: () => void }[])
      if (isRef) stream.ref?.();
      else stream.unref?.();
  }

  #end(cause: Error): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#writable.end();
    this.#readable.destroy();
    this.#interrupted.clear();
    this.#listener?.onClose(cause);
  }

  [Symbol.dispose](): void {
    this.#end(new BrokenChannel("the transport was closed"));
  }
}
