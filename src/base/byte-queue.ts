/**
 * Bytes that have arrived and are not taken yet. They lie in one buffer, so that they cost at most twice their number
 * however small the pieces are in which they come: that is for the other side to choose.
 */
const NOTHING = new Uint8Array(0);

export class ByteQueue {
  #buffer: Uint8Array = NOTHING;
  #begin = 0;
  #end = 0;
  /** What is behind the end is free. Nothing before it is written again: it may have been given out. */
  #hasRoom = false;

  get length(): number {
    return this.#end - this.#begin;
  }

  get bytes(): Uint8Array {
    return this.#buffer.subarray(this.#begin, this.#end);
  }

  /**
   * @param bytes belong to the queue from now on: they are not copied if they are all that it has
   * @param expected how many it is to hold in the end, where that is known: no room is made for more
   */
  push(bytes: Uint8Array, expected = Number.POSITIVE_INFINITY): void {
    if (this.length === 0) {
      this.#buffer = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length); // parts of a Buffer are Buffers
      [this.#begin, this.#end, this.#hasRoom] = [0, bytes.length, false];
      return;
    }
    const length = this.length + bytes.length;
    if (!this.#hasRoom || this.#end + bytes.length > this.#buffer.length) {
      const grown = new Uint8Array(Math.max(length, Math.min(2 * length, expected)));
      grown.set(this.bytes);
      this.#buffer = grown;
      [this.#begin, this.#end, this.#hasRoom] = [0, this.length, true];
    }
    this.#buffer.set(bytes, this.#end);
    this.#end += bytes.length;
  }

  /** The first so many, which are there. */
  take(count: number): Uint8Array {
    const taken = this.#buffer.subarray(this.#begin, this.#begin + count);
    this.#begin += count;
    if (this.length === 0) this.clear();
    return taken;
  }

  clear(): void {
    this.#buffer = NOTHING;
    [this.#begin, this.#end, this.#hasRoom] = [0, 0, false];
  }
}
