/** Memory that both sides share instead of copying: sealed memfds, handed over by descriptor once per channel. */
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { NdArray, TYPED_ARRAYS, typeOf, type TypedArray } from "./values.ts";
import { BrokenChannel } from "./ring.ts";
import { Sealed } from "./sealed.ts";
import { closeFd, createSegment, map, MSG_DONTWAIT, receiveFd, sealedBytes, sendWithFds } from "./system.ts";

const SEGMENTS_MAX = limit("segments");

const BYTES_TAG = 64;
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
  /** Moves what is received to where it is used, such as to another realm. */
  adopt: (buffer: ArrayBuffer) => ArrayBuffer = (buffer) => buffer;

  readonly #isPassing: boolean;

  /** @param isPassing what is received is passed on, and never mapped here: {@link Sealed} */
  constructor(socket: number, isPassing = false) {
    this.#socket = socket;
    this.#isPassing = isPassing;
  }

  /**
   * What the worker needs to find it; undefined if it lies in no segment, or cannot be shared now and must be copied.
   */
  readonly lend = (value: ArrayBufferView | NdArray | Sealed): unknown[] | undefined => {
    if (value instanceof Sealed) {
      const number = this.#send(value.fd);
      if (number !== undefined) value[Symbol.dispose](); // it is the other side's: nobody is told to release it
      return number === undefined ? undefined : [number, 0, value.bytes, BYTES_TAG, [value.bytes]];
    }
    if (!isUsed) return undefined;
    const view = value instanceof NdArray ? value.data : value;
    const segment = segments.get(view.buffer);
    const tag = view instanceof Uint8Array ? BYTES_TAG : TAG_OF.get(view.constructor);
    if (!segment || tag === undefined || view.byteLength === 0) return undefined;
    const number = this.#lent.get(view.buffer) ?? this.#handOver(view.buffer, segment);
    const shape = value instanceof NdArray ? [...value.shape] : [(view as TypedArray).length];
    return number === undefined ? undefined : [number, view.byteOffset, view.byteLength, tag, shape];
  };

  /** For {@link Sharing.takeOver}; the caller keeps its descriptor. @returns its number, if it was sent */
  handOver(sealed: Sealed): number | undefined {
    return this.#send(sealed.fd);
  }

  /**
   * The other side of it: mapped here, as long as the view is there.
   * @throws BrokenChannel, IpcError as {@link Sharing.borrow}
   */
  takeOver(number: number, onGone: () => void = () => undefined): Uint8Array {
    while (!this.#borrowed.has(number)) this.#receive();
    const buffer = this.#borrowed.get(number)!;
    this.#borrowed.delete(number);
    if (buffer instanceof IpcError) throw buffer;
    segments.get(buffer)?.onGone.push(onGone);
    return new Uint8Array(buffer);
  }

  #send(fd: number): number | undefined {
    const packet = Buffer.alloc(4);
    packet.writeUInt32LE(this.#next);
    if (!this.#isOpen || !sendWithFds(this.#socket, packet, [fd], MSG_DONTWAIT)) return undefined;
    return this.#next++;
  }

  #handOver(buffer: ArrayBufferLike, segment: Segment): number | undefined {
    const number = this.#send(segment.fd);
    if (number === undefined) return undefined;
    this.#lent.set(buffer, number);
    segment.onGone.push(() => this.#isOpen && this.onForget(number));
    return number;
  }

  /**
   * @throws BrokenChannel if it is not a sealed memfd, or not as large as described; IpcError if this process has no
   * memory for it
   */
  readonly borrow = (form: unknown): TypedArray | NdArray | Sealed => {
    const [number, offset, bytes, tag, shape] = Array.isArray(form) ? (form as unknown[]) : [];
    const type = typeOf(tag as number);
    if (!isCount(number) || !isCount(offset) || !isCount(bytes) || !type || !isShape(shape))
      throw new BrokenChannel("a malformed description of shared memory");
    if (this.#isPassing) return this.#takeSealed(number, bytes);
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

  /** What came before it belonged to messages that could not be read. @throws BrokenChannel */
  #takeSealed(number: number, bytes: number): Sealed {
    const packet = Buffer.alloc(4);
    for (;;) {
      const fd = receiveFd(this.#socket, packet);
      if (fd === undefined) throw new BrokenChannel("shared memory that was not handed over");
      if (packet.readUInt32LE() !== number) {
        closeFd(fd);
        continue;
      }
      const sealed = new Sealed(fd);
      if (sealed.bytes === bytes) return sealed;
      sealed[Symbol.dispose]();
      throw new BrokenChannel(`shared memory of ${sealed.bytes} bytes, which claims to have ${bytes}`);
    }
  }

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
      const buffer = this.adopt(map(fd, bytes).buffer);
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
