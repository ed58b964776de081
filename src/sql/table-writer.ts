/** A table of Arrow, batch by batch, straight into the memory that the worker maps. */
import { limit } from "../base/limits.ts";
import { ToolError } from "../host/plugin.ts";
import { SealedWriter } from "../plane/sealed-writer.ts";
import type { Sealed } from "../plane/sealed.ts";
import { aligned, batchMessage, LAST_BYTES, schemaMessage, type Field, type Node } from "./arrow-ipc.ts";

/** Bytes, or where so many are until the batch is written. */
export type Piece = { readonly at: number; readonly bytes: number } | Uint8Array;

export class TableWriter implements Disposable {
  readonly #writer = new SealedWriter();

  /** @throws FormatError for a type that has no place in it */
  constructor(fields: readonly Field[]) {
    try {
      this.#write(schemaMessage(fields));
    } catch (error) {
      this.#writer[Symbol.dispose]();
      throw error;
    }
  }

  /** @throws ToolError TABLE_TOO_LARGE */
  batch(rows: number, nodes: readonly Node[], pieces: readonly Piece[]): void {
    let end = 0;
    const places = pieces.map((piece) => {
      const place = { offset: end, length: bytesOf(piece) };
      end += aligned(place.length);
      return place;
    });
    const head = batchMessage(rows, nodes, places, end);
    this.#requireRoom(head.length + end + LAST_BYTES.length);
    this.#writer.write(head);
    for (const piece of pieces) {
      if (piece instanceof Uint8Array) this.#writer.write(piece);
      else this.#writer.writeFrom(piece.at, piece.bytes);
      this.#writer.skip(aligned(bytesOf(piece)) - bytesOf(piece));
    }
    this.#writer.flush();
  }

  finish(): Sealed {
    this.#write(LAST_BYTES);
    return this.#writer.finish();
  }

  #write(bytes: Uint8Array): void {
    this.#requireRoom(bytes.length);
    this.#writer.write(bytes);
  }

  #requireRoom(bytes: number): void {
    if (!this.#writer.hasRoom(bytes)) throw tooLarge();
  }

  [Symbol.dispose](): void {
    this.#writer[Symbol.dispose]();
  }
}

const bytesOf = (piece: Piece): number => (piece instanceof Uint8Array ? piece.length : piece.bytes);

export function tooLarge(): ToolError {
  return new ToolError(
    "TABLE_TOO_LARGE",
    `the table has more than ${limit("tableBytes")} bytes: ask for fewer rows or columns, or in several parts`,
  );
}
