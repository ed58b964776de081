/** One direction of a channel: a byte ring in shared memory with one producer and one consumer, as `docs/shm-layout.md` lays it out. */

/** Offsets inside a control block, in words of 32 bits. */
const HEAD = 0;
const TAIL = 16;
const CONSUMER_SLEEPS = 32;
const ALIGN = 7;

/** The other side wrote what it must not, or is gone. The channel is over. */
export class BrokenChannel extends Error {
  override readonly name = "BrokenChannel";
}

/**
 * Positions count modulo 2^32. Each side keeps its own and only publishes it: the other one may write anything anywhere at any time.
 */
export class SharedRingBuffer {
  readonly #control: Int32Array;
  readonly #data: Uint8Array;
  readonly #words: Uint32Array;
  readonly #mask: number;
  readonly capacity: number;
  #own = 0;

  /**
   * @param controlOffset bytes, a multiple of 64
   * @param dataOffset bytes, a multiple of 8
   * @param capacity bytes, a power of two
   */
  constructor(segment: Uint8Array, controlOffset: number, dataOffset: number, capacity: number) {
    const { buffer, byteOffset } = segment;
    this.#control = new Int32Array(buffer, byteOffset + controlOffset, 48);
    this.#data = new Uint8Array(buffer, byteOffset + dataOffset, capacity);
    this.#words = new Uint32Array(buffer, byteOffset + dataOffset, capacity / 4);
    this.#mask = capacity - 1;
    this.capacity = capacity;
  }

  /** Appends a frame; false where there is no room for it now. @throws RangeError if it can never fit, BrokenChannel */
  trySend(payload: Uint8Array): boolean {
    const { length } = payload;
    const size = (length + 4 + ALIGN) & ~ALIGN;
    if (size > this.capacity)
      throw new RangeError(`a frame of ${length} bytes does not fit a ring of ${this.capacity}`);
    const used = (this.#own - Atomics.load(this.#control, HEAD)) >>> 0;
    if (used > this.capacity) throw new BrokenChannel("the consumer's position is impossible");
    if (size > this.capacity - used) return false;
    const at = this.#own & this.#mask;
    this.#words[at >>> 2] = length; // frames are aligned to eight bytes
    const begin = (at + 4) & this.#mask;
    const room = this.capacity - begin;
    if (length <= 64 && length <= room) {
      const data = this.#data;
      for (let index = 0; index < length; index++) data[begin + index] = payload[index]!;
    } else if (length <= room) this.#data.set(payload, begin);
    else {
      this.#data.set(payload.subarray(0, room), begin);
      this.#data.set(payload.subarray(room), 0);
    }
    this.#own = (this.#own + size) | 0;
    Atomics.store(this.#control, TAIL, this.#own);
    return true;
  }

  /** After sending: whether the consumer says that it sleeps; the word is cleared, so that it is rung once. */
  needsBell(): boolean {
    return (
      Atomics.load(this.#control, CONSUMER_SLEEPS) !== 0 && Atomics.exchange(this.#control, CONSUMER_SLEEPS, 0) !== 0
    );
  }

  /** A copy of the next frame, or undefined. @throws BrokenChannel */
  tryReceive(): Uint8Array | undefined {
    const tail = Atomics.load(this.#control, TAIL);
    if (tail === this.#own) return undefined;
    const used = (tail - this.#own) >>> 0;
    const at = this.#own & this.#mask;
    const length = this.#words[at >>> 2]!; // once: it may change under us
    const size = (length + 4 + ALIGN) & ~ALIGN;
    if (used > this.capacity || length > used - 4 || size > used)
      throw new BrokenChannel("a frame is longer than what was sent");
    const begin = (at + 4) & this.#mask;
    const room = this.capacity - begin;
    let payload: Uint8Array;
    if (length <= room) payload = this.#data.slice(begin, begin + length);
    else {
      payload = new Uint8Array(length);
      payload.set(this.#data.subarray(begin), 0);
      payload.set(this.#data.subarray(0, length - room), room);
    }
    this.#own = (this.#own + size) | 0;
    Atomics.store(this.#control, HEAD, this.#own);
    return payload;
  }

  /** Whether there is a frame. Cheap: one look at the producer's position. */
  get hasData(): boolean {
    return Atomics.load(this.#control, TAIL) !== this.#own;
  }

  /** Announces sleep; false if something came meanwhile. */
  prepareSleep(): boolean {
    Atomics.store(this.#control, CONSUMER_SLEEPS, 1);
    if (Atomics.load(this.#control, TAIL) === this.#own) return true;
    this.cancelSleep();
    return false;
  }

  cancelSleep(): void {
    Atomics.store(this.#control, CONSUMER_SLEEPS, 0);
  }
}
