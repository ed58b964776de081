/**
 * Memory that is written once, from wherever the pieces lie, and then sealed. Only plugins make such: it is no part of
 * the SDK.
 */
import { FFIType, ptr } from "bun:ffi";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { openLibc } from "./open-libc.ts";
import { Sealed } from "./sealed.ts";
import { closeFd } from "./system.ts";

const { i32, u32, i64, ptr: pointer } = FFIType;
const SYMBOLS = {
  memfd_create: { args: [pointer, u32], returns: i32 },
  fcntl: { args: [i32, i32, i32], returns: i32 },
  writev: { args: [i32, pointer, i32], returns: i64 },
} as const;

let loaded: ReturnType<typeof openLibc<typeof SYMBOLS>>;

function libc(): NonNullable<typeof loaded> {
  loaded ??= openLibc(SYMBOLS);
  if (loaded !== undefined) return loaded;
  throw new IpcError("FAILED", "the C library cannot be loaded, so there is no shared memory");
}

const CLOEXEC_AND_SEALING = 3;
/** Pieces in one call of the kernel, which takes 1024. */
const PIECES = 512;
const ZEROES = Buffer.from(new ArrayBuffer(8));
const F_ADD_SEALS = 1033;
const SEALS = 0x0001 | 0x0002 | 0x0004; // no more seals, no shrinking, no growing

/**
 * Writes what becomes {@link Sealed}, one piece after the other. It is not mapped here: the kernel copies each piece to
 * its place, which costs half of what the faults of fresh pages do.
 */
export class SealedWriter implements Disposable {
  readonly #fd: number;
  readonly #most: number;
  /** Addresses and lengths of what waits, as the kernel takes them. */
  readonly #pieces = new BigUint64Array(new ArrayBuffer(16 * PIECES));
  #waiting = 0;
  /** What must not be collected meanwhile. */
  readonly #held: Uint8Array[] = [];
  #used = 0;
  #isOver = false;

  /** @throws IpcError if no descriptor or memory is left */
  constructor(most = limit("tableBytes")) {
    this.#most = most;
    this.#fd = checked(libc().memfd_create(ptr(Buffer.from("ipcctl-table\0")), CLOEXEC_AND_SEALING), "memfd_create");
  }

  get used(): number {
    return this.#used;
  }

  /** Whether so many bytes fit as well. */
  hasRoom(bytes: number): boolean {
    return this.#used + bytes <= this.#most;
  }

  /** @throws RangeError if it does not fit, IpcError if there is no memory for it */
  write(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    this.#held.push(bytes);
    this.writeFrom(ptr(bytes), bytes.length);
  }

  /** The same from an address, at which so many bytes are until {@link SealedWriter.flush}. */
  writeFrom(address: number, bytes: number): void {
    if (bytes === 0) return;
    if (this.#isOver || !this.hasRoom(bytes))
      throw new RangeError(`${this.#used + bytes} bytes: at most ${this.#most} fit`);
    this.#used += bytes;
    this.#pieces[2 * this.#waiting] = BigInt(address);
    this.#pieces[2 * this.#waiting + 1] = BigInt(bytes);
    if (++this.#waiting === PIECES) this.flush();
  }

  /** Zeroes, at most 8. */
  skip(bytes: number): void {
    this.writeFrom(ptr(ZEROES), bytes);
  }

  /** What was written from is no longer needed. @throws IpcError if there is no memory for it */
  flush(): void {
    const wanted = this.#pieces.subarray(0, 2 * this.#waiting).reduce((sum, one, at) => (at % 2 ? sum + one : sum), 0n);
    // Memory is written as a whole, or there is none left.
    if (this.#waiting > 0 && libc().writev(this.#fd, ptr(this.#pieces), this.#waiting) !== wanted)
      checked(-1, "writing");
    this.#waiting = 0;
    this.#held.length = 0;
  }

  /** What was written; nothing more can be. @throws IpcError */
  finish(): Sealed {
    this.flush();
    checked(libc().fcntl(this.#fd, F_ADD_SEALS, SEALS), "sealing the memory");
    this.#isOver = true;
    return new Sealed(this.#fd);
  }

  /** Without a result. */
  [Symbol.dispose](): void {
    if (!this.#isOver) closeFd(this.#fd);
    this.#isOver = true;
  }
}

function checked(result: number, what: string): number {
  if (result >= 0) return result;
  throw new IpcError("FAILED", `${what} failed: there is no memory for a table`, { hint: "see: ipcctl doctor" });
}
