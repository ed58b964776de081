/**
 * The serving side of a session: runs what is called, answers, and sends streams as far as their reader gives credit.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { TO_CLIENT as TO, TO_WORKER as FROM } from "../../contract/messages.ts";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { errorRecord } from "../plane/cbor-encode.ts";
import { StreamRef } from "../plane/values.ts";
import { BrokenChannel } from "../plane/ring.ts";
import { faultOfCall, type CallMessage } from "./codec.ts";
import { errorOf, type Hello } from "./session.ts";
import { Incoming, Outgoing, Stream } from "./streams.ts";
import { traced } from "./trace.ts";
import type { Message, Transport } from "./transport.ts";

const REQUESTS_MAX = limit("requests");
const NAME_BYTES_MAX = limit("boundNameBytes");

/** Functions by the names that clients call. Keyword arguments come as one more object after the others. */
export type Exposed = Readonly<Record<string, (...args: never[]) => unknown>>;

/** What a called function can know about its request. */
export type CallContext = {
  /** Aborted when the client gives up the request, for example at a deadline, or is gone. */
  readonly signal: AbortSignal;
  /**
   * A function that the client has bound under this name. Its promise rejects with what the client's function threw.
   */
  readonly bound: <T = unknown>(name: string) => (...args: unknown[]) => Promise<T>;
};

const contexts = new AsyncLocalStorage<CallContext>();

/** The context of the call that this code runs for, also after an `await`. @throws IpcError FAILED outside of a call */
export function callContext(): CallContext {
  const context = contexts.getStore();
  if (!context) throw new IpcError("FAILED", "callContext: this code does not run for a call");
  return context;
}

/** One client, over one transport. */
export class CallServer implements Disposable {
  readonly #transport: Transport;
  readonly #exposed: Exposed;
  readonly #requests = new Map<number, Request>();
  readonly #streams = new Map<number, Outgoing>();
  /** Streams of the client that are read here. */
  readonly #incoming = new Map<number, Incoming>();
  readonly #bound = new Set<string>();
  readonly #invocations = new Map<number, PromiseWithResolvers<unknown>>();
  readonly #closed = Promise.withResolvers<Error>();
  #next = 1;

