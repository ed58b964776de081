/** What Bun alone can do for the engine; `engine-platform-node.ts` is its twin. */
import { drainMicrotasks, heapStats, numberOfDFGCompiles } from "bun:jsc";
import { isPromise } from "node:util/types";
import vm from "node:vm";
import { ENGINE_START } from "../../contract/engine.ts";
import type { OpenBell } from "../plane/channel.ts";
import { readText } from "../plane/system.ts";

export type PromiseState = { readonly kind: "none" | "pending" | "fulfilled" | "rejected"; readonly value?: unknown };

/** A bell only says that there is something to look at. */
const NO_BYTES = new Uint8Array(0);

/** The one of the guest's realm. */
export type Settle = (value: unknown, ok: (value: unknown) => void, bad: (error: unknown) => void) => void;

/** Runs what waits in microtasks, within what is running. */
export function drain(): void {
  drainMicrotasks();
}

/** Whether {@link drain} runs anything before the event loop has begun. */
export const IS_DRAINED_AT_START = true;

export function promiseState(value: unknown, _settle: Settle): PromiseState {
  if (!isPromise(value)) return { kind: "none" };
  const kind = Bun.peek.status(value);
  return kind === "pending" ? { kind } : { kind, value: Bun.peek(value) };
}

/** `jit`: JavaScriptCore says of functions that it will never compile that it did so a million times. */
export function versionOf(): { engine: string; version: string; jit: boolean } {
  const probe = (): void => undefined;
  probe();
  return { engine: "bun", version: Bun.version, jit: numberOfDFGCompiles(probe) === 0 };
}

export function memory(): { total: number; used: number; external: number } {
  const { heapSize, heapCapacity, extraMemorySize } = heapStats();
  return { total: heapCapacity, used: heapSize, external: extraMemorySize };
}

/** TypeScript or JSX as JavaScript. Runs nothing of it: what a source calls a macro is refused. */
export function transpile(source: string, loader: "ts" | "tsx" | "jsx" | "js"): string {
  return new Bun.Transpiler({ loader, target: "browser", macro: false as never }).transformSync(source);
}

/** From now on an interrupt ends what can be ended, and nothing else: what runs first installs that. */
export function takeInterrupts(): void {
  vm.runInThisContext("", { breakOnSigint: true });
}

export function interruptThis(): void {
  process.kill(process.pid, ENGINE_START.interrupt.bun);
}

/** From now on this program loads nothing. */
export function forbidImports(): void {
  // Code of the guest's realm asks that realm, whoever calls it.
}

/** What serves `import()`, of a function of the guest's realm that gives a promise of that realm. */
export function importing(importer: Function, _settle: Settle, _refusal: () => unknown): unknown {
  return importer;
}

/** A picture of the whole heap, as Chrome's DevTools load it. */
export async function heapSnapshot(): Promise<Uint8Array> {
  return new Uint8Array(Bun.generateHeapSnapshot("v8", "arraybuffer"));
}

/** Lets debuggers at this program that speak on a socket. */
export function debug(_socket: number): void {
  throw new Error("JavaScriptCore does not stop in code of a realm of its own; the engine v8 does");
}

/** At once, whether memory is short or not. */
export function collectGarbage(): void {
  Bun.gc(true);
}

/** Bun opens it among its first ones. */
const LOOP_FD_MAX = 15;

/** The descriptor at which Bun waits for all but timers. Null if that is not known. */
export function findLoop(): number | null {
  const found: number[] = [];
  for (let fd = 3; fd <= LOOP_FD_MAX; fd++) if (isLoop(fd)) found.push(fd);
  return found.length === 1 ? found[0]! : null;
}

function isLoop(fd: number): boolean {
  try {
    return readText(`/proc/self/fdinfo/${fd}`).includes("\ntfd:"); // of an epoll instance
  } catch {
    return false;
  }
}

/**
 * Hears the bells of the channel. Bun wakes up each second for a socket that is open, and not for a stream of its. What
 * that reads comes within a microtask, where none can be run: what is done then has a turn of its own.
 */
export const openBell: OpenBell = async ({ fd }, on) => {
  const reader = Bun.file(fd).stream().getReader();
  const close = (): void => void setImmediate(on.close);
  const wait = (): void => void reader.read().then(({ done }) => (done ? close() : void setImmediate(hear)), close);
  const hear = (): void => {
    try {
      on.data(NO_BYTES);
    } finally {
      wait();
    }
  };
  wait();
  // What is returned keeps the reader. That alone keeps the program alive.
  return { terminate: () => void reader.cancel().catch(() => undefined), ref: () => undefined, unref: () => undefined };
};
