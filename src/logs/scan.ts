/** A worker's log from its beginning in constant memory, however large it is. */
import { splitRecords, type LogRecord } from "./cri.ts";
import { listLogFiles, LogReader, rotatedAway, type Position } from "./files.ts";

export type Batch = {
  readonly records: readonly LogRecord[];
  /** A sentence of what could not be read before these: said, never passed over. */
  readonly lost?: string | undefined;
};

/** Records of all files in order, in batches, up to `until`. Files that were finished before `sinceMs` are passed over. */
export async function* scanLog(dir: string, until: Position, sinceMs = 0): AsyncGenerator<Batch> {
  const oldest = listLogFiles(dir)[0]?.number ?? until.number;
  let firstGone: number | undefined;
  for (let number = oldest; number <= until.number; number++) {
    using file = LogReader.open(dir, number);
    if (!file) {
      firstGone ??= number;
      continue;
    }
    if (firstGone !== undefined) yield { records: [], lost: rotatedAway(firstGone, number - 1) };
    firstGone = undefined;
    if (file.stat().modifiedMs < sinceMs) continue;
    yield* readRecords(file, 0, number === until.number ? until.offset : Number.POSITIVE_INFINITY);
  }
  const last = until.offset === 0 ? until.number - 1 : until.number; // it may be yet to come
  if (firstGone !== undefined) yield { records: [], lost: rotatedAway(firstGone, last) };
}

/** Records of one file between two places. */
export async function* readRecords(file: LogReader, from = 0, to = Number.POSITIVE_INFINITY): AsyncGenerator<Batch> {
  let rest: Uint8Array = new Uint8Array(0);
  for await (const block of file.forwards(from, to)) {
    const records: LogRecord[] = [];
    rest = splitRecords(rest.length === 0 ? block : Buffer.concat([rest, block]), (record) => records.push(record));
    if (records.length > 0) yield { records };
  }
  if (file.damage !== undefined) yield { records: [], lost: file.damage };
}
