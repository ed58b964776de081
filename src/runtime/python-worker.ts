/** A worker as a program sees it: call its functions, evaluate code in it, stream from it, lend it functions. */
import { IpcError } from "../base/errors.ts";
import { BrokenChannel, Channel, PeerGone } from "../plane/channel.ts";
import { pokeWorker } from "../plane/meet.ts";
import { Pipe } from "../plane/pipe.ts";
import { decode } from "../plane/cbor-decode.ts";
import { Encoder, errorRecord } from "../plane/cbor-encode.ts";
import { StreamRef } from "../plane/codec-error.ts";
import { PythonError } from "../plane/python-error.ts";

const TO = {
  call: 1,
  eval: 2,
  cancel: 3,
  credit: 4,
  bind: 5,
  return: 6,
  throw: 7,
  unbind: 8,
  push: 9,
  close: 10,
  fail: 11,
  forget: 12,
} as const;
const FROM = {
  result: 1,
  error: 2,
  output: 3,
  stream: 4,
  item: 5,
  end: 6,
  invoke: 7,
  hello: 8,
  want: 9,
  leave: 10,
  forget: 11,
} as const;
/** Items of a stream that may be under way or waiting here; half of it is granted again as they are taken. */
const STREAM_WINDOW = 64;

const PIPE_OPEN_MS = 10_000;
/** The longest sleep of a blocking call between two looks. */
const BLOCKING_LOOK_MS = 100;
/** As the number of an interrupt: whatever of ours runs. */
const ANYTHING = 0xffff_ffff | 0;

/** How one request is made. */
export type CallOptions = {
  /** Milliseconds; then the code is interrupted and the promise rejects with DEADLINE. */
  readonly timeout?: number | undefined;
  readonly signal?: AbortSignal | undefined;
};

export type EvalOptions = CallOptions & {
  /** A namespace of its own by this name instead of the script's. */
  readonly namespace?: string | undefined;
  /** `repr`: the text that Python would print; `exec`: no value. */
  readonly mode?: "value" | "repr" | "exec" | undefined;
  /** Gets what the code prints, as it prints it; without it the text goes where the worker's output goes. */
  readonly onOutput?: ((stream: "stdout" | "stderr", text: string) => void) | undefined;
};

// oxlint-disable-next-line typescript/no-explicit-any -- what Python sends is whatever the caller says it is
type Answer = any;

type Pending = {
  readonly resolve: (value: Answer) => void;
  readonly reject: (error: Error) => void;
  readonly onOutput: EvalOptions["onOutput"];
};

/** What the worker says of itself when a channel opens. */
export type WorkerHello = {
  readonly pid: number;
  readonly python: string;
  readonly implementation: string;
  readonly exposed: string[];
};

/** Functions by name: what `ipcctl types worker.py` writes, or anything where nothing is known of the worker. */
export type AnyFunctions = { readonly [name: string]: (...args: Answer[]) => Answer };
type ArgumentsOf<F> = F extends (...args: infer A) => unknown ? A : never;
type AnswerOf<F> = F extends (...args: never[]) => infer R ? Awaited<R> : never;
type ItemOf<F> = AnswerOf<F> extends AsyncIterable<infer Item> ? Item : Answer;

export class PythonWorker<W extends object = AnyFunctions> implements Disposable, AsyncDisposable {
  readonly name: string;
  readonly #shimSocket: string;
  #encoder!: Encoder;
  /** In the order of their beginning. */
  readonly #pending = new Map<number, Pending>();
  readonly #streams = new Map<number, Stream>();
  readonly #bound = new Map<string, (...args: Answer[]) => unknown>();
  /** Iterables of ours that Python takes items from. */
  readonly #sources = new Map<number, Source>();
  #channel!: Channel;
  #next = 1;
  #hello: WorkerHello | undefined;
  #isBlocking = false;
  #isBackground = false;
  /** Asked once the worker is gone: whether it crashed, was stopped or restarted. */
  #whatHappened: (() => Promise<IpcError | undefined>) | undefined;

  private constructor(name: string, shimSocket: string) {
    this.name = name;
    this.#shimSocket = shimSocket;
  }

