/**
 * Interrupts a connection after a time although this thread waits in DuckDB for its next rows: a timer of the C library
 * calls DuckDB from a thread of its own.
 */
import { FFIType, ptr, type Pointer } from "bun:ffi";
import { openLibc } from "../plane/open-libc.ts";
import { duckdb } from "./library.ts";

const { i32, u64, ptr: pointer } = FFIType;
const SYMBOLS = {
  timer_create: { args: [i32, pointer, pointer], returns: i32 },
  timer_settime: { args: [u64, i32, pointer, pointer], returns: i32 },
  timer_delete: { args: [u64], returns: i32 },
} as const;
const CLOCK_MONOTONIC = 1;
const SIGEV_THREAD = 2;
/** `struct sigevent`: the value that is given, whom to tell and how, and the function. */
const EVENT = { bytes: 64, value: 0, how: 12, call: 16 };
/** `struct itimerspec`: no interval, and the first time in seconds and nanoseconds. */
const TIMES = { bytes: 32, seconds: 16, nanoseconds: 24 };
/** Its thread may have begun when the timer is deleted. */
const BEGUN_MS = 1000;

const libc = openLibc(SYMBOLS);

export class Watchdog {
  readonly #timer = new BigUint64Array(new ArrayBuffer(8));
  readonly #dueMs: number;
  #isSet = false;

  constructor(connection: bigint, ms: number) {
    this.#dueMs = performance.now() + ms;
    const event = Buffer.from(new ArrayBuffer(EVENT.bytes));
    const { ptr: interrupt } = duckdb().duckdb_interrupt as unknown as { readonly ptr: Pointer };
    event.writeBigUInt64LE(connection, EVENT.value);
    event.writeInt32LE(SIGEV_THREAD, EVENT.how);
    event.writeBigUInt64LE(BigInt(interrupt), EVENT.call);
    if (libc?.timer_create(CLOCK_MONOTONIC, ptr(event), ptr(this.#timer)) !== 0) return;
    const times = Buffer.from(new ArrayBuffer(TIMES.bytes));
    times.writeBigInt64LE(BigInt(Math.floor(ms / 1000)), TIMES.seconds);
    times.writeBigInt64LE(BigInt(Math.round((ms % 1000) * 1e6)), TIMES.nanoseconds);
    this.#isSet = libc.timer_settime(this.#timer[0]!, 0, ptr(times), null) === 0;
  }

  /** @returns milliseconds for which the connection has still to be there */
  end(): number {
    if (this.#isSet) libc?.timer_delete(this.#timer[0]!);
    return performance.now() > this.#dueMs - BEGUN_MS ? BEGUN_MS : 0;
  }
}
