/** What is evaluated in the realm of a guest that touches streams. */
import library from "web-streams-polyfill/dist/ponyfill.js" with { type: "text" };

/** Evaluates the library, which is called with what it sees as its globals. */
export const START = `((kept, library) => {
  "use strict";
  const { apply, defineProperty, getOwnPropertyDescriptor, ownKeys, Promise, Symbol, Error, TypeError, create } = kept;
  const ignore = () => {};
  const then = (of, good, bad) => apply(kept.then, of, [good, bad]);

  // Nothing of a description may come from Object.prototype.
  const exact = (of) => {
    const own = { __proto__: null };
    const keys = ownKeys(of);
    for (let at = 0; at < keys.length; at++) own[keys[at]] = of[keys[at]];
    return own;
  };
  const define = (on, key, how) => {
    if (!defineProperty(on, key, exact(how))) throw new TypeError("this property cannot be defined");
    return on;
  };
  const defineAll = (on, all) => {
    const keys = ownKeys(all);
    for (let at = 0; at < keys.length; at++) define(on, keys[at], all[keys[at]]);
    return on;
  };
  const bound = (fn) => {
    const call = (value) => apply(fn, Promise, [value]);
    defineProperty(call, "bind", { __proto__: null, value: () => call });
    return call;
  };

  // ---- what ends early ----

  let abort;
  class AbortSignal {
    #listeners = [];
    #isAborted = false;
    #reason = undefined;
    onabort = null;
    constructor(from) { if (from !== kept) throw new TypeError("Illegal constructor"); }
    get aborted() { return this.#isAborted; }
    get reason() { return this.#reason; }
    throwIfAborted() { if (this.#isAborted) throw this.#reason; }
    addEventListener(type, listener, options) {
      if (type !== "abort" || listener === null || listener === undefined) return;
      for (let at = 0; at < this.#listeners.length; at++) if (this.#listeners[at].listener === listener) return;
      const once = typeof options === "object" && options !== null && options.once === true;
      this.#keep(() => true, { listener, once });
    }
    removeEventListener(type, listener) {
      if (type === "abort") this.#keep((one) => one.listener !== listener);
    }
    #keep(test, more) {
      const left = [];
      const add = (one) => { defineProperty(left, left.length, { __proto__: null, value: one }); };
      for (let at = 0; at < this.#listeners.length; at++) if (test(this.#listeners[at])) add(this.#listeners[at]);
      if (more !== undefined) add(more);
      this.#listeners = left;
    }
    #abort(reason) {
      if (this.#isAborted) return;
      this.#isAborted = true;
      if (reason === undefined) {
        reason = new Error("This operation was aborted");
        defineProperty(reason, "name", { __proto__: null, value: "AbortError", writable: true, configurable: true });
      }
      this.#reason = reason;
      const listeners = this.#listeners;
      this.#keep(({ once }) => !once);
      const event = { type: "abort", target: this, currentTarget: this };
      const call = (listener) => {
        try {
          if (typeof listener === "function") apply(listener, this, [event]);
          else if (typeof listener === "object" && listener !== null) listener.handleEvent(event);
        } catch (error) {
          apply(kept.reject, Promise, [error]); // told as one that nobody handles
        }
      };
      call(this.onabort);
      for (let at = 0; at < listeners.length; at++) call(listeners[at].listener);
    }
    static { abort = (signal, reason) => signal.#abort(reason); }
    static abort(reason) {
      const signal = new AbortSignal(kept);
      abort(signal, reason);
      return signal;
    }
    static any(signals) {
      const signal = new AbortSignal(kept);
      for (const one of signals) {
        if (one.aborted) abort(signal, one.reason);
        else one.addEventListener("abort", () => abort(signal, one.reason), { once: true });
      }
      return signal;
    }
  }
  class AbortController {
    #signal = new AbortSignal(kept);
    get signal() { return this.#signal; }
    abort(reason) { abort(this.#signal, reason); }
  }
  const tag = (of, value) => {
    defineProperty(of.prototype, Symbol.toStringTag, { __proto__: null, value, configurable: true });
  };
  tag(AbortSignal, "AbortSignal");
  tag(AbortController, "AbortController");

  // ---- the library ----

  const Promised = function (act) { return new Promise(act); };
  Promised.prototype = { __proto__: null, then: { __proto__: null, call: then } };
  defineAll(Promised, { resolve: { value: bound(kept.resolve) }, reject: { value: bound(kept.reject) },
    all: { value: bound(kept.all) } });
  const globals = { __proto__: null };
  library(globals, {
    __proto__: null, Promise: Promised, Symbol, Error, TypeError, RangeError: kept.RangeError, Number: kept.Number,
    Math: kept.Math, ArrayBuffer: kept.ArrayBuffer, DataView: kept.DataView, Uint8Array: kept.Uint8Array,
    isFinite: kept.isFinite, AbortController,
    Function: { prototype: { apply: { __proto__: null, call: apply } } },
    Object: { defineProperty: define, defineProperties: defineAll, create,
      prototype: { hasOwnProperty: { __proto__: null, call: (of, key) => apply(kept.hasOwn, of, [key]) } } },
    queueMicrotask: (act) => { then(apply(kept.resolve, Promise, [undefined]), () => { act(); }); },
  });
  globals.AbortController = AbortController;
  globals.AbortSignal = AbortSignal;

  // ---- what we do with it ----

  const { ReadableStream, ReadableStreamDefaultReader, ReadableStreamDefaultController } = globals;
  const controls = ReadableStreamDefaultController.prototype;
  const { enqueue, close, error: fail } = controls;
  const { cancel: cancelReader } = ReadableStreamDefaultReader.prototype;
  const { cancel: cancelStream } = ReadableStream.prototype;
  let pullSteps;
  const symbols = ownKeys(controls);
  for (let at = 0; at < symbols.length; at++) {
    const one = symbols[at];
    if (typeof one === "symbol" && apply(kept.description, one, []) === "[[PullSteps]]") pullSteps = one;
  }
  const guarded = (act) => (value) => { try { act(value); } catch {} };
  const quietly = (promise) => { then(promise, ignore, ignore); };
  const ours = { __proto__: null,
    prototype: ReadableStream.prototype,
    reader: (stream) => new ReadableStreamDefaultReader(stream),
    // As its method does it, without the promise: a result has the prototype of all objects, and so may have a then.
    read: (reader, item, end, bad) => {
      const request = { __proto__: null, _chunkSteps: guarded(item), _closeSteps: guarded(end),
        _errorSteps: guarded(bad) };
      const stream = reader._ownerReadableStream;
      stream._disturbed = true;
      if (stream._state === "closed") end();
      else if (stream._state === "errored") bad(stream._storedError);
      else stream._readableStreamController[pullSteps](request);
    },
    cancel: (stream, reader) => {
      quietly(reader === undefined ? apply(cancelStream, stream, []) : apply(cancelReader, reader, []));
    },
    source: (pull, left, ahead) => {
      let controller;
      const act = (fn, args) => { try { apply(fn, controller, args); } catch {} };
      const handle = { __proto__: null, put: (value) => { act(enqueue, [value]); }, close: () => { act(close, []); },
        fail: (error) => { act(fail, [error]); } };
      const stream = new ReadableStream({ __proto__: null, start: (one) => { controller = one; },
        pull: guarded(() => { pull(handle); }), cancel: guarded(left) }, { __proto__: null, highWaterMark: ahead });
      return { stream, handle };
    },
  };
  return { __proto__: null, globals, ours };
})`;

/** The library's own globals, as parameters; those that are not given are undefined. */
const SEEN = [
  ...["Promise", "Symbol", "Error", "TypeError", "RangeError", "Number", "Math", "ArrayBuffer", "DataView"],
  ...["Uint8Array", "isFinite", "AbortController", "Function", "Object", "queueMicrotask", "globalThis", "self"],
  ...["global", "define", "structuredClone", "DOMException"],
];

export const LIBRARY = `(exports, { ${SEEN.join(", ")} }) => { const module = {}; ${library}\n}`;