  constructor(transport: Transport, exposed: Exposed) {
    this.#transport = traced(transport, "server");
    this.#exposed = exposed;
    this.#transport.listen("server", {
      onMessage: (message) => this.#take(message),
      onUnreadable: (kind, number, cause) => this.#onUnreadable(kind, number, cause),
      onInterrupt: (number) => this.#interrupt(number),
      onClose: (cause) => this.#onClose(cause),
    });
    this.#transport.send([TO.hello, 0, hello(exposed)]);
  }

  /** Why the session ended, once it has. */
  get closed(): Promise<Error> {
    return this.#closed.promise;
  }

  // ---- messages ----

  #take(message: Message): void {
    const [kind, number, value] = message;
    if (!Number.isSafeInteger(number) || number < 0)
      throw new BrokenChannel("the number of a message must be an integer from 0");
    switch (kind) {
      case FROM.call:
        return this.#call(message);
      case FROM.eval:
        this.#requireNew(number);
        return this.#fail(number, new IpcError("FAILED", "this worker does not evaluate code"));
      case FROM.cancel:
        return this.#cancel(number);
      case FROM.credit:
        return this.#streams.get(number)?.want(value);
      case FROM.bind:
        this.#bound.add(nameOf(value));
        if (this.#bound.size > REQUESTS_MAX) throw new BrokenChannel(`more than ${REQUESTS_MAX} functions are lent`);
        return;
      case FROM.unbind:
        return void this.#bound.delete(nameOf(value));
      case FROM.return:
        return this.#invoked(number)?.resolve(value);
      case FROM.throw:
        return this.#invoked(number)?.reject(errorOf(value));
      case FROM.push:
        return this.#incoming.get(number)?.push(value);
      case FROM.close:
        return this.#incoming.get(number)?.end();
      case FROM.fail:
        return this.#incoming.get(number)?.fail(errorOf(value));
      case FROM.forget:
        return this.#transport.forget(number);
      default:
        throw new BrokenChannel(`unknown kind of message: ${typeof kind === "number" ? kind : typeof kind}`);
    }
  }

  /** It costs only what it belongs to. */
  #onUnreadable(kind: number, number: number, cause: Error): void {
    const error = new IpcError("FAILED", `the client sent a value that cannot be held here: ${cause.message}`, {
      cause,
    });
    if (kind === FROM.call || kind === FROM.eval) {
      this.#requireNew(number);
      return this.#fail(number, error);
    }
    if (kind === FROM.return) return this.#invoked(number)?.reject(error);
    const stream = kind === FROM.push ? this.#incoming.get(number) : undefined;
    if (!stream) throw new BrokenChannel(cause.message);
    stream.fail(error);
    this.#tell([TO.leave, number]);
  }

  /**
   * Sends unless the session has ended, or ends by this: `onClose` reports that, and a rejection here would have nobody
   * to handle it.
   * @throws CodecError
   */
  #tell(message: Message): void {
    try {
      if (this.#transport.isOpen) this.#transport.send(message);
    } catch (error) {
      if (!(error instanceof BrokenChannel)) throw error;
    }
  }

  // ---- requests ----

  /** A second request with the number of one in progress would end that one instead of itself. */
  #requireNew(number: number): void {
    if (this.#requests.has(number)) throw new BrokenChannel(`request ${number} is in progress already`);
  }

  #call(message: Message): void {
    const [, number, name, args, kwargs] = message as CallMessage;
    this.#requireNew(number);
    const fault = faultOfCall(message);
    if (fault) return this.#fail(number, fault);
    if (this.#requests.size >= REQUESTS_MAX)
      return this.#fail(number, new IpcError("FAILED", `more than ${REQUESTS_MAX} requests are in progress`));
    const list = args.map((one) => (one instanceof StreamRef ? this.#receive(one.number) : one));
    if (kwargs !== null) list.push(kwargs);
    const request = new Request(<T>(bound: string) => this.#lent<T>(bound));
    this.#requests.set(number, request);
    let value: unknown;
    let isLater: boolean;
    try {
      value = contexts.run(request, this.#function(name), ...(list as never[]));
      isLater = isThenable(value);
    } catch (error) {
      return this.#fail(number, error);
    }
    if (!isLater) return this.#finish(number, request, value);
    Promise.resolve(value).then(
      (settled) => this.#finish(number, request, settled),
      (error) => this.#fail(number, error),
    );
  }

  #function(name: string): Exposed[string] {
    const found = Object.hasOwn(this.#exposed, name) ? this.#exposed[name] : undefined;
    if (found) return found;
    const known = Object.keys(this.#exposed).toSorted().join(", ") || "none";
    throw new IpcError("NOT_FOUND", `no function '${name}' is exposed; there is: ${known}`);
  }

  #finish(number: number, request: Request, value: unknown): void {
    try {
      const iterator = iteratorOf(value);
      if (iterator) return this.#begin(number, request, iterator);
      this.#tell([TO.result, number, value]);
    } catch (error) {
      return this.#fail(number, error);
    }
    this.#end(number, false);
  }

  #fail(number: number, error: unknown): void {
    this.#tell([TO.error, number, errorRecord(error)]);
    this.#end(number, true);
  }

  #end(number: number, isError: boolean): void {
    const began = this.#requests.get(number)?.began;
    this.#requests.delete(number);
    this.#streams.delete(number);
    this.#transport.countAnswer(isError, began === undefined ? 0 : (performance.now() - began) * 1e6);
    // Whoever makes one call after the other finds us awake; while code of ours runs, it is not held up.
    if (this.#requests.size === 0 && this.#transport.isOpen) this.#transport.expect();
  }

  /** The client stops waiting for it. Code that checks its signal ends; the answer of other code is sent as usual. */
  #interrupt(number: number): void {
    this.#requests.get(number)?.abort();
  }

  #cancel(number: number): void {
    const stream = this.#streams.get(number);
    const request = this.#requests.get(number);
    if (stream?.leave()) {
      this.#end(number, false);
      this.#tell([TO.end, number]);
    }
    request?.abort();
  }

  // ---- streams ----

  #begin(number: number, request: Request, iterator: AsyncIterator<unknown> | Iterator<unknown>): void {
    const within = {
      next: () => contexts.run(request, () => iterator.next()) as Promise<IteratorResult<unknown>>,
      return: () => contexts.run(request, () => iterator.return?.()) as unknown as Promise<IteratorResult<unknown>>,
    };
    const stream = new Outgoing(within, {
      item: (item) => this.#tell([TO.item, number, item]),
      end: () => {
        this.#end(number, false);
        this.#tell([TO.end, number]);
      },
      fail: (record) => {
        this.#end(number, true);
        this.#tell([TO.error, number, record]);
      },
    });
    this.#streams.set(number, stream);
    request.onAbort(() => {
      if (!stream.leave()) return;
      this.#fail(number, request.signal.reason);
    });
    this.#tell([TO.stream, number]);
  }

  #receive(number: number): Stream {
    if (this.#incoming.has(number) || this.#incoming.size >= REQUESTS_MAX)
      throw new BrokenChannel(`stream ${number} of the client is open already, or more than ${REQUESTS_MAX} are`);
    const incoming = new Incoming(
      "client",
      (credit) => this.#tell([TO.want, number, credit]),
      (isEarly) => {
        this.#incoming.delete(number);
        if (isEarly) this.#tell([TO.leave, number]);
      },
      () => undefined,
    );
    this.#incoming.set(number, incoming);
    return new Stream(incoming);
  }

  // ---- functions of the client ----

  #lent<T>(name: string): (...args: unknown[]) => Promise<T> {
    return (...args) => {
      if (!this.#bound.has(name))
        return Promise.reject(new IpcError("NOT_FOUND", `the client has bound no function ${name}`));
      const number = this.#next++;
      const invocation = Promise.withResolvers<unknown>();
      try {
        this.#transport.send([TO.invoke, number, name, args, null]);
      } catch (error) {
        return Promise.reject(error);
      }
      this.#invocations.set(number, invocation);
      return invocation.promise as Promise<T>;
    };
  }

  #invoked(number: number): PromiseWithResolvers<unknown> | undefined {
    const invocation = this.#invocations.get(number);
    this.#invocations.delete(number);
    return invocation;
  }

  // ---- the end ----

  #onClose(cause: Error): void {
    const gone = new IpcError("CONNECTION_LOST", `the client is gone: ${cause.message}`, { cause });
    for (const request of this.#requests.values()) request.abort(gone);
    for (const stream of this.#streams.values()) stream.leave();
    for (const stream of this.#incoming.values()) stream.fail(gone);
    for (const invocation of this.#invocations.values()) invocation.reject(gone);
    for (const all of [this.#requests, this.#streams, this.#incoming, this.#invocations]) all.clear();
    this.#closed.resolve(cause);
  }

  [Symbol.dispose](): void {
    this.#transport[Symbol.dispose]();
  }
}

class Request implements CallContext {
  /** By the clock of `performance`. */
  readonly began = performance.now();
  readonly bound: CallContext["bound"];
  /** Created on demand: most functions do not ask for it. */
  #controller: AbortController | undefined;
  #reason: Error | undefined;
  #onAbort: (() => void) | undefined;

  constructor(bound: CallContext["bound"]) {
    this.bound = bound;
  }

  get signal(): AbortSignal {
    this.#controller ??= new AbortController();
    if (this.#reason && !this.#controller.signal.aborted) this.#controller.abort(this.#reason);
    return this.#controller.signal;
  }

  onAbort(callback: () => void): void {
    this.#onAbort = callback;
  }

  abort(reason: Error = new DOMException("the client has given this request up", "AbortError")): void {
    if (this.#reason) return;
    this.#reason = reason;
    this.#controller?.abort(reason);
    this.#onAbort?.();
  }
}

function hello(exposed: Exposed): Hello {
  const { bun, node } = process.versions;
  return {
    pid: process.pid,
    python: "",
    implementation: bun === undefined ? `node ${node}` : `bun ${bun}`,
    exposed: Object.keys(exposed).toSorted(),
  };
}

/** What `await` waits for: the queries of many libraries are no promises. A value with a function cannot be sent. */
function isThenable(value: unknown): boolean {
  return typeof value === "object" && value !== null && typeof (value as { then?: unknown }).then === "function";
}

/** For an async iterable and for a generator; a list or a map is a value. */
function iteratorOf(value: unknown): AsyncIterator<unknown> | Iterator<unknown> | undefined {
  if (value === null || typeof value !== "object") return undefined;
  if (Symbol.asyncIterator in value) return (value as AsyncIterable<unknown>)[Symbol.asyncIterator]();
  const isIterator = Symbol.iterator in value && typeof (value as { next?: unknown }).next === "function";
  return isIterator ? (value as IterableIterator<unknown>)[Symbol.iterator]() : undefined;
}

/** @throws BrokenChannel */
function nameOf(value: unknown): string {
  if (typeof value === "string" && Buffer.byteLength(value) <= NAME_BYTES_MAX) return value;
  throw new BrokenChannel(`the name of a bound function must be text of at most ${NAME_BYTES_MAX} bytes`);
}
