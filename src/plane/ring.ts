/**
 * One direction of a channel: a byte ring in shared memory with one producer and one consumer, in the layout of
 * `docs/internals/shm-layout.md`.
 */

import { RING, RING_CAPACITY_MAX, RING_CAPACITY_MIN } from "../../contract/segment.ts";

/** Offsets inside a control block, in words of 32 bits. */
const HEAD = RING.head / 4;
const TAIL = RING.tail / 4;
const CPU = RING.cpu / 4;
const AWAKE = RING.awake / 4;
const CONSUMER_SLEEPS = RING.consumerSleeps / 4;
const PRODUCER_WAITS = RING.producerWaits / 4;
const ALIGN = 7;

/** The other side violated the protocol, or is gone. The channel is closed. */
export class BrokenChannel extends Error {
  override readonly name: string = "BrokenChannel";
}

/** The other side closed the channel without any violation. */
export class PeerGone extends BrokenChannel {
  constructor(message = "the worker is gone") {
    super(message);
  }
}

/**
 * Positions count modulo 2^32. Each side keeps its own and only publishes it: the other side may write anything
 * anywhere at any time.
 */
export class SharedRingBuffer {
  readonly #control: Int32Array;
  readonly #data: Uint8Array;
  readonly #words: Uint32Array;
  readonly #mask: number;
  readonly #isProducer: boolean;
  /** Bytes of the ring. */
  readonly capacity: number;
  #own: number;
  #isKeeping = false;
  #kept: Uint8Array | undefined;
  /** Our position once that is taken. */
  #keptEnd = 0;
  #waits = false;

  /**
   * @param segment memory that both ends share; at an address that is a multiple of 4
   * @param controlOffset bytes, a multiple of 64
   * @param dataOffset bytes, a multiple of 8
   * @param capacity bytes, a power of two from 4096 to 2^30
   * @param isProducer which of the two ends this is
   * @param position where both ends begin, a multiple of 8 below 2^32
   * @throws RangeError
   */
  constructor(
    segment: Uint8Array,
    controlOffset: number,
    dataOffset: number,
    capacity: number,
    isProducer: boolean,
    position = 0,
  ) {
    const { buffer, byteOffset } = segment;
    const isSize = (value: number, unit: number): boolean =>
      Number.isSafeInteger(value) && value >= 0 && value % unit === 0;
    if (
      !isSize(capacity, 1) ||
      capacity < RING_CAPACITY_MIN ||
      capacity > RING_CAPACITY_MAX ||
      (capacity & (capacity - 1)) !== 0
    )
      throw new RangeError("capacity must be a power of two from 4096 to 2^30");
    if (!isSize(controlOffset, 64) || !isSize(dataOffset, 8))
      throw new RangeError("controlOffset must be a multiple of 64, dataOffset of 8");
    if (controlOffset + RING.controlBytes > segment.length || dataOffset + capacity > segment.length)
      throw new RangeError("the ring ends beyond the segment");
    if (controlOffset < dataOffset + capacity && dataOffset < controlOffset + RING.controlBytes)
      throw new RangeError("the control block overlaps the data");
    if (!isSize(position, 8) || position >= 2 ** 32)
      throw new RangeError("position must be a multiple of 8 below 2^32");
    this.#own = position | 0;
    this.#isProducer = isProducer;
    this.#control = new Int32Array(buffer, byteOffset + controlOffset, RING.controlBytes / 4);
    this.#data = new Uint8Array(buffer, byteOffset + dataOffset, capacity);
    this.#words = new Uint32Array(buffer, byteOffset + dataOffset, capacity / 4);
    this.#mask = capacity - 1;
    this.capacity = capacity;
  }

