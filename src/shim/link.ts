/** The daemon's side of a shim: starts, adopts and talks to it. The frames are in `docs/internals/shim.md`. */
import { ERRNO } from "../../contract/linux.ts";
import { closeSync, constants, openSync, renameSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import type { Socket } from "bun";
import { LATENCY_CLASSES, STATISTICS } from "../../contract/segment.ts";
import { REPLY, REQUEST, SCOPE, SHIM_VERSION, STATE } from "../../contract/shim.ts";
import { IpcError } from "../base/errors.ts";
import { encodeSpec, frame, u32, type Spec } from "./spec.ts";

const FRAME_BYTES_MAX = 65_536;

/** What a shim says about its run when it is first asked. */
export type ShimState = {
  /** Of its contract: older than ours if it was started before an upgrade. */
  readonly version: number;
  readonly run: number;
  readonly pid: number;
  readonly startTime: number;
  readonly startedNs: bigint;
  readonly isReady: boolean;
  readonly isStopping: boolean;
  readonly hasExited: boolean;
  readonly isLogBlocked: boolean;
  readonly droppedLines: number;
  readonly isAttached: boolean;
};

/** What clients asked of the worker's runtime in this run. The worker counts, so it may lie. */
export type CallCounts = {
  /** Open channels, and requests without an answer yet. */
  readonly channels: number;
  readonly waiting: number;
  readonly calls: number;
  readonly errors: number;
  readonly bytesIn: number;
  readonly bytesOut: number;
  /** Requests that took at least 2^(i-1) and less than 2^i microseconds. */
  readonly latencies: readonly number[];
  /** Of all requests together; undefined if the shim is too old to report it. */
  readonly nanoseconds: number | undefined;
};

/** What a shim reports unasked. `onGone` is the end of the run: its exit record is on disk, or the shim was killed. */
export type ShimListener = {
  onReady(): void;
  onExited(): void;
  onRotated(): void;
  onLogFull(isBlocked: boolean, droppedLines: number): void;
  onStatusText(text: string): void;
  onAttached(isAttached: boolean): void;
  onGone(): void;
};

/** The waiting callers, in the order of their requests. */
type Answers = {
  readonly plain: ((errno: number) => void)[];
  readonly calls: ((counts: CallCounts | undefined) => void)[];
  /** The connection is closed. */
  isOver: boolean;
};

/** A shim answers within microseconds. If it does not, it is stopped or the machine is very busy. */
const HELLO_MS = 3000;
const ANSWER_MS = 10_000;
/** A repeated STOP is harmless, so it is better to ask again than to wait. */
const STOP_ANSWER_MS = 1000;

/** An open connection to a shim. Ends with one call of `onGone`. */
export class ShimLink {
  readonly state: ShimState;
  readonly #socket: Socket;
  readonly #answers: Answers;
  /** Of the worker. */
  readonly #name: string;

  private constructor(name: string, socket: Socket, state: ShimState, answers: Answers) {
    this.#name = name;
    this.#socket = socket;
    this.state = state;
    this.#answers = answers;
  }

  /**
   * Connects to the shim in a worker's directory and asks for its state. `undefined` if no shim listens there or it
   * does not answer in time.
   */
  static async open(dir: string, listener: ShimListener): Promise<ShimLink | undefined> {
    const answers: Answers = { plain: [], calls: [], isOver: false };
    const first = Promise.withResolvers<ShimState | undefined>();
    let held: Buffer = Buffer.alloc(0);
    let isKnown = false;
    const onFrame = (type: number, payload: Buffer): void => {
      if (type === REPLY.state && !isKnown) {
        isKnown = true;
        first.resolve(parseState(payload));
      } else deliver(type, payload, listener, answers);
    };
    const onEnd = (): void => {
      answers.isOver = true;
      first.resolve(undefined);
      for (const answer of answers.plain.splice(0)) answer(ESRCH);
      for (const answer of answers.calls.splice(0)) answer(undefined);
      if (isKnown) listener.onGone();
      isKnown = false;
    };
    const socket = await connect(
      dir,
      (bytes) => {
        held = held.length === 0 ? Buffer.from(bytes) : Buffer.concat([held, bytes]);
        held = takeFrames(held, onFrame, () => socket?.terminate());
      },
      onEnd,
    );
    if (!socket) return undefined;
    socket.write(frame(REQUEST.hello, u32(SHIM_VERSION)));
    const timer = setTimeout(() => socket.terminate(), HELLO_MS);
    const state = await first.promise;
    clearTimeout(timer);
    return state && new ShimLink(basename(dir), socket, state, answers);
  }

  /** False after its end: `onGone` was called, or must not be called any more. */
  get isOpen(): boolean {
    return !this.#answers.isOver;
  }

  /** @throws IpcError NOT_RUNNING if the process is gone, FAILED for other errors */
  async signal(signal: number, scope: (typeof SCOPE)[keyof typeof SCOPE]): Promise<void> {
    const errno = await this.#ask(frame(REQUEST.signal, Buffer.concat([u32(signal), Buffer.of(scope)])));
    if (errno === ESRCH) throw new IpcError("NOT_RUNNING", `signal ${signal}: the process has ended already`);
    if (errno === ETIMEDOUT) throw this.#silent(`signal ${signal}`);
    if (errno !== 0) throw new IpcError("FAILED", `signal ${signal} was refused with errno ${errno}`);
  }

  /**
   * Ends the run: sends `signal` as the kill mode says, and SIGKILL to the whole tree after the grace period. The shim
   * does it even if the daemon is gone. Resolves to whether the shim confirmed; if not, it may never have received the
   * request.
   */
  async stop(graceMs: number, signal: number): Promise<boolean> {
    return (await this.#ask(frame(REQUEST.stop, Buffer.concat([u32(graceMs), u32(signal)])), STOP_ANSWER_MS)) === 0;
  }

  async flushLogs(): Promise<void> {
    const errno = await this.#ask(frame(REQUEST.flush, Buffer.alloc(0)));
    if (errno === ETIMEDOUT) throw this.#silent("emptying the logs");
    if (errno !== 0) throw new IpcError("FAILED", `logs could not be emptied, errno ${errno}`);
  }

  /** Undefined if the shim is gone. */
  calls(): Promise<CallCounts | undefined> {
    const { promise, resolve } = Promise.withResolvers<CallCounts | undefined>();
    if (this.#answers.isOver) return Promise.resolve(undefined);
    this.#answers.calls.push(resolve);
    this.#write(frame(REQUEST.calls, Buffer.alloc(0)));
    return promise;
  }

  /** Closes the connection; the shim runs on. */
  release(): void {
    this.#socket.terminate();
  }

  /** The errno of the answer; ESRCH if the link closes first, ETIMEDOUT if no answer comes. */
  #ask(request: Buffer, patienceMs = ANSWER_MS): Promise<number> {
    const { promise, resolve } = Promise.withResolvers<number>();
    if (this.#answers.isOver) return Promise.resolve(ESRCH);
    const timer = setTimeout(() => resolve(ETIMEDOUT), patienceMs);
    this.#answers.plain.push((errno) => {
      clearTimeout(timer);
      resolve(errno);
    });
    this.#write(request);
    return promise;
  }

  #silent(what: string): IpcError {
    return new IpcError("DEADLINE", `${what}: its shim has not answered within ${ANSWER_MS / 1000} s`, {
      hint: `a stop still ends it: ipcctl stop ${this.#name}`,
    });
  }

  /** Requests are a few bytes and answered one by one, so a full send buffer means that the shim is dead. */
  #write(request: Buffer): void {
    if (this.#socket.write(request) !== request.length) this.#socket.terminate();
  }
}

