/** A worker's log from its beginning in constant memory, however large it is. */
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createGunzip } from "node:zlib";
import { splitRecords, type LogRecord } from "./cri.ts";
import { listLogFiles, type LogFile, type Position } from "./files.ts";

/** Records of all files in order, in batches, up to `until`. Files that were finished before `sinceMs` are passed over. */
export async function* scanLog(dir: string, until: Position, sinceMs = 0): AsyncGenerator<LogRecord[]> {
  for (const file of listLogFiles(dir)) {
    if (file.number > until.number) return;
    if (((await stat(file.path).catch(() => null))?.mtimeMs ?? 0) < sinceMs) continue;
    yield* readRecords(file, file.number === until.number ? until.offset : Number.POSITIVE_INFINITY);
  }
}

/** Records of one file, compressed or not, of its first `bytesMax` bytes. */
export async function* readRecords(file: LogFile, bytesMax = Number.POSITIVE_INFINITY): AsyncGenerator<LogRecord[]> {
  if (bytesMax === 0) return;
  const source = createReadStream(file.path, { highWaterMark: 1_048_576, end: bytesMax - 1 });
  const stream = file.isCompressed ? source.pipe(createGunzip({ chunkSize: 1_048_576 })) : source;
  source.on("error", (error) => stream.destroy(error));
  let rest: Uint8Array = new Uint8Array(0);
  for await (const block of stream as AsyncIterable<Uint8Array>) {
    const records: LogRecord[] = [];
    rest = splitRecords(rest.length === 0 ? block : Buffer.concat([rest, block]), (record) => records.push(record));
    if (records.length > 0) yield records;
  }
}
