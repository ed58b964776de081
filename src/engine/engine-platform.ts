/** What Bun alone can do for the engine; `engine-platform-node.ts` is its twin. */
import { drainMicrotasks, heapStats, numberOfDFGCompiles } from "bun:jsc";
import { types } from "node:util";

export type PromiseState = { readonly kind: "none" | "pending" | "fulfilled" | "rejected"; readonly value?: unknown };

/** The one of the guest's realm. */
export type Settle = (value: unknown, ok: (value: unknown) => void, bad: (error: unknown) => void) => void;

/** Runs what waits in microtasks, within what is running. */
export function drain(): void {
  drainMicrotasks();
}

export function promiseState(value: unknown, _settle: Settle): PromiseState {
  if (!types.isPromise(value)) return { kind: "none" };
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
