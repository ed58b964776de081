/** The newest lines of a worker's log, read from the end backwards: a large log is never read whole. */
import { closeSync, openSync, readFileSync, readSync } from "node:fs";
import { LineJoiner, parseRecord, type LogLine, type LogRecord, type Stream } from "./cri.ts";
import { listLogFiles, type LogFile, type Position } from "./files.ts";

const BLOCK_BYTES = 262_144;

export type TailOptions = {
  readonly stream?: Stream;
  readonly lineBytesMax?: number;
  readonly sinceMs?: number;
  readonly until?: Position;
};

/** At most `count` lines, oldest first. */
export function readLastLines(dir: string, count: number, options: TailOptions = {}): Promise<LogLine[]> {
  const records: LogRecord[] = []; // newest first
  let whole = 0;
  const isEnough = (record: LogRecord): boolean => {
    if (options.stream !== undefined && record.stream !== options.stream) return false;
    if (options.sinceMs !== undefined && Date.parse(record.timestamp) < options.sinceMs) return true;
    if (!record.isPartial && ++whole > count) return true;
    records.push(record);
    return false;
  };
  if (count > 0) {
    for (const file of cutAt(listLogFiles(dir), options.until).toReversed()) if (readBackwards(file, isEnough)) break;
  }
  const joiner = new LineJoiner(options.lineBytesMax);
  return Promise.resolve(records.toReversed().flatMap((record) => joiner.push(record) ?? []));
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
