/**
 * The calling side of a session: requests by number, their answers, streams in both directions, and bound functions.
 */
import { TO_CLIENT as FROM, TO_WORKER as TO } from "../../contract/messages.ts";
import { IpcError } from "../base/errors.ts";
import { errorRecord } from "../plane/cbor-encode.ts";
import { StreamRef } from "../plane/values.ts";
import { BrokenChannel, PeerGone } from "../plane/ring.ts";
import { faultOfCall, type CallMessage } from "./codec.ts";
import { errorOf, type Hello, type Lent } from "./session.ts";
import { Incoming, Outgoing, Stream } from "./streams.ts";
import { traced } from "./trace.ts";
import type { Message, Transport } from "./transport.ts";
import { sleep } from "../base/patience.ts";

/** The longest sleep of a blocking call between two looks. */
const BLOCKING_LOOK_MS = 100;
/** A generator is told when its reader leaves; one that computes longer than this is interrupted. */
const LEAVE_MS = 20;
/** Between two checks whether abandoned requests have ended. */
const STOPPED_LOOK_MS = 5;

/** How one request is made. */
export type CallOptions = {
  /**
   * Milliseconds, for a stream until its end; then the code is interrupted, and the promise or the stream rejects with
   * DEADLINE.
   */
  readonly timeout?: number | undefined;
  readonly signal?: AbortSignal | undefined;
};

export type OnOutput = (stream: "stdout" | "stderr", text: string) => unknown;

export type EvalOptions = CallOptions & {
  /** A separate namespace with this name instead of the script's. */
  readonly namespace?: string | undefined;
  /** `repr`: the text that Python would print; `exec`: no value. */
  readonly mode?: "value" | "repr" | "exec" | undefined;
  /**
   * Gets what the code prints, as it prints it; without it the text goes where the worker's output goes. While a
   * promise that it returns is pending, nothing more is taken from the worker, whose code then waits in its print. If
   * it throws, the call rejects with that, and the code is ended.
   */
  readonly onOutput?: OnOutput | undefined;
};

export type CallClientOptions = {
  /** The other side, as errors name it. */
  readonly name: string;
  /** Functions that are bound from the beginning. The map belongs to its owner: a session changes nothing in it. */
  readonly bound?: ReadonlyMap<string, Lent>;
  /** The session is closed. */
  readonly onClose?: (cause: Error) => void;
  /**
   * Asked once the other side is gone: what requests in progress reject with; otherwise they reject with
   * CONNECTION_LOST.
   */
  readonly whatHappened?: (() => Promise<IpcError | undefined>) | undefined;
};

/** A request whose output is being handled: how many pieces, and what must wait for that. */
type Held = {
  count: number;
  readonly onOutput: OnOutput;
  readonly later: Message[];
  onFree?: () => void;
};

type Pending = {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
  readonly onOutput: OnOutput | undefined;
};

/** One session over one transport: both end together. Await {@link CallClient.hello} first. */
export class CallClient implements Disposable {
  readonly #name: string;
  readonly #transport: Transport;
  readonly #bound: ReadonlyMap<string, Lent>;
  readonly #options: CallClientOptions;
  /** In the order in which they began. */
  readonly #pending = new Map<number, Pending>();
  readonly #streams = new Map<number, Incoming>();
  /** Our iterables from which the other side takes items. */
  readonly #sources = new Map<number, Outgoing>();
  /** Requests whose output is being handled. */
  readonly #held = new Map<number, Held>();
  /** Streams that we have left, until the other side says that they are over. */
  readonly #left = new Set<number>();
  readonly #hello = Promise.withResolvers<Hello>();
  #next = 1;
  /** Streams whose next item is awaited. */
  #readers = 0;
  #isBlocking = false;
  /** An idle session keeps the program alive. */
  #isKept = false;
  #isRef = true;

