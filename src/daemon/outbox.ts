/**
 * What still has to be sent on a connection. Bun's `write` takes what fits and keeps nothing, so the rest is kept here,
 * within a limit.
 */
import type { Socket } from "bun";

export class Outbox {
  readonly #socket: Socket<unknown>;
  #parts: Uint8Array[] = [];
  #bytes = 0;

  constructor(socket: Socket<unknown>) {
    this.#socket = socket;
  }

  /** Bytes that the peer has not taken yet. */
  get bytes(): number {
    return this.#bytes;
  }

  send(bytes: Uint8Array): void {
    this.#parts.push(bytes);
    this.#bytes += bytes.length;
    if (this.#parts.length === 1) this.flush();
  }

  /** To be called on `drain`. True when everything is sent. */
  flush(): boolean {
    while (this.#parts.length > 0) {
      const part = this.#parts[0]!;
      const written = Math.max(0, this.#socket.write(part));
      this.#bytes -= written;
      if (written < part.length) {
        this.#parts[0] = part.subarray(written);
        return false;
      }
      this.#parts.shift();
    }
    return true;
  }

  clear(): void {
    this.#parts = [];
    this.#bytes = 0;
  }
}
