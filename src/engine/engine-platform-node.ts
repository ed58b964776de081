/** What Node alone can do for the engine; see platform.ts. */
import { registerHooks, stripTypeScriptTypes } from "node:module";
import inspector from "node:inspector";
import { join } from "node:path";
import { isModuleNamespaceObject, isPromise } from "node:util/types";
import v8 from "node:v8";
import vm from "node:vm";
import { Worker } from "node:worker_threads";
import { ENGINE_START } from "../../contract/engine.ts";
import { takeInterrupts as takeSignal } from "../plane/system-node.ts";
import type { PromiseState, Settle } from "./engine-platform.ts";

/** Libuv's loop waits for timers as well, and wakes up as fast as we would. */
export function findLoop(): number | null {
  return null;
}

export { openStream as openBell } from "../base/platform.ts";

type Ticks = { readonly _tickCallback: () => void };

/** Does nothing within a microtask: those that wait run after it. */
export function drain(): void {
  (process as unknown as Ticks)._tickCallback();
}

/** A program is itself a microtask: what it has evaluated then would be answered before its microtasks have run. */
export const IS_DRAINED_AT_START = false;

/** There is no look into a promise: what it is settled with is asked for, and comes at once if it is there. */
export function promiseState(value: unknown, settle: Settle): PromiseState {
  if (!isPromise(value)) return { kind: "none" };
  let state: PromiseState = { kind: "pending" };
  settle(
    value,
    (result) => (state = { kind: "fulfilled", value: result }),
    (error) => (state = { kind: "rejected", value: error }),
  );
  drain();
  return state;
}

/** `jit`: V8 ends where it gets no memory for machine code, and has no WebAssembly where it is to make none. */
export function versionOf(): { engine: string; version: string; jit: boolean } {
  return { engine: "v8", version: process.versions.node, jit: typeof WebAssembly === "object" };
}

export function memory(): { total: number; used: number; external: number } {
  const { total_heap_size: total, used_heap_size: used, external_memory: external } = v8.getHeapStatistics();
  return { total, used, external };
}

/** TypeScript as JavaScript. */
export function transpile(source: string): string {
  return stripTypeScriptTypes(source, { mode: "transform" });
}

/** From now on an interrupt ends what can be ended, and nothing else. */
export function takeInterrupts(): void {
  takeSignal(ENGINE_START.interrupt.v8);
}

export function interruptThis(): void {
  process.kill(process.pid, ENGINE_START.interrupt.v8);
}

export function heapSnapshot(): Promise<Uint8Array> {
  const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>();
  const session = new inspector.Session();
  session.connect();
  const parts: string[] = [];
  session.on("HeapProfiler.addHeapSnapshotChunk", ({ params }) => void parts.push(params.chunk));
  session.post("HeapProfiler.takeHeapSnapshot", (error) => {
    session.disconnect();
    if (error) reject(error);
    else resolve(Buffer.from(parts.join("")));
  });
  return promise;
}

/**
 * Code that is made from text where no script of the guest calls, such as by a getter, would import what this program
 * can. No error of our realm may come of it.
 */
export function forbidImports(): void {
  registerHooks({
    resolve: (specifier) => {
      // eslint-disable-next-line @typescript-eslint/only-throw-error -- the guest catches it
      throw `Import of ${JSON.stringify(specifier)} was denied: no script of the guest asks for it`;
    },
  });
}

/**
 * Node awaits what it gets, and would give functions of our realm to a `then` of the guest: it gets a promise of our
 * own, and no module that has a `then`.
 */
export function importing(importer: Function, settle: Settle, refusal: () => unknown): unknown {
  return async (specifier: string, owner: unknown, attributes: unknown) => {
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    settle(
      importer(specifier, owner, attributes) as unknown,
      (found) => {
        if (isModuleNamespaceObject(found) && !Reflect.has(found as object, "then")) resolve(found);
        else reject(refusal());
      },
      reject,
    );
    return promise;
  };
}

export function collectGarbage(): void {
  v8.setFlagsFromString("--expose-gc");
  (vm.runInNewContext("gc") as () => void)();
  v8.setFlagsFromString("--no-expose-gc");
}

/** In a thread of its own, which a guest that computes, or is stopped, does not keep from hearing them. */
export function debug(socket: number): void {
  new Worker(join(import.meta.dirname, "debugger.node.js"), { workerData: socket }).unref();
}
