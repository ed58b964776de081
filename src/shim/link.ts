/** The daemon's side of a shim: starts, adopts and talks to it. What they say is in exchange.ts. */
import { ERRNO } from "../../contract/linux.ts";
import { SHIM_FD } from "../../contract/shim.ts";
import { closeSync, constants, openSync, renameSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import type { Socket } from "bun";
import { IpcError } from "../base/errors.ts";
import { replyOf, request, type CallCounts, type Reply, type Scope, type ShimState } from "./exchange.ts";
import { takeFrames } from "./frame-stream.ts";
import { encodeSpec, type Spec } from "./spec.ts";

export type { CallCounts, ShimState } from "./exchange.ts";

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
      const reply = replyOf(type, payload);
      if (reply?.kind === "state" && !isKnown) {
        isKnown = true;
        first.resolve(reply.state);
      } else deliver(reply, listener, answers);
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
    socket.write(request.hello());
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
  async signal(signal: number, scope: Scope): Promise<void> {
    const errno = await this.#ask(request.signal(signal, scope));
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
    return (await this.#ask(request.stop(graceMs, signal), STOP_ANSWER_MS)) === 0;
  }

  async flushLogs(): Promise<void> {
    const errno = await this.#ask(request.flush());
    if (errno === ETIMEDOUT) throw this.#silent("emptying the logs");
    if (errno !== 0) throw new IpcError("FAILED", `logs could not be emptied, errno ${errno}`);
  }

  /** Undefined if the shim is gone. */
  calls(): Promise<CallCounts | undefined> {
    const { promise, resolve } = Promise.withResolvers<CallCounts | undefined>();
    if (this.#answers.isOver) return Promise.resolve(undefined);
    this.#answers.calls.push(resolve);
    this.#write(request.calls());
    return promise;
  }

  /** Closes the connection; the shim runs on. */
  release(): void {
    this.#socket.terminate();
  }

  /** The errno of the answer; ESRCH if the link closes first, ETIMEDOUT if no answer comes. */
  #ask(asked: Buffer, patienceMs = ANSWER_MS): Promise<number> {
    const { promise, resolve } = Promise.withResolvers<number>();
    if (this.#answers.isOver) return Promise.resolve(ESRCH);
    const timer = setTimeout(() => resolve(ETIMEDOUT), patienceMs);
    this.#answers.plain.push((errno) => {
      clearTimeout(timer);
      resolve(errno);
    });
    this.#write(asked);
    return promise;
  }

  #silent(what: string): IpcError {
    return new IpcError("DEADLINE", `${what}: its shim has not answered within ${ANSWER_MS / 1000} s`, {
      hint: `a stop still ends it: ipcctl stop ${this.#name}`,
    });
  }

  /** Requests are a few bytes and answered one by one, so a full send buffer means that the shim is dead. */
  #write(asked: Buffer): void {
    if (this.#socket.write(asked) !== asked.length) this.#socket.terminate();
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

function deliver(reply: Reply | undefined, listener: ShimListener, answers: Answers): void {
  switch (reply?.kind) {
    case "ready":
      return listener.onReady();
    case "exited":
      return listener.onExited();
    case "rotated":
      return listener.onRotated();
    case "logFull":
      return listener.onLogFull(reply.isBlocked, reply.droppedLines);
    case "status":
      return listener.onStatusText(reply.text);
    case "answer":
      return answers.plain.shift()?.(reply.errno);
    case "attached":
      return listener.onAttached(reply.isAttached);
    case "calls":
      return answers.calls.shift()?.(reply.counts);
    case "state": // asked for only once
    case undefined:
      return undefined;
  }
}

export type SpawnedShim = { readonly exited: Promise<number>; readonly errorText: () => Promise<string> };

/** Writes the specification and starts a shim with it. Its exit status or its socket tells whether it got the lock. */
export function spawnShim(binary: string, dir: string, spec: Spec): SpawnedShim {
  writeSpec(dir, spec);
  const { input } = spec;
  const child = Bun.spawn([binary, dir], {
    ...{ cwd: "/", env: {} },
    stdio: [input === undefined ? "ignore" : "pipe", "ignore", "pipe"],
  });
  child.unref();
  if (child.stdin !== undefined) {
    void child.stdin.write(input!);
    void child.stdin.end();
  }
  return { exited: child.exited, errorText: () => new Response(child.stderr).text() };
}

/** A shim whose worker ends with this process, or when `release` is called. */
export function spawnOwnedShim(binary: string, dir: string, spec: Spec): SpawnedShim & { release(): void } {
  writeSpec(dir, { ...spec, owner: "pipe" });
  const child = Bun.spawn([binary, dir], { cwd: "/", env: {}, stdio: ["pipe", "ignore", "pipe"] });
  child.unref();
  return {
    exited: child.exited,
    errorText: () => new Response(child.stderr).text(),
    release: () => void child.stdin.end(),
  };
}

/**
 * A shim that takes the specification which a daemon has written, and gives the worker our stdio. The worker ends with
 * this process.
 */
export function spawnShimHere(binary: string, dir: string): Bun.Subprocess {
  const stdio: ["inherit", "inherit", "inherit", ...unknown[]] = ["inherit", "inherit", "inherit"];
  stdio[SHIM_FD.owner] = "pipe";
  return Bun.spawn([binary, dir], { cwd: "/", env: {}, stdio: stdio as ["inherit", "inherit", "inherit", "pipe"] });
}

export function writeSpec(dir: string, spec: Spec): void {
  const path = join(dir, "spec");
  writeFileSync(`${path}.tmp`, encodeSpec(spec), { mode: 0o600 });
  renameSync(`${path}.tmp`, path);
}