  /** @throws IpcError NOT_RUNNING, DEADLINE, FAILED */
  static async open<W extends object = AnyFunctions>(
    name: string,
    shimSocket: string,
    timeoutMs: number,
    whatHappened?: () => Promise<IpcError | undefined>,
  ): Promise<PythonWorker<W>> {
    const worker = new PythonWorker<W>(name, shimSocket);
    worker.#whatHappened = whatHappened;
    const hello = Promise.withResolvers<void>();
    worker.#onHello = hello.resolve;
    worker.#channel = await Channel.open(shimSocket, name, timeoutMs, {
      onMessage: (bytes) => worker.#onMessage(bytes),
      onClose: (error) => {
        hello.reject(lost(name, error));
        worker.#onClose(error);
      },
    });
    const { sharing } = worker.#channel;
    worker.#encoder = new Encoder(sharing.lend);
    sharing.onForget = (number) => worker.#channel.isOpen && worker.#send([TO.forget, number]);
    const timer = setTimeout(
      () => hello.reject(new IpcError("DEADLINE", `${name} did not answer within ${timeoutMs / 1000} s`)),
      timeoutMs,
    );
    try {
      await hello.promise;
      return worker;
    } catch (error) {
      worker[Symbol.dispose]();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  #onHello: () => void = () => undefined;

  get hello(): WorkerHello {
    return this.#hello!; // `open` waits for it
  }

  get isOpen(): boolean {
    return this.#channel.isOpen;
  }

  /**
   * Calls an exposed function. A generator's answer is an async iterable.
   * @throws PythonError what it raised; IpcError WORKER_CRASHED, WORKER_STOPPED, WORKER_RESTARTED, CONNECTION_LOST; CodecError for
   * a value without a form
   */
  call<K extends keyof W & string>(name: K, ...args: ArgumentsOf<W[K]>): Promise<AnswerOf<W[K]>> {
    return this.#request(TO.call, name, args, null);
  }

  /**
   * The same, blocking this thread and its event loop: the quickest there is, for programs that have nothing else to do meanwhile.
   * Functions that were lent are answered while it waits if they are sync. A worker that ends is a CONNECTION_LOST here: whoever
   * blocks cannot ask why.
   */
  callSync<K extends keyof W & string>(name: K, ...args: ArgumentsOf<W[K]>): AnswerOf<W[K]> {
    const number = this.#next++;
    const end: { value?: unknown; error?: Error; isOver: boolean } = { isOver: false };
    this.#pending.set(number, {
      resolve: (value: unknown) => Object.assign(end, { value, isOver: true }),
      reject: (error) => Object.assign(end, { error, isOver: true }),
      onOutput: undefined,
    });
    try {
      this.#isBlocking = true;
      this.#channel.countRequest();
      this.#send([TO.call, number, name, args, null]);
      while (!end.isOver) this.#channel.waitBlocking(BLOCKING_LOOK_MS);
    } catch (error) {
      throw error instanceof BrokenChannel ? lost(this.name, error) : error;
    } finally {
      this.#isBlocking = false;
      this.#pending.delete(number);
    }
    if (end.error) throw end.error;
    return end.value as AnswerOf<W[K]>;
  }

  /** The same with keyword arguments and options. */
  callWith(
    name: string,
    args: readonly unknown[],
    options: CallOptions & { readonly kwargs?: Readonly<Record<string, unknown>> } = {},
  ): Promise<Answer> {
    return this.#withOptions(options, () => this.#request(TO.call, name, args, options.kwargs ?? null));
  }

  /** A generator of the worker as an async iterable with backpressure; leaving the loop early closes the generator. */
  async *stream<K extends keyof W & string>(
    name: K,
    ...args: ArgumentsOf<W[K]>
  ): AsyncGenerator<ItemOf<W[K]>, void, undefined> {
    const answer = (await this.call(name, ...args)) as unknown;
    if (!(answer instanceof Stream))
      throw new IpcError("FAILED", `${name} gave no stream; it is no generator`, {
        hint: `call("${name}", …) gives its value`,
      });
    yield* answer;
  }

  /** Evaluates an expression, or runs statements; the value is that of the last expression. `await` works at the top. */
  eval(code: string, options: EvalOptions = {}): Promise<Answer> {
    const { namespace, mode = "value", onOutput } = options;
    const settings = { mode, ...(namespace === undefined ? {} : { namespace }), capture: onOutput !== undefined };
    return this.#withOptions(options, () => this.#request(TO.eval, code, settings, undefined, onOutput));
  }

  /** Runs statements. */
  async exec(code: string, options: EvalOptions = {}): Promise<void> {
    await this.eval(code, { ...options, mode: "exec" });
  }

  /** What was defined in a namespace of its own is gone. */
  async forgetNamespace(namespace: string): Promise<void> {
    await this.#request(TO.eval, "", { mode: "forget", namespace }, undefined);
  }

  /** From now on only requests that wait for their answer keep the program alive. */
  unrefWhenIdle(): void {
    this.#isBackground = true;
    this.#channel.setRef(this.#pending.size > 0);
  }

  /** Lends a function to Python, by its name in the script's namespace. It may be async, and may call back into Python. */
  bind(name: string, fn: (...args: Answer[]) => unknown): void {
    this.#bound.set(name, fn);
    this.#send([TO.bind, 0, name]);
  }

  /** Lends the functions of an object: Python calls `name.method(…)`. Other values of it are not lent. */
  bindObject(name: string, object: Readonly<Record<string, unknown>>): void {
    for (const [key, value] of Object.entries(object))
      if (typeof value === "function")
        this.bind(`${name}.${key}`, (...args: Answer[]) =>
          (value as (...all: Answer[]) => unknown).apply(object, args),
        );
  }

  unbind(name: string): void {
    if (this.#bound.delete(name)) this.#send([TO.unbind, 0, name]);
  }

  /**
   * Opens a pipe: raw messages of bytes, both ways, the quickest there is. The worker takes it with `ipcctl.pipe(name)`.
   * Several of one name go to the worker one after the other.
   * @throws IpcError NOT_RUNNING, DEADLINE, BAD_CONFIG for a name of more than 48 bytes
   */
  pipe(name: string, timeoutMs = PIPE_OPEN_MS): Promise<Pipe> {
    return Pipe.open(this.#shimSocket, this.name, timeoutMs, name);
  }

  /** Raises KeyboardInterrupt in what runs for us, and in nothing else. */
  interrupt(): void {
    const number = [...this.#pending.keys()].at(-1);
    if (number !== undefined) this.#interrupt(number);
  }

  #interrupt(number: number): void {
    this.#channel.interrupt(number, () => pokeWorker(this.#shimSocket));
  }

  #send(message: unknown[]): void {
    this.#channel.send(this.#encoder.encode(message));
  }

  #request(
    kind: number,
    what: string,
    body: unknown,
    more: unknown,
    onOutput?: EvalOptions["onOutput"],
  ): Promise<Answer> {
    const number = this.#next++;
    const sent = kind === TO.call ? (body as readonly unknown[]).map((one) => this.#lend(one)) : body;
    const message = more === undefined ? [kind, number, what, sent] : [kind, number, what, sent, more];
    const { promise, resolve, reject } = Promise.withResolvers<Answer>();
    try {
      this.#send(message);
      this.#channel.countRequest();
    } catch (error) {
      return Promise.reject(error instanceof BrokenChannel ? lost(this.name, error) : (error as Error));
    }
    this.#pending.set(number, { resolve, reject, onOutput });
    if (this.#isBackground) this.#channel.setRef(true);
    this.#channel.expect();
    return promise;
  }

  /** A deadline or an abort ends the waiting at once and the code soon. */
  #withOptions({ timeout, signal }: CallOptions, begin: () => Promise<Answer>): Promise<Answer> {
    if (timeout === undefined && signal === undefined) return begin();
    if (signal?.aborted) return Promise.reject(signal.reason as Error);
    const number = this.#next;
    const answer = begin();
    const give = (error: Error): void => {
      const pending = this.#pending.get(number);
      if (!pending) return;
      this.#settle(number);
      pending.reject(error);
      if (this.#channel.isOpen) this.#interrupt(number);
    };
    const onAbort = (): void => give(signal!.reason as Error);
    signal?.addEventListener("abort", onAbort, { once: true });
    const timer =
      timeout === undefined
        ? undefined
        : setTimeout(
            () =>
              give(
                new IpcError(
                  "DEADLINE",
                  `${this.name} did not answer within ${timeout / 1000} s; its code was interrupted`,
                ),
              ),
            timeout,
          );
    return answer.finally(() => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    });
  }

  #settle(number: number): Pending | undefined {
    const pending = this.#pending.get(number);
    this.#pending.delete(number);
    if (this.#isBackground && this.#pending.size === 0) this.#channel.setRef(false);
    return pending;
  }

  #onMessage(bytes: Uint8Array): void {
    const message = decode(bytes, this.#channel.sharing.borrow);
    if (!Array.isArray(message) || typeof message[1] !== "number") throw new BrokenChannel("a message that is none");
    const [kind, number, value, more] = message as [number, number, unknown, unknown];
    switch (kind) {
      case FROM.result:
        this.#settle(number)?.resolve(value);
        break;
      case FROM.error: {
        const error = PythonError.from(value) ?? new BrokenChannel("an error that is none");
        const stream = this.#streams.get(number);
        if (stream) stream.fail(error);
        else this.#settle(number)?.reject(error);
        break;
      }
      case FROM.output:
        this.#pending.get(number)?.onOutput?.(value === "stderr" ? "stderr" : "stdout", String(more));
        break;
      case FROM.stream:
        this.#openStream(number);
        break;
      case FROM.item:
        this.#streams.get(number)?.push(value);
        break;
      case FROM.end:
        this.#streams.get(number)?.end();
        break;
      case FROM.invoke:
        this.#invoke(number, String(value), more, message[4]);
        break;
      case FROM.want:
        this.#sources.get(number)?.want(Number(value));
        break;
      case FROM.leave:
        this.#sources.get(number)?.leave();
        break;
      case FROM.forget:
        this.#channel.sharing.forget(number);
        break;
      case FROM.hello:
        this.#hello = value as WorkerHello;
        this.#onHello();
        break;
      default:
        throw new BrokenChannel(`no message is of kind ${String(kind)}`);
    }
    if (this.#pending.size > 0) this.#channel.expect();
  }

  /** An async iterable or a ReadableStream among the arguments becomes an iterator in Python; it is read as Python asks for items. */
  #lend(value: unknown): unknown {
    if (value === null || typeof value !== "object" || !(Symbol.asyncIterator in value)) return value;
    const number = this.#next++;
    const iterator = (value as AsyncIterable<unknown>)[Symbol.asyncIterator]();
    const send = (kind: number, ...more: unknown[]): void => {
      if (kind !== TO.push) this.#sources.delete(number);
      if (!this.#channel.isOpen) return;
      this.#send([kind, number, ...more]);
      if (this.#pending.size > 0) this.#channel.expect();
    };
    this.#sources.set(number, new Source(iterator, send));
    return new StreamRef(number);
  }

  #openStream(number: number): void {
    const pending = this.#settle(number);
    if (!pending) return this.#send([TO.cancel, number]);
    const stream = new Stream(
      (credit) => {
        if (!this.#channel.isOpen) return;
        this.#send([TO.credit, number, credit]);
        this.#channel.expect();
      },
      (isEarly) => {
        this.#streams.delete(number);
        if (isEarly && this.#channel.isOpen) this.#send([TO.cancel, number]);
      },
    );
    this.#streams.set(number, stream);
    pending.resolve(stream);
  }

  /** A function that gives its value at once is answered at once, also while a blocking call waits. */
  #invoke(number: number, name: string, args: unknown, kwargs: unknown): void {
    const fail = (error: unknown): void => {
      if (this.#channel.isOpen) this.#send([TO.throw, number, errorRecord(error)]);
    };
    const answer = (value: unknown): void => {
      try {
        this.#send([TO.return, number, value]);
      } catch (error) {
        fail(error);
      }
      if (this.#pending.size > 0 && this.#channel.isOpen) this.#channel.expect();
    };
    try {
      const fn = this.#bound.get(name);
      if (!fn) throw new IpcError("NOT_FOUND", `no function ${name} is bound`);
      const list = Array.isArray(args) ? args : [];
      const value = fn(...(kwargs === null || kwargs === undefined ? list : [...list, kwargs]));
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

  #onClose(cause: Error): void {
    const pending = [...this.#pending.keys()].flatMap((number) => this.#settle(number) ?? []);
    const streams = [...this.#streams.values()];
    for (const source of this.#sources.values()) source.leave();
    const fail = (error: Error): void => {
      for (const one of pending) one.reject(error);
      for (const stream of streams) stream.fail(error);
    };
    const whatHappened = this.#whatHappened;
    const isWorth =
      cause instanceof PeerGone && whatHappened && !this.#isBlocking && pending.length + streams.length > 0;
    if (!isWorth) return fail(lost(this.name, cause));
    void whatHappened().then(
      (error) => fail(error ?? lost(this.name, cause)),
      () => fail(lost(this.name, cause)), // the daemon is gone as well
    );
  }

  /** Ends the channel; the worker runs on. Calls that are under way reject. */
  [Symbol.dispose](): void {
    if (this.#channel.isOpen && this.#pending.size > 0) this.#interrupt(ANYTHING);
    this.#channel[Symbol.dispose]();
  }

  [Symbol.asyncDispose](): Promise<void> {
    this[Symbol.dispose]();
    return Promise.resolve();
  }
}

function lost(name: string, cause: Error): IpcError {
  return new IpcError("CONNECTION_LOST", `${name}: ${cause.message}`, { cause, hint: `see: ipcctl describe ${name}` });
}

/** An async iterable that Python reads, as far as it has asked for. */
class Source {
  readonly #iterator: AsyncIterator<unknown>;
  readonly #send: (kind: number, ...more: unknown[]) => void;
  #wanted = 0;
  #isReading = false;
  #isOver = false;

  constructor(iterator: AsyncIterator<unknown>, send: (kind: number, ...more: unknown[]) => void) {
    this.#iterator = iterator;
    this.#send = send;
  }

  want(count: number): void {
    this.#wanted += count;
    if (!this.#isReading) void this.#read();
  }

  async #read(): Promise<void> {
    this.#isReading = true;
    try {
      while (this.#wanted > 0 && !this.#isOver) {
        const { value, done } = await this.#iterator.next();
        if (this.#isOver) return;
        if (done) return this.#finish(TO.close);
        this.#wanted--;
        this.#send(TO.push, value);
      }
    } catch (error) {
      if (!this.#isOver) this.#finish(TO.fail, errorRecord(error));
    } finally {
      this.#isReading = false;
    }
  }

  #finish(kind: number, ...more: unknown[]): void {
    this.#isOver = true;
    this.#send(kind, ...more);
  }

  /** Python wants no more of it. */
  leave(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    Promise.resolve(this.#iterator.return?.()).catch(() => undefined); // its own clean-up failed: nobody is there to be told
  }
}

/** Items of a Python generator. One reader; leaving early tells the worker. */
class Stream implements AsyncIterableIterator<Answer> {
  readonly #grant: (credit: number) => void;
  readonly #onEnd: (isEarly: boolean) => void;
  readonly #items: unknown[] = [];
  #waiting: PromiseWithResolvers<IteratorResult<Answer>> | undefined;
  #error: Error | undefined;
  #isOver = false;
  #taken = 0;

  constructor(grant: (credit: number) => void, onEnd: (isEarly: boolean) => void) {
    this.#grant = grant;
    this.#onEnd = onEnd;
    grant(STREAM_WINDOW);
  }

  push(item: unknown): void {
    if (this.#isOver) return;
    if (this.#waiting) {
      this.#waiting.resolve({ value: item, done: false });
      this.#waiting = undefined;
      this.#count();
    } else this.#items.push(item);
  }

  #count(): void {
    if (++this.#taken < STREAM_WINDOW / 2) return;
    this.#taken = 0;
    this.#grant(STREAM_WINDOW / 2);
  }

  end(): void {
    this.#finish(false);
    this.#waiting?.resolve({ value: undefined, done: true });
    this.#waiting = undefined;
  }

  fail(error: Error): void {
    this.#error = error;
    this.#finish(false);
    this.#waiting?.reject(error);
    if (this.#waiting) this.#error = undefined;
    this.#waiting = undefined;
  }

  #finish(isEarly: boolean): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#onEnd(isEarly);
  }

  next(): Promise<IteratorResult<Answer>> {
    if (this.#items.length > 0) {
      const value = this.#items.shift();
      if (!this.#isOver) this.#count();
      return Promise.resolve({ value, done: false });
    }
    if (this.#error) {
      const error = this.#error;
      this.#error = undefined;
      return Promise.reject(error);
    }
    if (this.#isOver) return Promise.resolve({ value: undefined, done: true });
    this.#waiting ??= Promise.withResolvers();
    return this.#waiting.promise;
  }

  return(): Promise<IteratorResult<Answer>> {
    this.#items.length = 0;
    this.#finish(true);
    return Promise.resolve({ value: undefined, done: true });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