const { ESRCH, ETIMEDOUT } = ERRNO;

/** Through the directory's descriptor, because the path may be longer than a socket address. */
async function connect(
  dir: string,
  onData: (bytes: Uint8Array) => void,
  onEnd: () => void,
): Promise<Socket | undefined> {
  let directory: number;
  try {
    directory = openSync(dir, constants.O_RDONLY | constants.O_DIRECTORY);
  } catch {
    return undefined; // No directory, no shim.
  }
  try {
    return await Bun.connect({
      unix: `/proc/self/fd/${directory}/sock`,
      socket: { data: (_, bytes) => onData(bytes), close: onEnd, error: () => undefined },
    });
  } catch {
    return undefined; // ENOENT or ECONNREFUSED: no shim listens.
  } finally {
    closeSync(directory);
  }
}

/** Hands out whole frames and returns the rest. */
function takeFrames(held: Buffer, onFrame: (type: number, payload: Buffer) => void, onBroken: () => void): Buffer {
  let at = 0;
  while (held.length - at >= 5) {
    const length = held.readUInt32LE(at);
    if (length < 1 || length > FRAME_BYTES_MAX) {
      onBroken();
      return Buffer.alloc(0);
    }
    if (held.length - at < 4 + length) break;
    onFrame(held.readUInt8(at + 4), held.subarray(at + 5, at + 4 + length));
    at += 4 + length;
  }
  return held.subarray(at);
}

