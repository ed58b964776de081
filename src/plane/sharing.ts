/** Memory that both sides share instead of copying: sealed memfds, handed over by descriptor once per channel. */
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { NdArray, TYPED_ARRAYS, typeOf, type TypedArray } from "./values.ts";
import { BrokenChannel } from "./ring.ts";
import { closeFd, createSegment, map, MSG_DONTWAIT, receiveFd, sealedBytes, sendWithFds } from "./system.ts";

const SEGMENTS_MAX = limit("segments");

const TAG_OF = new Map<unknown, number>([...TYPED_ARRAYS].map(([tag, type]) => [type, tag]));

/** A segment that this process has mapped, identified by its buffer. */
type Segment = { readonly fd: number; readonly onGone: (() => void)[] };

const segments = new WeakMap<ArrayBufferLike, Segment>();
const gone = new FinalizationRegistry<Segment>(({ fd, onGone }) => {
  closeFd(fd);
  for (const tell of onGone) tell();
});
/** Nothing is looked up before there is something to find. */
let isUsed = false;

function keep(buffer: ArrayBufferLike, fd: number): void {
  const segment: Segment = { fd, onGone: [] };
  segments.set(buffer, segment);
  gone.register(buffer, segment);
  isUsed = true;
}

type ArrayType<A extends TypedArray> = { new (buffer: ArrayBuffer): A; readonly BYTES_PER_ELEMENT: number };

/**
 * A zeroed typed array in memory that is sent to workers without a copy, itself or as a view of its buffer:
 * `const data = shared(Float64Array, 1e6); … await py.call("sum", data)`. Its receiver shares it and sees later writes.
 * Memory that a worker made with `ipcctl.shared` and sent is of the same kind, and can be sent on.
 * @param length elements
 * @throws RangeError if it is not positive; IpcError if no descriptor or memory is left
 */
export function shared<A extends TypedArray>(type: ArrayType<A>, length: number): A {
  if (!Number.isSafeInteger(length) || length <= 0)
    throw new RangeError(`shared: ${length} is not a number of elements`);
  const bytes = length * type.BYTES_PER_ELEMENT;
  const fd = createSegment(bytes);
  try {
    const { buffer } = map(fd, bytes);
    keep(buffer, fd);
    return new type(buffer);
  } catch (error) {
    closeFd(fd);
    throw error;
  }
}

/**
 * The segments of one channel: those handed out, and those received. Descriptors travel ahead of the message that names
 * them.
 */
export class Sharing {
  readonly #socket: number;
  readonly #lent = new WeakMap<ArrayBufferLike, number>();
  /** Or why it cannot be mapped here, for messages that refer to it. */
  readonly #borrowed = new Map<number, ArrayBuffer | IpcError>();
  /** Released before their descriptor arrived: the message that named them could not be read to its end. */
  readonly #missed = new Set<number>();
  #newest = 0;
  #next = 1;
  #isOpen = true;
  /** Tells the worker to release a segment. */
  onForget: (number: number) => void = () => undefined;

  constructor(socket: number) {
    this.#socket = socket;
  }

  /**
   * What the worker needs to find it; undefined if it lies in no segment, or cannot be shared now and must be copied.
   */
  readonly lend = (value: ArrayBufferView | NdArray): unknown[] | undefined => {
    if (!isUsed) return undefined;
    const view = value instanceof NdArray ? value.data : value;
    const segment = segments.get(view.buffer);
    const tag = view instanceof Uint8Array ? 64 : TAG_OF.get(view.constructor);
    if (!segment || tag === undefined || view.byteLength === 0) return undefined;
    const number = this.#lent.get(view.buffer) ?? this.#handOver(view.buffer, segment);
    const shape = value instanceof NdArray ? [...value.shape] : [(view as TypedArray).length];
    return number === undefined ? undefined : [number, view.byteOffset, view.byteLength, tag, shape];
  };

  #handOver(buffer: ArrayBufferLike, segment: Segment): number | undefined {
    const number = this.#next;
    const packet = Buffer.alloc(4);
    packet.writeUInt32LE(number);
    if (!this.#isOpen || !sendWithFds(this.#socket, packet, [segment.fd], MSG_DONTWAIT)) return undefined;
    this.#next++;
    this.#lent.set(buffer, number);
    segment.onGone.push(() => this.#isOpen && this.onForget(number));
    return number;
  }

  /**
   * @throws BrokenChannel if it is not a sealed memfd, or not as large as described; IpcError if this process has no
   * memory for it
   */
  readonly borrow = (form: unknown): TypedArray | NdArray => {
    const [number, offset, bytes, tag, shape] = Array.isArray(form) ? (form as unknown[]) : [];
    const type = typeOf(tag as number);
    if (!isCount(number) || !isCount(offset) || !isCount(bytes) || !type || !isShape(shape))
      throw new BrokenChannel("a malformed description of shared memory");
    while (!this.#borrowed.has(number)) this.#receive();
    const buffer = this.#borrowed.get(number)!;
    if (buffer instanceof IpcError) throw buffer;
    const count = bytes / type.BYTES_PER_ELEMENT;
    if (offset + bytes > buffer.byteLength || shape.reduce((product, one) => product * one, 1) !== count)
      throw new BrokenChannel("shared memory that is smaller than described");
    if (offset % type.BYTES_PER_ELEMENT !== 0) throw new BrokenChannel("shared memory that is not aligned");
    const View = type as unknown as new (buffer: ArrayBufferLike, byteOffset: number, length: number) => TypedArray;
    const data = new View(buffer, offset, count);
    return shape.length === 1 ? data : new NdArray(shape, data);
  };

  #receive(): void {
    const packet = Buffer.alloc(4);
    const fd = receiveFd(this.#socket, packet);
    if (fd === undefined) throw new BrokenChannel("shared memory that was not handed over");
    try {
      const bytes = sealedBytes(fd);
      if (bytes === undefined) throw new BrokenChannel("shared memory that is not sealed, so it could be truncated");
      if (bytes === 0 || this.#borrowed.size >= SEGMENTS_MAX)
        throw new BrokenChannel(bytes === 0 ? "shared memory of no bytes" : `more than ${SEGMENTS_MAX} segments`);
      const number = packet.readUInt32LE();
      this.#newest = Math.max(this.#newest, number);
      if (this.#missed.delete(number)) return closeFd(fd);
      const found = this.#map(fd, bytes);
      if (found instanceof IpcError) closeFd(fd);
      this.#borrowed.set(number, found);
    } catch (error) {
      closeFd(fd);
      throw error;
    }
  }

  #map(fd: number, bytes: number): ArrayBuffer | IpcError {
    try {
      const { buffer } = map(fd, bytes);
      keep(buffer, fd);
      return buffer;
    } catch (error) {
      return IpcError.from(error);
    }
  }

  /** The worker releases it; views into it here keep it mapped. */
  forget(number: number): void {
    if (!this.#borrowed.delete(number) && number > this.#newest) this.#missed.add(number);
  }

  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#borrowed.clear();
    closeFd(this.#socket);
  }
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isShape(shape: unknown): shape is number[] {
  return Array.isArray(shape) && shape.length > 0 && shape.every(isCount);
}
