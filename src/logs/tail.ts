/** The newest lines of a worker's log, read from the end backwards: a large log is never read whole. */
import { closeSync, openSync, readFileSync, readSync } from "node:fs";
import { isoTime, LineJoiner, parseRecord, type LogLine, type LogRecord, type Stream } from "./cri.ts";
import { listLogFiles, type LogFile, type Position } from "./files.ts";

const BLOCK_BYTES = 262_144;
/** How much larger a compressed log usually is than its file. */
const COMPRESSION = 10;

export type TailOptions = {
  readonly stream?: Stream;
  readonly lineBytesMax?: number;
  readonly sinceMs?: number;
  readonly until?: Position;
  /** Files are looked at until this much is read: a stream that hardly writes must not cost the reading of all. */
  readonly scanBytesMax?: number;
  /** Only lines for which it holds are given and counted. */
  readonly accepts?: (line: LogLine) => boolean;
};

/** A line found from its end: its records, newest first. `line` stands there once the next older line was met. */
type Found = { readonly records: LogRecord[]; line?: LogLine | null };

/** At most `count` lines, oldest first. */
export function readLastLines(dir: string, count: number, options: TailOptions = {}): LogLine[] {
  const found: Found[] = []; // newest first
  const open: Partial<Record<Stream, Found>> = {};
  const oldest = isoTime(options.sinceMs ?? 0);
  let accepted = 0;
  const close = (one: Found | undefined): void => {
    if (!one) return;
    const joiner = new LineJoiner(options.lineBytesMax);
    const line = one.records.toReversed().flatMap((record) => joiner.push(record) ?? [])[0]!; // it ends with a whole one
    one.line = options.accepts === undefined || options.accepts(line) ? line : null;
    one.records.length = 0;
    if (one.line) accepted++;
  };
  const isEnough = (record: LogRecord): boolean => {
    if (options.stream !== undefined && record.stream !== options.stream) return false;
    if (record.timestamp < oldest) return true;
    if (record.isPartial) {
      open[record.stream]?.records.push(record); // without an end it is still being written
      return false;
    }
    close(open[record.stream]);
    if (found.at(-1)?.line === null) found.pop();
    if (accepted >= count) {
      delete open[record.stream];
      return true;
    }
    found.push((open[record.stream] = { records: [record] }));
    return false;
  };
  if (count > 0) {
    let scanned = 0;
    for (const file of cutAt(listLogFiles(dir), options.until).toReversed()) {
      if (readBackwards(file, isEnough)) break;
      scanned += file.isCompressed ? file.bytes * COMPRESSION : file.bytes;
      if (scanned >= (options.scanBytesMax ?? Number.POSITIVE_INFINITY)) break;
    }
  }
  close(open.stdout);
  close(open.stderr);
  const lines = found.toReversed().flatMap(({ line }) => line ?? []);
  return count === 0 ? [] : lines.slice(-count);
}

function cutAt(files: readonly LogFile[], until: Position | undefined): LogFile[] {
  if (!until) return [...files];
  return files
    .filter((file) => file.number <= until.number)
    .map((file) =>
      file.number === until.number && !file.isCompressed
        ? { ...file, bytes: Math.min(file.bytes, until.offset) }
        : file,
    );
}

/** Gives records newest first until told to stop; true if it was. */
function readBackwards(file: LogFile, onRecord: (record: LogRecord) => boolean): boolean {
  if (file.isCompressed) return scanBlock(Bun.gunzipSync(readFileSync(file.path)), onRecord).isStopped;
  let fd: number;
  try {
    fd = openSync(file.path, "r");
  } catch {
    return false; // Rotated away since it was listed.
  }
  try {
    let carry: Uint8Array = new Uint8Array(0); // the head of a block: the end of a record that begins before it
    for (let end = file.bytes; end > 0;) {
      const start = Math.max(0, end - BLOCK_BYTES);
      const block = Buffer.alloc(end - start);
      readSync(fd, block, 0, block.length, start);
      const joined = Buffer.concat([block, carry]);
      const isFirst = start === 0;
      const cut = isFirst ? -1 : joined.indexOf(0x0a);
      if (!isFirst && cut < 0) {
        carry = joined;
      } else {
        if (scanBlock(joined.subarray(cut + 1), onRecord).isStopped) return true;
        carry = joined.subarray(0, cut + 1);
      }
      end = start;
    }
    return false;
  } finally {
    closeSync(fd);
  }
}

/** Records of a block, last first. What stands behind the last newline is still being written. */
function scanBlock(block: Uint8Array, onRecord: (record: LogRecord) => boolean): { isStopped: boolean } {
  let end = block.lastIndexOf(0x0a);
  while (end >= 0) {
    const start = end === 0 ? -1 : block.lastIndexOf(0x0a, end - 1);
    const record = parseRecord(block.subarray(start + 1, end));
    if (record && onRecord(record)) return { isStopped: true };
    end = start;
  }
  return { isStopped: false };
}