function deliver(type: number, payload: Buffer, listener: ShimListener, answers: Answers): void {
  switch (type) {
    case REPLY.ready:
      return listener.onReady();
    case REPLY.exited:
      return listener.onExited();
    case REPLY.rotated:
      return listener.onRotated();
    case REPLY.logFull:
      return listener.onLogFull(payload.readUInt8(0) === 1, Number(payload.readBigUInt64LE(1)));
    case REPLY.status:
      return listener.onStatusText(payload.toString("utf8"));
    case REPLY.ok:
      return answers.plain.shift()?.(0);
    case REPLY.error:
      return answers.plain.shift()?.(Math.abs(payload.readInt32LE(1)));
    case REPLY.attached:
      return listener.onAttached(payload.readUInt8(0) === 1);
    case REPLY.calls:
      return answers.calls.shift()?.(parseCalls(payload));
    default:
      return undefined; // A later shim of the same contract version may send more.
  }
}

function parseState(payload: Buffer): ShimState {
  return {
    version: payload.readUInt32LE(STATE.version),
    run: Number(payload.readBigUInt64LE(STATE.run)),
    pid: payload.readUInt32LE(STATE.pid),
    startTime: Number(payload.readBigUInt64LE(STATE.startTime)),
    startedNs: payload.readBigUInt64LE(STATE.startedNs),
    isReady: payload.readUInt8(STATE.ready) === 1,
    isStopping: payload.readUInt8(STATE.stopping) === 1,
    hasExited: payload.readUInt8(STATE.exited) === 1,
    isLogBlocked: payload.readUInt8(STATE.logBlocked) === 1,
    droppedLines: Number(payload.readBigUInt64LE(STATE.droppedLines)),
    isAttached: payload.readUInt8(STATE.attached) === 1,
  };
}

function parseCalls(payload: Buffer): CallCounts {
  const words = (payload.length - 8) / 8; // an older shim sends fewer
  const word = (index: number): number => Number(payload.readBigUInt64LE(8 + 8 * index));
  return {
    channels: payload.readUInt32LE(0),
    waiting: payload.readUInt32LE(4),
    calls: word(STATISTICS.answered),
    errors: word(STATISTICS.errors),
    bytesIn: word(STATISTICS.bytesIn),
    bytesOut: word(STATISTICS.bytesOut),
    latencies: Array.from({ length: LATENCY_CLASSES }, (_, index) => word(STATISTICS.latencies + index)),
    nanoseconds: words > STATISTICS.nanoseconds ? word(STATISTICS.nanoseconds) : undefined,
  };
}

export type SpawnedShim = { readonly exited: Promise<number>; readonly errorText: () => Promise<string> };

/** Writes the specification and starts a shim with it. Its exit status or its socket tells whether it got the lock. */
export function spawnShim(binary: string, dir: string, spec: Spec): SpawnedShim {
  writeSpec(dir, spec);
  const child = Bun.spawn([binary, dir], { cwd: "/", env: {}, stdio: ["ignore", "ignore", "pipe"] });
  child.unref();
  return { exited: child.exited, errorText: () => new Response(child.stderr).text() };
}

/** A shim whose worker ends with this process, or when `release` is called. */
export function spawnOwnedShim(binary: string, dir: string, spec: Spec): SpawnedShim & { release(): void } {
  writeSpec(dir, { ...spec, owner: "stdin" });
  const child = Bun.spawn([binary, dir], { cwd: "/", env: {}, stdio: ["pipe", "ignore", "pipe"] });
  child.unref();
  return {
    exited: child.exited,
    errorText: () => new Response(child.stderr).text(),
    release: () => void child.stdin.end(),
  };
}

function writeSpec(dir: string, spec: Spec): void {
  const path = join(dir, "spec");
  writeFileSync(`${path}.tmp`, encodeSpec(spec), { mode: 0o600 });
  renameSync(`${path}.tmp`, path);
}
