/**
 * The streams of the web for the guest: a library, evaluated in its realm when it first touches one of their globals.
 * Code of the guest may have run by then. So what the library takes from the realm was kept before, and it sees that in
 * place of the globals.
 */
import type { Realm } from "./realm.ts";

/** What code of the guest's realm does with streams for us. What the functions that it is given throw is lost. */
export type WebStreams = {
  readonly prototype: object;
  /** Locks it. @throws an error of the guest if it is locked */
  readonly reader: (stream: object) => object;
  /** Calls one of the functions, at once or later. */
  readonly read: (
    reader: object,
    item: (value: unknown) => void,
    end: () => void,
    bad: (error: unknown) => void,
  ) => void;
  /** @param reader ours; without one, a stream that the guest reads is left alone */
  readonly cancel: (stream: object, reader: object | undefined) => void;
  /** A stream that is filled from outside: `pull` asks for items, which `put` of the handle brings. */
  readonly source: (
    pull: (handle: Handle) => void,
    left: () => void,
    ahead: number,
  ) => { readonly stream: object; readonly handle: Handle };
};

/** Its stream keeps it, and it keeps its stream. */
export type Handle = {
  readonly put: (value: unknown) => void;
  readonly close: () => void;
  readonly fail: (error: unknown) => void;
};

const FILE = "ipcctl:streams";

/** Runs before anything else of the guest: keeps what is needed later, and makes the globals. */
const KEEP = `((load) => {
  "use strict";
  const { apply, defineProperty, getOwnPropertyDescriptor, ownKeys } = Reflect;
  const { Promise, Symbol, Error, TypeError, RangeError, Number, Math, ArrayBuffer, DataView, Uint8Array, Object,
    isFinite } = globalThis;
  const kept = { __proto__: null, apply, defineProperty, getOwnPropertyDescriptor, ownKeys, Promise, Symbol, Error,
    TypeError, RangeError, Number, ArrayBuffer, DataView, Uint8Array, isFinite,
    then: Promise.prototype.then, resolve: Promise.resolve, reject: Promise.reject, all: Promise.all,
    create: Object.create, hasOwn: Object.prototype.hasOwnProperty,
    description: getOwnPropertyDescriptor(Symbol.prototype, "description").get,
    Math: { __proto__: null, ceil: Math.ceil, floor: Math.floor, min: Math.min, trunc: Math.trunc } };
  const names = ["ReadableStream", "ReadableStreamDefaultReader", "ReadableStreamBYOBReader",
    "ReadableStreamDefaultController", "ReadableByteStreamController", "ReadableStreamBYOBRequest", "WritableStream",
    "WritableStreamDefaultWriter", "WritableStreamDefaultController", "TransformStream",
    "TransformStreamDefaultController", "ByteLengthQueuingStrategy", "CountQueuingStrategy", "AbortController",
    "AbortSignal"];
  const global = globalThis;
  const put = (name, value) => defineProperty(global, name,
    { __proto__: null, value, writable: true, configurable: true, enumerable: false });
  let made;
  const get = () => {
    if (made !== undefined) return made;
    let started;
    try {
      started = load(kept);
    } catch {
      throw new RangeError("streams cannot be loaded here, such as for want of room on the stack");
    }
    for (let at = 0; at < names.length; at++) {
      const present = getOwnPropertyDescriptor(global, names[at]);
      if (present !== undefined && apply(kept.hasOwn, present, ["get"]) && present.get === getters[at])
        put(names[at], started.globals[names[at]]);
    }
    return made = started;
  };
  const getters = [];
  for (let at = 0; at < names.length; at++) {
    const name = names[at];
    const getter = () => get().globals[name];
    defineProperty(getters, at, { __proto__: null, value: getter });
    defineProperty(global, name, { __proto__: null, configurable: true, enumerable: false, get: getter,
      set: (value) => { put(name, value); } });
  }
  return { made: () => made && made.ours, make: () => get().ours };
})`;

/** @returns what is there: `made` if the guest, or we, have touched it; `make` evaluates it otherwise */
export function addWebStreams(realm: Realm): { made: () => WebStreams | undefined; make: () => WebStreams } {
  const keep = realm.run(KEEP, FILE) as (load: (kept: unknown) => unknown) => ReturnType<typeof addWebStreams>;
  return keep((kept) => {
    // eslint-disable-next-line @typescript-eslint/no-require-imports -- most engines never load it
    const { START, LIBRARY } = require("./streams-library.ts") as typeof import("./streams-library.ts");
    const start = realm.run(START, FILE) as (kept: unknown, evaluate: unknown) => unknown;
    return start(kept, realm.run(LIBRARY, FILE));
  });
}
