/** The contents of a compressed file, block by block: it is never in memory whole. */
import { Readable } from "node:stream";
import { createGunzip } from "node:zlib";

/** @param read returns bytes of the file from a place on; fewer than asked for only at its end */
export async function* unpack(
  read: (offset: number, bytes: number) => Buffer,
  blockBytes: number,
): AsyncGenerator<Buffer> {
  function* pieces(): Generator<Buffer> {
    for (let at = 0, piece: Buffer; (piece = read(at, blockBytes)).length > 0; at += piece.length) yield piece;
  }
  // Not a stream of the descriptor, which would close it: closing is up to the owner.
  const source = Readable.from(pieces());
  const stream = source.pipe(createGunzip({ chunkSize: blockBytes }));
  source.on("error", (error) => stream.destroy(error));
  try {
    yield* stream as AsyncIterable<Buffer>;
  } finally {
    source.destroy();
    stream.destroy();
  }
}
