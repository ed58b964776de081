/**
 * Memory that is written once, by addresses, and then sealed. Only plugins make such, so it is Bun's FFI alone, and no
 * part of the SDK.
 */
import { FFIType, ptr } from "bun:ffi";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { openLibc } from "./libc.ts";
import { Sealed } from "./sealed.ts";
import { closeFd } from "./system.ts";

const { i32, u32, u64, i64, ptr: pointer } = FFIType;
const SYMBOLS = {
  memfd_create: { args: [pointer, u32], returns: i32 },
  ftruncate: { args: [i32, i64], returns: i32 },
  fcntl: { args: [i32, i32, i32], returns: i32 },
  mmap: { args: [u64, u64, i32, i32, i32, i64], returns: u64 },
  munmap: { args: [u64, u64], returns: i32 },
  memcpy: { args: [u64, u64, u64], returns: u64 },
} as const;

let loaded: ReturnType<typeof openLibc<typeof SYMBOLS>>;

function libc(): NonNullable<typeof loaded> {
  loaded ??= openLibc(SYMBOLS);
  if (loaded !== undefined) return loaded;
  throw new IpcError("FAILED", "the C library cannot be loaded, so there is no shared memory");
}

const CLOEXEC_AND_SEALING = 3;
const READ_WRITE = 3;
const SHARED = 1;
const F_ADD_SEALS = 1033;
const SEALS = 0x0001 | 0x0002 | 0x0004; // no more seals, no shrinking, no growing

/** Writes what becomes {@link Sealed}, one piece after the other. */
export class SealedWriter implements Disposable {
  readonly #fd: number;
  /** Of as much as there may be: what is not written takes no memory. */
  readonly #address: bigint;
  readonly #most: number;
  #used = 0;
  #isOver = false;

  /** @throws IpcError if no descriptor or memory is left */
  constructor(most = limit("tableBytes")) {
    this.#most = most;
    this.#fd = checked(libc().memfd_create(ptr(Buffer.from("ipcctl-table\0")), CLOEXEC_AND_SEALING), "memfd_create");
    try {
      checked(libc().ftruncate(this.#fd, most), "ftruncate");
      this.#address = BigInt(libc().mmap(0, most, READ_WRITE, SHARED, this.#fd, 0));
      if (this.#address > BigInt(Number.MAX_SAFE_INTEGER)) checked(-1, "mmap");
    } catch (error) {
      closeFd(this.#fd);
      throw error;
    }
  }

  get used(): number {
    return this.#used;
  }

  /** Whether so many bytes fit as well. */
  hasRoom(bytes: number): boolean {
    return this.#used + bytes <= this.#most;
  }

  /** @throws RangeError if it does not fit */
  write(bytes: Uint8Array): void {
    if (bytes.length > 0) libc().memcpy(this.#take(bytes.length), ptr(bytes), bytes.length);
  }

  /** The same from an address, at which so many bytes are. */
  writeFrom(address: number, bytes: number): void {
    if (bytes > 0) libc().memcpy(this.#take(bytes), address, bytes);
  }

  /** Zeroes. */
  skip(bytes: number): void {
    this.#take(bytes);
  }

  #take(bytes: number): bigint {
    if (this.#isOver || !this.hasRoom(bytes))
      throw new RangeError(`${this.#used + bytes} bytes: at most ${this.#most} fit`);
    const at = this.#address + BigInt(this.#used);
    this.#used += bytes;
    return at;
  }

  /** What was written; nothing more can be. @throws IpcError */
  finish(): Sealed {
    this.#unmap();
    try {
      checked(libc().ftruncate(this.#fd, this.#used), "ftruncate");
      checked(libc().fcntl(this.#fd, F_ADD_SEALS, SEALS), "sealing the memory");
    } catch (error) {
      closeFd(this.#fd);
      throw error;
    }
    return new Sealed(this.#fd);
  }

  #unmap(): void {
    this.#isOver = true;
    libc().munmap(this.#address, this.#most);
  }

  /** Without a result. */
  [Symbol.dispose](): void {
    if (this.#isOver) return;
    this.#unmap();
    closeFd(this.#fd);
  }
}

function checked(result: number, what: string): number {
  if (result >= 0) return result;
  throw new IpcError("FAILED", `${what} failed: there is no memory for a table`, { hint: "see: ipcctl doctor" });
}
