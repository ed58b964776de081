/**
 * The tables that one worker holds. No limit of its own counts them, so there is one here; and whoever says that it has
 * let go of one, loses what was in it: to say so and keep it gives nobody more memory.
 */
import { FFIType } from "bun:ffi";
import { limit } from "../base/limits.ts";
import type { Tables } from "../host/pipeline.ts";
import { openLibc } from "../plane/open-libc.ts";
import type { Sealed } from "../plane/sealed.ts";
import type { Sharing } from "../plane/sharing.ts";

const { i32, i64 } = FFIType;
const libc = openLibc({ fallocate: { args: [i32, i32, i64, i64], returns: i32 } });
const KEEP_SIZE_AND_PUNCH_HOLE = 3;

export class HandedTables implements Tables {
  readonly #sharing: Sharing;
  readonly #held = new Map<number, Sealed>();
  #bytes = 0;

  constructor(sharing: Sharing) {
    this.#sharing = sharing;
  }

  handOver(table: Sealed): number | undefined {
    const isFull = this.#held.size >= limit("tablesHeld") || this.#bytes + table.bytes > limit("tablesHeldBytes");
    const number = isFull ? undefined : this.#sharing.handOver(table);
    if (number === undefined) return undefined;
    this.#held.set(number, table);
    this.#bytes += table.bytes;
    return number;
  }

  /** @param number as the worker says, which may be anything */
  letGo(number: unknown): void {
    const table = this.#held.get(number as number);
    if (table === undefined) return;
    this.#held.delete(number as number);
    this.#bytes -= table.bytes;
    libc?.fallocate(table.fd, KEEP_SIZE_AND_PUNCH_HOLE, 0, table.bytes);
    table[Symbol.dispose]();
  }

  /** The worker has ended, or its channel is broken. */
  close(): void {
    for (const number of [...this.#held.keys()]) this.letGo(number);
  }
}