  /**
   * Appends a frame. False if there is no room now; the consumer is then asked to ring once there is.
   * @throws RangeError if it can never fit, BrokenChannel
   */
  trySend(payload: Uint8Array): boolean {
    const { length } = payload;
    const size = (length + 4 + ALIGN) & ~ALIGN;
    if (size > this.capacity)
      throw new RangeError(`a frame of ${length} bytes does not fit a ring of ${this.capacity}`);
    if (size > this.#room()) {
      // Set before looking once more: either this look sees the room, or the consumer sees the flag.
      Atomics.store(this.#control, PRODUCER_WAITS, 1);
      this.#waits = true;
      if (size > this.#room()) return false;
    }
    if (this.#waits) {
      Atomics.store(this.#control, PRODUCER_WAITS, 0);
      this.#waits = false;
    }
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

  #room(): number {
    const used = (this.#own - Atomics.load(this.#control, HEAD)) >>> 0;
    if (used > this.capacity || (used & ALIGN) !== 0) throw new BrokenChannel("the consumer's position is impossible");
    return this.capacity - used;
  }

  /** After a send or receive: whether the other side waits for a bell. Clears that flag. */
  needsBell(): boolean {
    const word = this.#isProducer ? CONSUMER_SLEEPS : PRODUCER_WAITS;
    return Atomics.load(this.#control, word) !== 0 && Atomics.exchange(this.#control, word, 0) !== 0;
  }

  /** Whether the consumer says that it sleeps. */
  get consumerSleeps(): boolean {
    return Atomics.load(this.#control, CONSUMER_SLEEPS) !== 0;
  }

  /** A copy of the next frame, or undefined. @throws BrokenChannel */
  tryReceive(): Uint8Array | undefined {
    const tail = Atomics.load(this.#control, TAIL);
    if (tail === this.#own) return undefined;
    const used = (tail - this.#own) >>> 0;
    if (used > this.capacity || (used & ALIGN) !== 0) throw new BrokenChannel("the producer's position is impossible");
    const at = this.#own & this.#mask;
    const length = this.#words[at >>> 2]!; // read once, because it may change under us
    const size = (length + 4 + ALIGN) & ~ALIGN;
    if (length > used - 4 || size > used) throw new BrokenChannel("a frame is longer than what was sent");
    const begin = (at + 4) & this.#mask;
    const room = this.capacity - begin;
    let payload: Uint8Array;
    if (length <= room) payload = this.#data.slice(begin, begin + length);
    else {
      payload = new Uint8Array(length);
      payload.set(this.#data.subarray(begin), 0);
      payload.set(this.#data.subarray(0, length - room), room);
    }
    const next = (this.#own + size) | 0;
    if (this.#isKeeping) {
      this.#keptEnd = next; // in this order: with the end of the one before it would seem to be taken
      this.#kept = payload;
    }
    this.#own = next;
    Atomics.store(this.#control, HEAD, next);
    return payload;
  }

  /**
   * From now on keeps what was received last until it is accepted: for code that may be ended at any point, between
   * taking a frame and knowing of it.
   */
  keep(): void {
    this.#isKeeping = true;
  }

  /** What was received last cannot be lost any more. @param next kept in its place */
  accept(next?: Uint8Array): void {
    this.#kept = next;
  }

  /** What was received last, and not accepted. */
  takeBack(): Uint8Array | undefined {
    const kept = this.#kept;
    this.#kept = undefined;
    if (this.#keptEnd !== this.#own) return undefined; // it comes again by itself
    Atomics.store(this.#control, HEAD, this.#own);
    return kept;
  }

  /** The next frame, busy-polling for this many microseconds; blocks this thread. @throws BrokenChannel */
  receiveSpin(microseconds: number): Uint8Array | undefined {
    const end = performance.now() + microseconds / 1000;
    for (let looks = 0; !this.hasData; looks++) if ((looks & 15) === 15 && performance.now() >= end) return undefined;
    return this.tryReceive();
  }

  /** Whether there is a frame. Cheap: one look at the producer's position. */
  get hasData(): boolean {
    return Atomics.load(this.#control, TAIL) !== this.#own;
  }

  /** Announces sleep; false if a frame arrived meanwhile. */
  prepareSleep(): boolean {
    Atomics.store(this.#control, CONSUMER_SLEEPS, 1);
    if (Atomics.load(this.#control, TAIL) === this.#own) return true;
    this.cancelSleep();
    return false;
  }

  /** A hint for the consumer: the core of this producer, counted from one. Published before the frame. */
  tellCore(core: number): void {
    this.#control[CPU] = core;
  }

  /** The producer's core when it last sent, as it says; 0 if it does not say. */
  get peerCore(): number {
    return this.#control[CPU]!;
  }

  /** A hint for the consumer: how many others this producer is awake for. */
  tellAwake(others: number): void {
    this.#control[AWAKE] = others;
  }

  /** How many other clients the producer is awake for, as it says. */
  get othersAwake(): number {
    return this.#control[AWAKE]! >>> 0;
  }

  cancelSleep(): void {
    Atomics.store(this.#control, CONSUMER_SLEEPS, 0);
  }
}
