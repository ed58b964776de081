/** Asks the host by lines of stdout, where the worker was started so, and reads the answers from stdin. */
import { fstatSync, writeSync } from "node:fs";
import { limit } from "../base/limits.ts";

/** What is asked by a line. */
export type LineRequest = {
  readonly tool: string;
  readonly correlation: string;
  /** Topic, correlation and arguments. */
  readonly bytes: Uint8Array<ArrayBuffer>;
};
type Line = LineRequest & {
  readonly resolve: (answer: unknown) => void;
  readonly reject: (error: Error) => void;
  readonly note: (wasSent: boolean) => void;
  isOver: boolean;
};

/** With it before, a request may stand within a line that the program has begun. */
const MARK = "\u001e";
const ARGUMENTS = ',"arguments":';
/** Between two attempts to write to a full pipe that does not wait by itself. */
const ROOM_MS = 1;
/**
 * A write stops the program while the line helper reads nothing, which is while it holds so much that the program has
 * not read. So there is either less under way than the pipe has room for, whatever the helper does, or less than what
 * stops the helper, however large the answers are.
 */
const PIPE_BYTES = 32_768;
const LARGE_CALLS = Math.floor(limit("stdioBytes") / limit("hostMessageBytes")) - 1;

/** Not written yet, in order. */
const waiting: Line[] = [];
/** Written; also those that nobody waits for any more, until they are answered. */
const underWay = new Map<string, Line>();
let bytesUnderWay = 0;
let awaited = 0;
let hasEnded = false;
/** Whether stdin is read by the program as well, or what has come of it meanwhile that is not ours. */
let own: "program" | Buffer[] = [];
/** Bytes that are put back, and come once more. */
let putBack = 0;
/** The beginning of a line. */
let rest: Buffer[] = [];
let isOpen = false;

/** Why the lines of this process are not those of its worker. */
export function whyNoLines(): string | undefined {
  if (hasEnded) return "what reads the lines of this process has ended, or the process itself has closed its stdin";
  const wrong = isOpen ? undefined : ["stdin", "stdout"].find((_, fd) => !isPipe(fd));
  return wrong === undefined
    ? undefined
    : `${wrong} of this process is not that of its worker, which asks by lines (--transport stdio): ask in the worker itself`;
}

/**
 * @param signal gives the call up
 * @param note whether it may have been sent by now
 * @returns what the host answers, as JSON
 * @throws if it was sent, and no answer can come any more
 */
export function askByLines(
  request: LineRequest,
  signal: AbortSignal,
  note: (wasSent: boolean) => void,
): Promise<unknown> {
  open();
  const { promise, resolve, reject } = Promise.withResolvers<unknown>();
  const line: Line = { ...request, resolve, reject, note, isOver: false };
  if (awaited++ === 0) process.stdin.ref();
  const finish = (): void => {
    line.isOver = true;
    if (--awaited === 0 && own !== "program") process.stdin.unref();
  };
  promise.then(finish, finish);
  signal.addEventListener("abort", () => giveUp(line, signal.reason as Error), { once: true });
  waiting.push(line);
  flush();
  return promise;
}

function isPipe(fd: number): boolean {
  try {
    return fstatSync(fd).isFIFO();
  } catch {
    return false;
  }
}

/** From now on: what comes late is to be read as well. */
function open(): void {
  if (isOpen) return;
  isOpen = true;
  const { stdin } = process;
  if (stdin.listenerCount("data") + stdin.listenerCount("readable") > 0) own = "program";
  stdin.on("data", take);
  stdin.once("end", end);
  stdin.once("error", end);
  stdin.on("newListener", (event) => {
    if (event === "data" || event === "readable") handOver();
  });
}

/** The program reads as well: it gets what has come before, and is kept alive by it as it would be without us. */
function handOver(): void {
  if (own === "program") return;
  const before = Buffer.concat(own);
  own = "program";
  process.stdin.ref();
  if (before.length === 0) return;
  process.nextTick(() => {
    putBack = before.length;
    process.stdin.unshift(before);
  });
}

function flush(): void {
  try {
    for (let [line] = waiting; line !== undefined && hasRoom(line); [line] = waiting) {
      waiting.shift();
      underWay.set(line.correlation, line);
      bytesUnderWay += line.bytes.length;
      line.note(true);
      const head = JSON.stringify({ id: line.correlation, method: line.tool }).slice(0, -1);
      const wire = Buffer.from(line.bytes.buffer, line.bytes.byteOffset, line.bytes.length);
      const args = wire.subarray(wire.indexOf(ARGUMENTS) + ARGUMENTS.length);
      write(Buffer.concat([Buffer.from(`${MARK}${head},"params":`), args, Buffer.from("\n")]));
    }
  } catch {
    end();
  }
}

function hasRoom({ bytes }: Line): boolean {
  if (underWay.size < LARGE_CALLS) return true;
  return underWay.size < limit("stdioCalls") && bytesUnderWay + bytes.length <= PIPE_BYTES;
}

function giveUp(line: Line, reason: Error): void {
  if (line.isOver) return;
  line.reject(reason);
  const at = waiting.indexOf(line);
  if (at >= 0) waiting.splice(at, 1);
  else if (underWay.has(line.correlation))
    try {
      write(Buffer.from(`${MARK}${JSON.stringify({ id: line.correlation, method: "cancel" })}\n`));
    } catch {
      end();
    }
}

/** Whole, before anything else of this thread is written. */
function write(bytes: Buffer): void {
  for (let at = 0; at < bytes.length;)
    try {
      at += writeSync(1, bytes, at);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ROOM_MS);
    }
}

function take(chunk: Buffer | string): void {
  let bytes = typeof chunk === "string" ? Buffer.from(chunk) : chunk;
  const again = Math.min(putBack, bytes.length);
  putBack -= again;
  bytes = bytes.subarray(again);
  for (let end = bytes.indexOf(10); end >= 0; end = bytes.indexOf(10)) {
    const line = Buffer.concat([...rest, bytes.subarray(0, end + 1)]);
    rest = [];
    bytes = bytes.subarray(end + 1);
    if (!isOurs(line) && own !== "program") own.push(line);
  }
  if (bytes.length > 0) rest.push(bytes);
}

/** Takes an answer to a request of ours. */
function isOurs(text: Buffer): boolean {
  let answer: { readonly id?: unknown };
  try {
    answer = JSON.parse(text.toString()) as typeof answer;
  } catch {
    return false;
  }
  const line = underWay.get(answer?.id as string);
  if (line === undefined) return false;
  underWay.delete(line.correlation);
  bytesUnderWay -= line.bytes.length;
  if (!line.isOver) line.resolve(answer);
  flush();
  return true;
}

function end(): void {
  hasEnded = true;
  for (const line of [...waiting.splice(0), ...underWay.values()])
    if (!line.isOver) line.reject(new Error("the lines have ended"));
  underWay.clear();
}