  constructor(transport: Transport, options: CallClientOptions) {
    const { name, bound = new Map<string, Lent>() } = options;
    this.#name = name;
    this.#options = options;
    this.#transport = traced(transport, "client");
    this.#bound = bound;
    this.#hello.promise.catch(() => undefined); // whoever awaits it gets the error
    this.#transport.listen("client", {
      onMessage: (message) => this.#take(message),
      onUnreadable: (kind, number, cause) => this.#onUnreadable(kind, number, cause),
      onClose: (cause) => this.#onClose(cause),
    });
    for (const lent of this.#bound.keys()) this.#transport.send([TO.bind, 0, lent]);
  }

  /** What the other side says about itself. @throws IpcError CONNECTION_LOST, FAILED if it cannot serve anybody */
  get hello(): Promise<Hello> {
    return this.#hello.promise;
  }

  get isOpen(): boolean {
    return this.#transport.isOpen;
  }

  // ---- requests ----

  /** `T` is what the caller knows of the answer: nothing checks it. */
  call<T = unknown>(
    name: string,
    args: readonly unknown[],
    kwargs: unknown = null,
    options: CallOptions = {},
  ): Promise<T> {
    return withOptions(this, this.#name, options, (client) => client.begin(TO.call, name, args, kwargs));
  }

  /** Likewise. */
  eval<T = unknown>(code: string, options: EvalOptions = {}): Promise<T> {
    return withOptions(this, this.#name, options, (client) => client.beginEval(code, options));
  }

  beginEval<T>(code: string, { namespace, mode = "value", onOutput }: EvalOptions): Promise<T> {
    const settings = { mode, ...(namespace === undefined ? {} : { namespace }), capture: onOutput !== undefined };
    return this.begin(TO.eval, code, settings, undefined, onOutput);
  }

  forgetNamespace(namespace: string): Promise<unknown> {
    return this.begin(TO.eval, "", { mode: "forget", namespace }, undefined);
  }

  /** Sends a request; {@link CallClient.nextNumber} before it is its number. Without a deadline. */
  begin<T>(kind: number, what: string, body: unknown, more: unknown, onOutput?: OnOutput): Promise<T> {
    const number = this.#next++;
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    // First, because the answer may arrive before we return. It is what the caller says it is.
    this.#pending.set(number, { resolve: resolve as (value: unknown) => void, reject, onOutput });
    try {
      const sent = kind === TO.call ? (body as readonly unknown[]).map((one) => this.#lend(one)) : body;
      const message: Message = more === undefined ? [kind, number, what, sent] : [kind, number, what, sent, more];
      this.#transport.expect();
      this.#transport.send(message);
      this.#transport.countRequest();
    } catch (error) {
      for (let lent = number + 1; lent < this.#next; lent++) this.#leaveSource(lent); // nobody has heard of these
      // Where sending has ended the transport, the caller has been told.
      if (this.#settle(number)) reject(error instanceof BrokenChannel ? lost(this.#name, error) : (error as Error));
      return promise;
    }
    if (!this.#isRef) this.#updateRef();
    return promise;
  }

  /** The number that the next request gets. */
  get nextNumber(): number {
    return this.#next;
  }

  /** @throws what the function raised; IpcError CONNECTION_LOST, FAILED if the transport cannot block */
  callSync(name: string, args: readonly unknown[]): unknown {
    const { blocking } = this.#transport;
    if (!blocking)
      throw new IpcError(
        "FAILED",
        `${name}: callSync needs shared memory, which this transport does not have; use call`,
      );
    const number = this.#next++;
    const end: { value?: unknown; error?: Error; isOver: boolean } = { isOver: false };
    this.#pending.set(number, {
      resolve: (value: unknown) => Object.assign(end, { value, isOver: true }),
      reject: (error) => Object.assign(end, { error, isOver: true }),
      onOutput: undefined,
    });
    try {
      this.#isBlocking = true;
      blocking.send([TO.call, number, name, args, null]);
      this.#transport.countRequest();
      while (!end.isOver) blocking.wait(BLOCKING_LOOK_MS);
    } catch (error) {
      throw error instanceof BrokenChannel ? lost(this.#name, error) : error;
    } finally {
      this.#isBlocking = false;
      this.#pending.delete(number);
    }
    if (end.error) throw end.error;
    return end.value;
  }

  /** The caller stops waiting for a request, and its code must end. */
  giveUp(number: number, error: Error): void {
    const pending = this.#settle(number);
    const stream = this.#streams.get(number);
    if (!pending && !stream) return;
    pending?.reject(error);
    stream?.fail(error);
    this.#release(number);
    if (this.#transport.isOpen) this.#transport.interrupt(number);
  }

  /** The code of a request is to end; what it answers then comes as any answer. */
  cancel(number: number): void {
    if (this.#pending.has(number) && this.#transport.isOpen) this.#transport.interrupt(number);
  }

  /** Interrupts the newest unanswered request, else the stream that is being read. */
  interrupt(): void {
    const reading = [...this.#streams].findLast(([, stream]) => stream.isAwaited) ?? [...this.#streams].at(-1);
    const number = [...this.#pending.keys()].at(-1) ?? reading?.[0];
    if (number !== undefined) this.#transport.interrupt(number);
  }

  /**
   * Whether all abandoned requests have ended, waiting at most this many milliseconds. Code in one long C call does not
   * end until that returns.
   */
  async hasStopped(timeoutMs: number): Promise<boolean> {
    const deadline = performance.now() + timeoutMs;
    const isStopped = (): boolean => !this.#transport.isOpen || !this.#transport.isInterrupting;
    while (!isStopped() && performance.now() < deadline) await sleep(STOPPED_LOOK_MS);
    return isStopped();
  }

  /** Whether an idle session keeps the program alive; requests in progress always do. */
  keep(isKept: boolean): void {
    this.#isKept = isKept;
    this.#updateRef();
  }

  #updateRef(): void {
    const isRef = this.#isKept || this.#pending.size > 0 || this.#readers > 0;
    if (isRef === this.#isRef) return;
    this.#isRef = isRef;
    this.#transport.setRef(isRef);
  }

  #settle(number: number): Pending | undefined {
    const pending = this.#pending.get(number);
    this.#pending.delete(number);
    if (this.#pending.size === 0) this.#updateRef();
    return pending;
  }

  // ---- messages ----

  #take(message: Message): void {
    const kind = message[0];
    const number = message[1];
    const held = this.#transport.isEnding ? this.#held.get(number) : undefined;
    if (held && (kind === FROM.output || kind === FROM.result || kind === FROM.error)) {
      held.later.push(message);
      return;
    }
    switch (kind) {
      case FROM.result:
        this.#transport.settled(number);
        this.#settle(number)?.resolve(message[2]);
        break;
      case FROM.error:
        this.#fail(number, errorOf(message[2]));
        break;
      case FROM.output:
        this.#onOutput(number, message[2], message[3]);
        break;
      case FROM.stream:
        this.#openStream(number);
        break;
      case FROM.item:
        this.#streams.get(number)?.push(message[2]);
        break;
      case FROM.end:
        this.#transport.settled(number);
        this.#left.delete(number);
        this.#streams.get(number)?.end();
        break;
      case FROM.invoke:
        this.#invoke(message);
        break;
      case FROM.want:
        this.#sources.get(number)?.want(message[2]);
        break;
      case FROM.leave:
        this.#leaveSource(number);
        break;
      case FROM.forget:
        this.#transport.forget(number);
        break;
      case FROM.hello:
        this.#onHello(message[2] as Hello);
        break;
      default:
        throw new BrokenChannel(`unknown kind of message: ${String(kind)}`);
    }
    if (this.#pending.size > 0) this.#transport.expect();
  }

  #onHello(hello: Hello): void {
    if (hello.error === undefined) this.#hello.resolve(hello);
    else this.#hello.reject(cannotServe(this.#name, hello.error));
    this.#isRef = true;
    this.#updateRef();
  }

  #fail(number: number, error: Error): void {
    this.#transport.settled(number);
    this.#left.delete(number);
    const stream = this.#streams.get(number);
    if (stream) stream.fail(error);
    else this.#settle(number)?.reject(error);
  }

  /** It costs only what it belongs to. */
  #onUnreadable(kind: number, number: number, cause: Error): void {
    const { message, hint = "send less of it at once" } = cause as Error & { hint?: string };
    const error = new IpcError("FAILED", `${this.#name} sent a value that cannot be held here: ${message}`, {
      cause,
      hint,
    });
    if (kind === FROM.invoke) return this.#transport.send([TO.throw, number, errorRecord(error)]);
    const stream = kind === FROM.item ? this.#streams.get(number) : undefined;
    if (!stream) return this.#fail(number, error);
    stream.fail(error);
    this.#leave(number);
  }

  // ---- output ----

  /** Takes nothing more until the output was handled, or its request has ended. */
  #onOutput(number: number, stream: unknown, text: unknown): void {
    const onOutput = this.#pending.get(number)?.onOutput;
    if (!onOutput) return;
    let taken: unknown;
    try {
      taken = onOutput(...outputOf(stream, text));
    } catch (error) {
      return this.giveUp(number, error as Error);
    }
    if (!(taken instanceof Promise)) return;
    if (this.#held.size === 0) this.#transport.pause();
    const held = this.#held.get(number) ?? { count: 0, onOutput, later: [] };
    this.#held.set(number, held);
    held.count++;
    const go = (): void => {
      if (--held.count > 0) return;
      held.onFree?.();
      if (this.#held.get(number) === held) this.#release(number);
    };
    taken.then(go, (error: Error) => {
      if (this.#held.get(number) === held) this.giveUp(number, error);
      go();
    });
  }

  #release(number: number): void {
    if (this.#held.delete(number) && this.#held.size === 0) this.#transport.resume();
  }

  /** Finishes a request whose output was still being handled at its end. */
  async #finish(number: number, held: Held): Promise<void> {
    if (held.count > 0) await new Promise<void>((resolve) => (held.onFree = resolve));
    try {
      for (const [kind, , value, more] of held.later) {
        if (kind === FROM.output) await held.onOutput(...outputOf(value, more));
        else if (kind === FROM.result) this.#settle(number)?.resolve(value);
        else throw errorOf(value);
      }
    } catch (error) {
      this.#settle(number)?.reject(error as Error);
    }
  }

  // ---- streams ----

  /** An async iterable or ReadableStream among the arguments is read as the other side asks for items. */
  #lend(value: unknown): unknown {
    if (value === null || typeof value !== "object" || !(Symbol.asyncIterator in value)) return value;
    const number = this.#next++;
    const iterator = (value as AsyncIterable<unknown>)[Symbol.asyncIterator]();
    const send = (message: Message): void => {
      if (!this.#transport.isOpen) return;
      if (this.#pending.size > 0) this.#transport.expect();
      this.#transport.send(message);
    };
    const finish = (message: Message): void => {
      this.#sources.delete(number);
      send(message);
    };
    const ways = {
      item: (item: unknown): void => send([TO.push, number, item]),
      end: (): void => finish([TO.close, number]),
      fail: (record: Record<string, unknown>): void => finish([TO.fail, number, record]),
    };
    this.#sources.set(number, new Outgoing(iterator, ways));
    return new StreamRef(number);
  }

  #leaveSource(number: number): void {
    const source = this.#sources.get(number);
    this.#sources.delete(number);
    source?.leave();
  }

  #openStream(number: number): void {
    const pending = this.#settle(number);
    if (!pending) return this.#leave(number);
    const incoming = new Incoming(
      "worker",
      (credit) => {
        if (!this.#transport.isOpen) return;
        this.#transport.expect();
        this.#transport.send([TO.credit, number, credit]);
      },
      (isEarly) => {
        this.#streams.delete(number);
        if (isEarly && this.#transport.isOpen) this.#leave(number);
      },
      (isAwaited) => {
        this.#readers += isAwaited ? 1 : -1;
        // A reader that is quicker than its writer would fall asleep, and be woken, between any two items.
        if (isAwaited && this.#transport.isOpen) this.#transport.expect();
        this.#updateRef();
      },
    );
    this.#streams.set(number, incoming);
    pending.resolve(new Stream(incoming));
  }

  #leave(number: number): void {
    this.#transport.send([TO.cancel, number]);
    this.#left.add(number);
    setTimeout(() => {
      if (this.#left.delete(number) && this.#transport.isOpen) this.#transport.interrupt(number);
    }, LEAVE_MS).unref();
  }

  // ---- bound functions ----

  /** From now on {@link CallClientOptions.bound} has the function of this name. */
  bind(name: string): void {
    this.#transport.send([TO.bind, 0, name]);
  }

  unbind(name: string): void {
    this.#transport.send([TO.unbind, 0, name]);
  }

  /** A function that returns its value at once is answered at once, also while a blocking call waits. */
  #invoke(message: Message): void {
    const [, number, name, args, kwargs] = message as CallMessage;
    const transport = this.#transport;
    const fail = (error: unknown): void => {
      if (transport.isOpen) transport.send([TO.throw, number, errorRecord(error)]);
    };
    const answer = (value: unknown): void => {
      if (!transport.isOpen) return;
      try {
        transport.send([TO.return, number, value]);
      } catch (error) {
        fail(error);
      }
      if (this.#pending.size > 0 && transport.isOpen) transport.expect();
    };
    const fault = faultOfCall(message);
    if (fault) return fail(fault);
    try {
      const fn = this.#bound.get(name);
      if (!fn) throw new IpcError("NOT_FOUND", `no function ${name} is bound`);
      const value = fn(...((kwargs === null ? args : [...args, kwargs]) as never[]));
      if (!(value instanceof Promise)) return answer(value);
      if (this.#isBlocking)
        throw new IpcError(
          "FAILED",
          `${name} is async, and this program waits in callSync; use call, or make ${name} sync`,
        );
      value.then(answer, fail);
    } catch (error) {
      fail(error);
    }
  }

  // ---- the end ----

  #onClose(cause: Error): void {
    this.#hello.reject(lost(this.#name, cause));
    this.#left.clear();
    const held = [...this.#held];
    this.#held.clear();
    const answered = new Set<number>();
    for (const [number, one] of held) {
      if (one.later.some(([kind]) => kind !== FROM.output)) answered.add(number);
      void this.#finish(number, one);
    }
    const open = [...this.#pending.keys()].filter((number) => !answered.has(number));
    const pending = open.flatMap((number) => this.#settle(number) ?? []);
    const streams = [...this.#streams.values()];
    this.#streams.clear();
    for (const number of this.#sources.keys()) this.#leaveSource(number);
    const fail = (error: Error): void => {
      for (const one of pending) one.reject(error);
      for (const stream of streams) stream.fail(error);
    };
    const { onClose, whatHappened } = this.#options;
    onClose?.(cause);
    const isWorth =
      cause instanceof PeerGone && whatHappened && !this.#isBlocking && pending.length + streams.length > 0;
    if (!isWorth) return fail(lost(this.#name, cause));
    void whatHappened().then(
      (error) => fail(error ?? lost(this.#name, cause)),
      () => fail(lost(this.#name, cause)), // whoever would know is gone as well
    );
  }

  /** Ends the session and the transport; requests in progress reject. */
  [Symbol.dispose](): void {
    this.#transport[Symbol.dispose]();
  }
}

/** A deadline or an abort ends the wait at once and the code soon. Opening the session is part of the wait. */
export function withOptions<T>(
  ready: CallClient | Promise<CallClient>,
  name: string,
  { timeout, signal }: CallOptions,
  begin: (client: CallClient) => Promise<T>,
): Promise<T> {
  if (timeout === undefined && signal === undefined)
    return ready instanceof CallClient ? begin(ready) : ready.then(begin);
  if (signal?.aborted) return Promise.reject(signal.reason as Error);
  const { promise: answer, resolve, reject } = Promise.withResolvers<T>();
  let begun: { readonly client: CallClient; readonly number: number } | undefined;
  let isGivenUp = false;
  const ask = (client: CallClient): void => {
    if (isGivenUp) return;
    begun = { client, number: client.nextNumber };
    begin(client).then(resolve, reject);
  };
  if (ready instanceof CallClient) ask(ready);
  else ready.then(ask, reject);
  const give = (error: Error): void => {
    isGivenUp = true;
    if (begun) begun.client.giveUp(begun.number, error);
    else reject(error);
  };
  const late = (ms: number): IpcError => {
    const how = begun ? "did not answer" : "did not come back";
    const end = begun ? "; its code was asked to stop" : "";
    return new IpcError("DEADLINE", `${name} ${how} within ${ms / 1000} s${end}`);
  };
  const onAbort = (): void => give(signal!.reason as Error);
  signal?.addEventListener("abort", onAbort, { once: true });
  const timer = timeout === undefined ? undefined : setTimeout(() => give(late(timeout)), timeout);
  const finish = (): void => {
    clearTimeout(timer);
    signal?.removeEventListener("abort", onAbort);
  };
  answer.then((value) => (value instanceof Stream ? value.onOver(finish) : finish()), finish);
  return answer;
}

/** What the worker says about its output, which may be anything. */
function outputOf(stream: unknown, text: unknown): ["stdout" | "stderr", string] {
  return [stream === "stderr" ? "stderr" : "stdout", String(text)];
}

export function lost(name: string, cause: Error): IpcError {
  return new IpcError("CONNECTION_LOST", `${name}: ${cause.message}`, { cause, hint: `see: ipcctl describe ${name}` });
}

/** Its runtime cannot load the code that serves calls. */
function cannotServe(name: string, reason: string): IpcError {
  return new IpcError("FAILED", `${name} cannot let ipcctl in: ${reason.slice(0, 1000)}`, {
    hint: `see: ipcctl logs ${name}`,
  });
}
