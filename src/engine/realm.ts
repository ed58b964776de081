/**
 * The realm in which the guest's code runs: a bare context, and factories of its objects. Nothing of our own realm may
 * get into it: whoever has one of our functions has its constructor, and by that everything that this process can do.
 * The process is the boundary; this keeps the guest from what was not bound to it.
 */
import vm from "node:vm";
import { importing } from "./engine-platform.ts";

/** What code of the guest's realm does for us: made before the guest ran, and out of its reach. */
export type Factories = {
  readonly global: Record<PropertyKey, unknown>;
  readonly objectPrototype: object;
  readonly promisePrototype: object;
  readonly list: (items: readonly unknown[]) => unknown[];
  readonly record: (fields: object) => Record<string, unknown>;
  readonly group: (items: readonly unknown[]) => Set<unknown>;
  readonly table: (entries: readonly (readonly [unknown, unknown])[]) => Map<unknown, unknown>;
  readonly time: (ms: number) => Date;
  /** Of so many elements, by the name of its class. */
  readonly array: (name: string, length: number) => ArrayBufferView;
  /** Of memory that it does not copy. */
  readonly view: (name: string, buffer: ArrayBuffer, offset: number, length: number) => ArrayBufferView;
  /** The same memory as a buffer of the guest; the one that is given has none any more. */
  readonly adopt: (buffer: ArrayBuffer) => ArrayBuffer;
  readonly error: (name: string, message: string) => Error;
  /** A function of the guest: `act` gets its arguments, and answers `[hasFailed, value or error]`. */
  readonly fn: (act: (args: unknown[], self: unknown) => readonly [boolean, unknown], name: string) => Function;
  /** A promise, and what settles it. */
  readonly promise: () => {
    readonly promise: Promise<unknown>;
    readonly resolve: (value: unknown) => void;
    readonly reject: (error: unknown) => void;
  };
  /** Calls one of these once the value, or the promise that it is, is settled. */
  readonly settle: (value: unknown, ok: (value: unknown) => void, bad: (error: unknown) => void) => void;
  readonly apply: (fn: Function, self: unknown, args: readonly unknown[]) => unknown;
  readonly evaluate: (source: string) => unknown;
};

/** Runs in the guest's realm before anything else. What it uses it has taken out of reach. */
const FACTORIES = `(() => {
  "use strict";
  const { apply, getPrototypeOf } = Reflect;
  const { Map, Set, Date, Promise, Error, Object } = globalThis;
  const mapSet = Map.prototype.set, setAdd = Set.prototype.add, then = Promise.prototype.then, resolved = Promise.resolve;
  const { transfer } = ArrayBuffer.prototype, { toString } = Error.prototype;
  const arrays = { __proto__: null, Int8Array, Uint8Array, Uint8ClampedArray, Int16Array, Uint16Array, Int32Array,
    Uint32Array, BigInt64Array, BigUint64Array, Float32Array, Float64Array,
    Float16Array: globalThis.Float16Array };
  const errors = { __proto__: null, Error, TypeError, RangeError, SyntaxError, ReferenceError, EvalError, URIError };
  const objects = Object.prototype;
  // Bun would give it a list and call sites of the program's own realm.
  Object.defineProperty(Error, "prepareStackTrace", { get: () => undefined, set: () => {}, configurable: false });
  const { captureStackTrace } = Error;
  const probe = {};
  captureStackTrace(probe);
  const { split, includes } = String.prototype, { join, slice } = Array.prototype;
  if (!apply(includes, probe.stack, ["    at "])) // Bun's has lines of another form, with paths of the program
    Error.captureStackTrace = { captureStackTrace(target, above) {
      const lines = apply(split, new Error().stack, ["\\n"]);
      let from = 2; // without a message, and without this function
      if (typeof above === "function")
        for (let at = 2; at < lines.length && from === 2; at++)
          if (apply(includes, lines[at], ["at " + above.name + " ("]) ||
            apply(includes, lines[at], ["at new " + above.name + " ("])) from = at + 1;
      const head = target instanceof Error ? apply(toString, target, []) : "Error";
      const value = apply(join, [head, ...apply(slice, lines, [from])], ["\\n"]);
      Object.defineProperty(target, "stack", { __proto__: null, value, writable: true, configurable: true });
    } }.captureStackTrace;
  const ours = (error) => {
    // An error of the program's own realm, such as one of a full stack: only its text may be seen.
    if ((typeof error !== "object" && typeof error !== "function") || error === null) return error;
    for (let one = error, depth = 0; one !== null && depth < 100; one = getPrototypeOf(one), depth++)
      if (one === objects) return error;
    return new Error("internal error");
  };
  return {
    global: globalThis,
    objectPrototype: objects,
    promisePrototype: Promise.prototype,
    list: (items) => [...items],
    record: (fields) => ({ ...fields }),
    group: (items) => { const set = new Set();
      for (let at = 0; at < items.length; at++) apply(setAdd, set, [items[at]]);
      return set; },
    table: (entries) => { const map = new Map(); for (const [key, value] of entries) apply(mapSet, map, [key, value]);
      return map; },
    time: (ms) => new Date(ms),
    array: (name, length) => new arrays[name](length),
    view: (name, buffer, offset, length) => new arrays[name](buffer, offset, length),
    adopt: (buffer) => apply(transfer, buffer, []),
    error: (name, message) => new (errors[name] ?? Error)(message),
    fn: (act, name) => {
      const made = { [name](...args) {
        let answer;
        try { answer = act(args, this); } catch (error) { throw ours(error); }
        if (answer[0]) throw answer[1];
        return answer[1];
      } }[name];
      return made;
    },
    promise: () => {
      let resolve, reject;
      const promise = new Promise((one, other) => { resolve = one; reject = other; });
      return { promise, resolve, reject };
    },
    settle: (value, ok, bad) => {
      apply(then, apply(resolved, Promise, [value]), [(one) => { ok(one); }, (one) => { bad(one); }]);
    },
    apply,
    evaluate: eval,
  };
})()`;

export class Realm {
  readonly context: vm.Context;
  readonly make: Factories;
  /** A function of the guest's realm that serves `import()`, and gives a promise of that realm. */
  importer: Function | undefined;
  #importing: unknown;
  /** Where the first line of a source begins in what was made of it, by the name that stacks have. */
  readonly firstColumns = new Map<string, number>();

  constructor() {
    // Code that was made from text, and that no script has called, asks here.
    const importModuleDynamically = (...args: unknown[]): unknown =>
      (this.importing as (...args: unknown[]) => unknown)(...args);
    this.context = vm.createContext(vm.constants.DONT_CONTEXTIFY, { importModuleDynamically } as object);
    this.make = vm.runInContext(FACTORIES, this.context, { filename: "ipcctl:realm" }) as Factories;
    const { global } = this.make;
    // A realm of its own, in which the engine shows more than in this one.
    delete global.ShadowRealm;
  }

  /** The same for the engine. */
  get importing(): unknown {
    const { settle, error } = this.make;
    const refusal = (): Error =>
      error("TypeError", "import() of a module that exports `then`: the engine v8 has no such");
    return (this.#importing ??= importing(this.importer!, settle, refusal));
  }

  /** A global of the guest that `for … in` does not show, as those of the language. */
  define(name: string, value: unknown): void {
    Reflect.defineProperty(this.make.global, name, { value, writable: true, configurable: true, enumerable: false });
  }

  run(source: string, filename: string): unknown {
    return new vm.Script(source, { filename, importModuleDynamically: this.importing as never }).runInContext(
      this.context,
    );
  }
}
