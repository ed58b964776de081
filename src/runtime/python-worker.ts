/** A worker as a program sees it: call its functions, evaluate code in it, stream from it, lend it functions. */
import { TO_CLIENT as FROM, TO_WORKER as TO } from "../../contract/messages.ts";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { sleep } from "../base/platform.ts";
import { BrokenChannel, Channel, PeerGone } from "../plane/channel.ts";
import { Pipe } from "../plane/pipe.ts";
import { decode, decodeHead } from "../plane/cbor-decode.ts";
import { Encoder, errorRecord } from "../plane/cbor-encode.ts";
import { CodecError, StreamRef } from "../plane/codec-error.ts";
import { PythonError } from "../plane/python-error.ts";

/** Items of a stream that may be under way or waiting here; half of it is granted again as they are taken. */
const STREAM_WINDOW = limit("streamItems");

const PIPE_OPEN_MS = 10_000;
/** How long the next run of a worker that ended is waited for: more than a restart, less than what a user of a server waits for. */
export const REOPEN_MS = 10_000;
/** How long one that is started has to let us in: on a busy machine the imports of a large library take their time. */
export const BEGIN_MS = 60_000;
/** The longest sleep of a blocking call between two looks. */
const BLOCKING_LOOK_MS = 100;
/** A generator whose reader left is told so; one that computes for longer does not hear it, and is interrupted. */
const LEAVE_MS = 20;

/** How one request is made. */
export type CallOptions = {
  /** Milliseconds, of a stream to its end; then the code is interrupted and the promise, or the stream, rejects with DEADLINE. */
  readonly timeout?: number | undefined;
  readonly signal?: AbortSignal | undefined;
};

export type EvalOptions = CallOptions & {
  /** A namespace of its own by this name instead of the script's. */
  readonly namespace?: string | undefined;
  /** `repr`: the text that Python would print; `exec`: no value. */
  readonly mode?: "value" | "repr" | "exec" | undefined;
  /**
   * Gets what the code prints, as it prints it; without it the text goes where the worker's output goes. As long as a promise that it
   * gives is pending, nothing more is taken from the worker, whose code then waits in its print. What it throws is what the promise
   * rejects with, and ends the code.
   */
  readonly onOutput?: ((stream: "stdout" | "stderr", text: string) => unknown) | undefined;
};

// oxlint-disable-next-line typescript/no-explicit-any -- what Python sends is whatever the caller says it is
type Answer = any;

/** A request whose output is being taken care of: how many pieces, and what has come of it that has to wait for that. */
type Held = {
  count: number;
  readonly onOutput: NonNullable<EvalOptions["onOutput"]>;
  readonly later: (readonly [kind: number, value: unknown, more: unknown])[];
  onFree?: () => void;
};

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
  /** Why it cannot serve anybody; then it says no more than this. */
  readonly error?: string;
};

/** Functions by name: what `ipcctl types worker.py` writes, or anything where nothing is known of the worker. */
export type AnyFunctions = { readonly [name: string]: (...args: Answer[]) => Answer };
type ArgumentsOf<F> = F extends (...args: infer A) => unknown ? A : never;
type AnswerOf<F> = F extends (...args: never[]) => infer R ? Awaited<R> : never;
/** Those of a function of which `ipcctl types` knows them; else any. */
type KwargsOf<F> = "kwargs" extends keyof F ? NonNullable<F["kwargs"]> : Readonly<Record<string, unknown>>;
type WithKwargs<F> =
  Partial<KwargsOf<F>> extends KwargsOf<F>
    ? [options?: CallOptions & { readonly kwargs?: KwargsOf<F> }]
    : [options: CallOptions & { readonly kwargs: KwargsOf<F> }];
type ItemOf<F> = AnswerOf<F> extends AsyncIterable<infer Item> ? Item : Answer;

/** Where a run of a worker is to be reached. */
export type Run = {
  readonly name: string;
  readonly shimSocket: string;
  /** Asked once it is gone: whether it crashed, was stopped or restarted. */
  readonly whatHappened?: () => Promise<IpcError | undefined>;
};
export type Attach = (run: Run, timeoutMs: number) => Promise<void>;

/** What a worker says of its output: it may say anything. */
function outputOf(stream: unknown, text: unknown): ["stdout" | "stderr", string] {
  return [stream === "stderr" ? "stderr" : "stdout", String(text)];
}

/**
 * A channel to a worker, and after that has ended to its next run: requests that were under way reject, since nobody knows how far
 * they came, and the next request waits until there is a run that takes it. Functions that were lent are lent again.
 */
export class PythonWorker<W extends object = AnyFunctions> implements Disposable, AsyncDisposable {
  #run!: Run;
  readonly #seek: (attach: Attach, timeoutMs: number) => Promise<void>;
  readonly #attached: Attach = (run, timeoutMs) => this.#attach(run, timeoutMs);
  #reopening: Promise<void> | undefined;
  /** The last channel ended with its worker. */
  #mayReopen = false;
  #isDisposed = false;
  #encoder!: Encoder;
  /** In the order of their beginning. */
  readonly #pending = new Map<number, Pending>();
  readonly #streams = new Map<number, StreamState>();
  readonly #bound = new Map<string, (...args: Answer[]) => unknown>();
  /** Iterables of ours that Python takes items from. */
  readonly #sources = new Map<number, Source>();
  #channel!: Channel;
  #next = 1;
  #hello: WorkerHello | undefined;
  #isBlocking = false;
  /** An idle channel keeps the program alive. */
  #isKept = false;
  #isRef = true;

  readonly #onDispose: (() => void) | undefined;

  private constructor(seek: (attach: Attach, timeoutMs: number) => Promise<void>, onDispose?: () => void) {
    this.#seek = seek;
    this.#onDispose = onDispose;
  }

  /**
   * @param seek finds a run and attaches to it: now, and after that has ended
   * @throws IpcError NOT_RUNNING, DEADLINE, FAILED
   */
  static async open<W extends object = AnyFunctions>(
    seek: (attach: Attach, timeoutMs: number) => Promise<void>,
    timeoutMs: number,
    onDispose?: () => void,
  ): Promise<PythonWorker<W>> {
    const worker = new PythonWorker<W>(seek, onDispose);
    await seek(worker.#attached, timeoutMs);
    return worker;
  }

  async #attach(run: Run, timeoutMs: number): Promise<void> {
    const { name, shimSocket } = run;
    const hello = Promise.withResolvers<void>();
    const channel = await Channel.open(shimSocket, name, timeoutMs, {
      onMessage: (bytes) => this.#onMessage(bytes),
      onClose: (error) => {
        hello.reject(lost(name, error));
        this.#onClose(error);
      },
    });
    this.#run = run;
    this.#channel = channel;
    this.#onHello = (reason) => {
      if (reason === undefined) hello.resolve();
      else hello.reject(cannotServe(name, reason));
    };
    this.#encoder = new Encoder(channel.sharing.lend);
    channel.sharing.onForget = (number) => channel.isOpen && this.#send([TO.forget, number]);
    const timer = setTimeout(
      () => hello.reject(new IpcError("DEADLINE", `${name} did not answer within ${timeoutMs / 1000} s`)),
      timeoutMs,
    );
    try {
      if (this.#isDisposed) throw lost(name, new BrokenChannel("the channel was closed"));
      for (const bound of this.#bound.keys()) this.#send([TO.bind, 0, bound]);
      await hello.promise;
      this.#isRef = true;
      this.#updateRef();
    } catch (error) {
      const isLate = channel.isOpen; // it did nothing that would speak against another attempt
      channel[Symbol.dispose]();
      if (isLate) this.#mayReopen = !this.#isDisposed;
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Undefined where a request can be sent at once, or never again. */
  #ready(): Promise<void> | undefined {
    if (this.#reopening !== undefined) return this.#reopening;
    if (this.#channel.isOpen || !this.#mayReopen) return undefined;
    this.#reopening = this.#seek(this.#attached, REOPEN_MS).finally(() => (this.#reopening = undefined));
    return this.#reopening;
  }

  #onHello: (reason?: string) => void = () => undefined;

  get name(): string {
    return this.#run.name;
  }

  /** What the present run said of itself, or the last one. */
  get hello(): WorkerHello {
    return this.#hello!; // `open` waits for it
  }

  /** Whether there is a channel now. Without one the next request waits for the next run, if there is to be one. */
  get isOpen(): boolean {
    return this.#channel.isOpen;
  }

  /**
   * Calls an exposed function. A generator's answer is an async iterable.
   * @throws PythonError what it raised; IpcError WORKER_CRASHED, WORKER_STOPPED, WORKER_RESTARTED, CONNECTION_LOST if its run ended
   * meanwhile, NOT_RUNNING if there is no other to come, DEADLINE if none came within 10 s; CodecError for a value without a form
   */
  call<K extends keyof W & string>(name: K, ...args: ArgumentsOf<W[K]>): Promise<AnswerOf<W[K]>> {
    return this.#request(TO.call, name, args, null);
  }

  /**
   * The same, blocking this thread and its event loop: the quickest there is, for programs that have nothing else to do meanwhile.
   * Functions that were lent are answered while it waits if they are sync. A worker that ends is a CONNECTION_LOST here: whoever
   * blocks cannot ask why, nor wait for its next run, which an awaited request does.
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
      this.#channel.sendBlocking(this.#encoder.encode([TO.call, number, name, args, null]));
      this.#channel.countRequest();
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

  /** The same with keyword arguments, which may stand for those at the end of `args`, and options. */
  callWith<K extends keyof W & string>(
    name: K,
    args: Readonly<Partial<ArgumentsOf<W[K]>>>,
    ...[options = {}]: WithKwargs<W[K]>
  ): Promise<AnswerOf<W[K]>> {
    const { kwargs = null } = options as { readonly kwargs?: unknown };
    return this.#withOptions(options, () => this.#ask(TO.call, name, args, kwargs));
  }

  /**
   * A generator of the worker as an async iterable with backpressure; leaving the loop early closes the generator. It begins with
   * the first item that is asked for.
   */
  stream<K extends keyof W & string>(
    name: K,
    ...args: ArgumentsOf<W[K]>
  ): AsyncGenerator<ItemOf<W[K]>, void, undefined> {
    const untyped = this as unknown as PythonWorker;
    return untyped.streamWith(name, args) as AsyncGenerator<ItemOf<W[K]>, void, undefined>;
  }

  /** The same with keyword arguments and options, which hold until the end of the stream. */
  async *streamWith<K extends keyof W & string>(
    name: K,
    args: Readonly<Partial<ArgumentsOf<W[K]>>>,
    ...options: WithKwargs<W[K]>
  ): AsyncGenerator<ItemOf<W[K]>, void, undefined> {
    const answer = (await this.callWith(name, args, ...options)) as unknown;
    if (!(answer instanceof Stream))
      throw new IpcError("FAILED", `${name} is not a generator, so it has no stream`, {
        hint: `call("${name}", …) gives its value`,
      });
    yield* answer as AsyncIterable<ItemOf<W[K]>>;
  }

  /** Evaluates an expression, or runs statements; the value is that of the last expression. `await` works at the top. */
  eval(code: string, options: EvalOptions = {}): Promise<Answer> {
    const { namespace, mode = "value", onOutput } = options;
    const settings = { mode, ...(namespace === undefined ? {} : { namespace }), capture: onOutput !== undefined };
    return this.#withOptions(options, () => this.#ask(TO.eval, code, settings, undefined, onOutput));
  }

  /** Runs statements. */
  async exec(code: string, options: EvalOptions = {}): Promise<void> {
    await this.eval(code, { ...options, mode: "exec" });
  }

  /** What was defined in a namespace of its own is gone. */
  async forgetNamespace(namespace: string): Promise<void> {
    await this.#request(TO.eval, "", { mode: "forget", namespace }, undefined);
  }

  /** From now on this worker keeps the program alive: one that lends functions and has nothing else to do waits for them to be called. */
  ref(): void {
    this.#isKept = true;
    this.#updateRef();
  }

  /** From now on only what is under way keeps the program alive: requests, and streams that are read. It is so from the beginning. */
  unref(): void {
    this.#isKept = false;
    this.#updateRef();
  }

  #updateRef(): void {
    const isRef = this.#isKept || this.#pending.size > 0 || this.#readers > 0;
    if (isRef === this.#isRef) return;
    this.#isRef = isRef;
    this.#channel.setRef(isRef);
  }

  /** Streams whose next item is awaited. */
  #readers = 0;

  /**
   * Lends a function to Python, by its name in the script's namespace. It may be async, and may call back into Python. What runs for this
   * client gets it, whatever other clients lend by the same name; so do the threads that a call starts, until it is answered.
   */
  bind(name: string, fn: (...args: Answer[]) => unknown): void {
    this.#bound.set(name, fn);
    if (this.#channel.isOpen || !this.#mayReopen) this.#send([TO.bind, 0, name]);
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
    if (this.#bound.delete(name) && this.#channel.isOpen) this.#send([TO.unbind, 0, name]);
  }

  /**
   * Opens a pipe: raw messages of bytes, both ways, the quickest there is. The worker takes it with `ipcctl.pipe(name)`.
   * Several of one name go to the worker one after the other.
   * @throws IpcError NOT_RUNNING, DEADLINE, BAD_CONFIG for a name of more than 48 bytes
   */
  pipe(name: string, timeoutMs = PIPE_OPEN_MS): Promise<Pipe> {
    return Pipe.open(this.#run.shimSocket, this.name, timeoutMs, name, this.#channel.version);
  }

  /**
   * Raises KeyboardInterrupt in what runs for us, and in nothing else: in the request that was made last and is not answered, else in
   * the stream that is being read.
   */
  interrupt(): void {
    const reading = [...this.#streams].findLast(([, stream]) => stream.isAwaited) ?? [...this.#streams].at(-1);
    const number = [...this.#pending.keys()].at(-1) ?? reading?.[0];
    if (number !== undefined) this.#channel.interrupt(number);
  }

  #send(message: unknown[]): void {
    this.#channel.send(this.#encoder.encode(message));
  }

  #request(kind: number, what: string, body: unknown, more: unknown): Promise<Answer> {
    const ready = this.#ready();
    return ready === undefined
      ? this.#ask(kind, what, body, more)
      : ready.then(() => this.#ask(kind, what, body, more));
  }

  #ask(kind: number, what: string, body: unknown, more: unknown, onOutput?: EvalOptions["onOutput"]): Promise<Answer> {
    const number = this.#next++;
    const { promise, resolve, reject } = Promise.withResolvers<Answer>();
    try {
      const sent = kind === TO.call ? (body as readonly unknown[]).map((one) => this.#lend(one)) : body;
      const message = more === undefined ? [kind, number, what, sent] : [kind, number, what, sent, more];
      this.#channel.expect(); // first: the answer may be there before we are back
      this.#send(message);
      this.#channel.countRequest();
    } catch (error) {
      for (let lent = number + 1; lent < this.#next; lent++) this.#leaveSource(lent); // Python never heard of them
      return Promise.reject(error instanceof BrokenChannel ? lost(this.name, error) : (error as Error));
    }
    this.#pending.set(number, { resolve, reject, onOutput });
    if (!this.#isRef) this.#updateRef();
    return promise;
  }

  /** A deadline or an abort ends the waiting at once and the code soon. */
  #withOptions({ timeout, signal }: CallOptions, begin: () => Promise<Answer>): Promise<Answer> {
    const ready = this.#ready();
    if (timeout === undefined && signal === undefined) return ready === undefined ? begin() : ready.then(begin);
    if (signal?.aborted) return Promise.reject(signal.reason as Error);
    const { promise: answer, resolve, reject } = Promise.withResolvers<Answer>();
    let number: number | undefined;
    let isGivenUp = false;
    const ask = (): void => {
      if (isGivenUp) return;
      number = this.#next;
      begin().then(resolve, reject);
    };
    if (ready === undefined) ask();
    else ready.then(ask, reject);
    const give = (error: Error): void => {
      isGivenUp = true;
      if (number === undefined) reject(error);
      else this.#giveUp(number, error);
    };
    const onAbort = (): void => give(signal!.reason as Error);
    signal?.addEventListener("abort", onAbort, { once: true });
    const timer = timeout === undefined ? undefined : setTimeout(() => give(this.#late(timeout, number)), timeout);
    const finish = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    };
    answer.then((value) => (value instanceof Stream ? value.onOver(finish) : finish()), finish);
    return answer;
  }

  #late(timeout: number, number: number | undefined): IpcError {
    const seconds = `${timeout / 1000} s`;
    if (number === undefined) return new IpcError("DEADLINE", `${this.name} did not come back within ${seconds}`);
    return new IpcError("DEADLINE", `${this.name} did not answer within ${seconds}; its code was asked to stop`);
  }

  #settle(number: number): Pending | undefined {
    const pending = this.#pending.get(number);
    this.#pending.delete(number);
    if (this.#pending.size === 0) this.#updateRef();
    return pending;
  }

  #onMessage(bytes: Uint8Array): void {
    let message: unknown;
    try {
      message = decode(bytes, this.#channel.sharing.borrow);
    } catch (error) {
      const isTheirs = error instanceof BrokenChannel || (error instanceof CodecError && error.code !== "TYPE");
      const head = isTheirs ? undefined : decodeHead(bytes);
      if (!head) throw error;
      return this.#onUnreadable(...head, error as Error);
    }
    if (!Array.isArray(message) || typeof message[1] !== "number") throw new BrokenChannel("a malformed message");
    const [kind, number, ...fields] = message as [number, number, ...unknown[]];
    this.#take(kind, number, fields);
  }

  /** Well-formed, but more than this program can hold, or of a kind that its engine does not know: that costs what it belongs to. */
  #onUnreadable(kind: number, number: number, cause: Error): void {
    const { message, hint = "send less of it at once" } = cause as Error & { hint?: string };
    const error = new IpcError("FAILED", `${this.name} sent what cannot be held here: ${message}`, { cause, hint });
    if (kind === FROM.invoke) return this.#send([TO.throw, number, errorRecord(error)]);
    const stream = kind === FROM.item ? this.#streams.get(number) : undefined;
    if (!stream) return this.#take(FROM.error, number, [error]);
    stream.fail(error);
    this.#leave(number);
  }

  #take(kind: number, number: number, [value, more, named]: readonly unknown[]): void {
    const held = this.#channel.isEnding ? this.#held.get(number) : undefined;
    if (held && (kind === FROM.output || kind === FROM.result || kind === FROM.error))
      return void held.later.push([kind, value, more]);
    switch (kind) {
      case FROM.result:
        this.#channel.settled(number);
        this.#settle(number)?.resolve(value);
        break;
      case FROM.error: {
        this.#channel.settled(number);
        this.#left.delete(number);
        const error = errorOf(value);
        const stream = this.#streams.get(number);
        if (stream) stream.fail(error);
        else this.#settle(number)?.reject(error);
        break;
      }
      case FROM.output:
        this.#onOutput(number, value, more);
        break;
      case FROM.stream:
        this.#openStream(number);
        break;
      case FROM.item:
        this.#streams.get(number)?.push(value);
        break;
      case FROM.end:
        this.#channel.settled(number);
        this.#left.delete(number);
        this.#streams.get(number)?.end();
        break;
      case FROM.invoke:
        this.#invoke(number, String(value), more, named);
        break;
      case FROM.want:
        this.#sources.get(number)?.want(Number(value));
        break;
      case FROM.leave:
        this.#leaveSource(number);
        break;
      case FROM.forget:
        this.#channel.sharing.forget(number);
        break;
      case FROM.hello:
        this.#hello = value as WorkerHello;
        this.#onHello(this.#hello.error);
        break;
      default:
        throw new BrokenChannel(`no message is of kind ${String(kind)}`);
    }
    if (this.#pending.size > 0) this.#channel.expect();
  }

  /** Takes nothing more until what was given is taken care of, or its request has ended. */
  #onOutput(number: number, stream: unknown, text: unknown): void {
    const onOutput = this.#pending.get(number)?.onOutput;
    if (!onOutput) return;
    let taken: unknown;
    try {
      taken = onOutput(...outputOf(stream, text));
    } catch (error) {
      return this.#giveUp(number, error as Error);
    }
    if (!(taken instanceof Promise)) return;
    if (this.#held.size === 0) this.#channel.pause();
    const held = this.#held.get(number) ?? { count: 0, onOutput, later: [] };
    this.#held.set(number, held);
    held.count++;
    const go = (): void => {
      if (--held.count > 0) return;
      held.onFree?.();
      if (this.#held.get(number) === held) this.#release(number);
    };
    taken.then(go, (error: Error) => {
      if (this.#held.get(number) === held) this.#giveUp(number, error);
      go();
    });
  }

  /** The caller waits for a request no longer, and its code is to end. */
  #giveUp(number: number, error: Error): void {
    const pending = this.#settle(number);
    const stream = this.#streams.get(number);
    if (!pending && !stream) return;
    pending?.reject(error);
    stream?.fail(error);
    this.#release(number);
    if (this.#channel.isOpen) this.#channel.interrupt(number);
  }

  /** What the worker said before it ended, for one whose output was being taken care of then. */
  async #finish(number: number, held: Held): Promise<void> {
    if (held.count > 0) await new Promise<void>((resolve) => (held.onFree = resolve));
    try {
      for (const [kind, value, more] of held.later) {
        if (kind === FROM.output) await held.onOutput(...outputOf(value, more));
        else if (kind === FROM.result) this.#settle(number)?.resolve(value);
        else throw errorOf(value);
      }
    } catch (error) {
      this.#settle(number)?.reject(error as Error);
    }
  }

  #release(number: number): void {
    if (this.#held.delete(number) && this.#held.size === 0) this.#channel.resume();
  }

  /** Requests whose output is being taken care of. */
  readonly #held = new Map<number, Held>();

  /** Whether all that was given up has ended, after so many milliseconds at most. Code in one long call of C does not until that returns. */
  async hasStopped(timeoutMs: number): Promise<boolean> {
    const deadline = performance.now() + timeoutMs;
    while (this.#channel.isOpen && this.#channel.isInterrupting && performance.now() < deadline) await sleep(5);
    return !this.#channel.isOpen || !this.#channel.isInterrupting;
  }

  /** An async iterable or a ReadableStream among the arguments becomes an iterator in Python; it is read as Python asks for items. */
  #lend(value: unknown): unknown {
    if (value === null || typeof value !== "object" || !(Symbol.asyncIterator in value)) return value;
    const number = this.#next++;
    const iterator = (value as AsyncIterable<unknown>)[Symbol.asyncIterator]();
    const send = (kind: number, ...more: unknown[]): void => {
      if (kind !== TO.push) this.#sources.delete(number);
      if (!this.#channel.isOpen) return;
      if (this.#pending.size > 0) this.#channel.expect();
      this.#send([kind, number, ...more]);
    };
    this.#sources.set(number, new Source(iterator, send));
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
    const channel = this.#channel; // a stream may be read, and left, when there is another one
    const state = new StreamState(
      (credit) => {
        if (!channel.isOpen) return;
        channel.expect();
        this.#send([TO.credit, number, credit]);
      },
      (isEarly) => {
        this.#streams.delete(number);
        if (isEarly && channel.isOpen) this.#leave(number);
      },
      (isAwaited) => {
        this.#readers += isAwaited ? 1 : -1;
        this.#updateRef();
      },
    );
    this.#streams.set(number, state);
    pending.resolve(new Stream(state));
  }

  /** Streams that we have left, until the worker says that they are over. */
  readonly #left = new Set<number>();

  #leave(number: number): void {
    this.#send([TO.cancel, number]);
    this.#left.add(number);
    setTimeout(() => {
      if (this.#left.delete(number) && this.#channel.isOpen) this.#channel.interrupt(number);
    }, LEAVE_MS).unref();
  }

  /** A function that gives its value at once is answered at once, also while a blocking call waits. */
  #invoke(number: number, name: string, args: unknown, kwargs: unknown): void {
    const channel = this.#channel; // the next run counts anew: there the number would be somebody else's
    const fail = (error: unknown): void => {
      if (channel.isOpen) this.#send([TO.throw, number, errorRecord(error)]);
    };
    const answer = (value: unknown): void => {
      if (!channel.isOpen) return;
      try {
        this.#send([TO.return, number, value]);
      } catch (error) {
        fail(error);
      }
      if (this.#pending.size > 0 && channel.isOpen) channel.expect();
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
    this.#mayReopen = cause instanceof PeerGone && !this.#isDisposed; // who broke the rules is not asked again
    this.#left.clear();
    const held = [...this.#held];
    this.#held.clear(); // of another channel than the next one
    const answered = new Set<number>();
    for (const [number, one] of held) {
      if (one.later.some(([kind]) => kind !== FROM.output)) answered.add(number);
      void this.#finish(number, one);
    }
    const open = [...this.#pending.keys()].filter((number) => !answered.has(number));
    const pending = open.flatMap((number) => this.#settle(number) ?? []);
    const streams = [...this.#streams.values()];
    this.#streams.clear(); // their numbers say nothing to the next run
    for (const number of this.#sources.keys()) this.#leaveSource(number);
    const fail = (error: Error): void => {
      for (const one of pending) one.reject(error);
      for (const stream of streams) stream.fail(error);
    };
    const { whatHappened } = this.#run;
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
    this.#isDisposed = true;
    this.#mayReopen = false;
    this.#channel[Symbol.dispose]();
    this.#onDispose?.();
  }

  [Symbol.asyncDispose](): Promise<void> {
    this[Symbol.dispose]();
    return Promise.resolve();
  }
}

function errorOf(value: unknown): Error {
  return value instanceof IpcError ? value : (PythonError.from(value) ?? new BrokenChannel("a malformed error"));
}

function lost(name: string, cause: Error): IpcError {
  return new IpcError("CONNECTION_LOST", `${name}: ${cause.message}`, { cause, hint: `see: ipcctl describe ${name}` });
}

/** Its Python cannot load what serves calls. */
function cannotServe(name: string, reason: string): IpcError {
  return new IpcError("FAILED", `${name} cannot let ipcctl in: ${reason.slice(0, 1000)}`, {
    hint: `see: ipcctl logs ${name}`,
  });
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

/** Who waits for an item. What it reads from is kept as long: `return()` is to find it. */
type Reader = PromiseWithResolvers<IteratorResult<Answer>> & { readonly stream: Stream };

/** Items of a Python generator that have come, and who waits for the next ones. */
class StreamState {
  readonly #grant: (credit: number) => void;
  readonly #onEnd: (isEarly: boolean) => void;
  readonly #onAwaited: (isAwaited: boolean) => void;
  readonly #items: unknown[] = [];
  readonly #waiting: Reader[] = [];
  #error: Error | undefined;
  #isOver = false;
  /** Items that may come still, and those that were taken since more were allowed. */
  #credit = 0;
  #taken = 0;
  #onOver: (() => void) | undefined;

  constructor(
    grant: (credit: number) => void,
    onEnd: (isEarly: boolean) => void,
    onAwaited: (isAwaited: boolean) => void,
  ) {
    this.#grant = grant;
    this.#onEnd = onEnd;
    this.#onAwaited = onAwaited;
  }

  get isAwaited(): boolean {
    return this.#waiting.length > 0;
  }

  onOver(callback: () => void): void {
    if (this.#isOver) callback();
    else this.#onOver = callback;
  }

  /** @throws BrokenChannel if the worker sends more than it may */
  push(item: unknown): void {
    if (this.#isOver) return;
    if (this.#credit-- === 0) throw new BrokenChannel("the worker sent more of a stream than was asked for");
    const reader = this.#waiting.shift();
    if (!reader) return void this.#items.push(item);
    this.#count();
    if (!this.isAwaited) this.#onAwaited(false);
    reader.resolve({ value: item, done: false });
  }

  #count(): void {
    if (++this.#taken < STREAM_WINDOW / 2) return;
    this.#taken = 0;
    this.#allow(STREAM_WINDOW / 2);
  }

  #allow(count: number): void {
    this.#credit += count;
    this.#grant(count);
  }

  end(): void {
    this.#finish(false);
  }

  fail(error: Error): void {
    this.#error ??= error;
    this.#finish(false);
  }

  /** The reader wants no more. */
  leave(): void {
    this.#items.length = 0;
    this.#error = undefined;
    this.#finish(true);
  }

  #finish(isEarly: boolean): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#onEnd(isEarly);
    this.#onOver?.();
    if (this.isAwaited) this.#onAwaited(false);
    for (const reader of this.#waiting.splice(0)) this.#close(reader);
  }

  /** The error once, then the end. */
  #close(reader: Reader): void {
    const error = this.#error;
    this.#error = undefined;
    if (error) reader.reject(error);
    else reader.resolve({ value: undefined, done: true });
  }

  next(stream: Stream): Promise<IteratorResult<Answer>> {
    if (this.#items.length > 0) {
      const value = this.#items.shift();
      if (!this.#isOver) this.#count();
      return Promise.resolve({ value, done: false });
    }
    const reader = { ...Promise.withResolvers<IteratorResult<Answer>>(), stream };
    if (this.#isOver) this.#close(reader);
    else {
      if (!this.isAwaited) this.#onAwaited(true);
      this.#waiting.push(reader);
      if (this.#credit === 0 && this.#taken === 0) this.#allow(STREAM_WINDOW);
    }
    return reader.promise;
  }
}

/** A stream that nobody can read any more is left. */
const abandoned = new FinalizationRegistry<StreamState>((state) => state.leave());

/** A Python generator as its reader has it. Leaving early tells the worker; so does forgetting it. */
class Stream implements AsyncIterableIterator<Answer> {
  readonly #state: StreamState;

  constructor(state: StreamState) {
    this.#state = state;
    abandoned.register(this, state, state);
    state.onOver(() => abandoned.unregister(state));
  }

  /** Called once it has ended, however it did. */
  onOver(callback: () => void): void {
    this.#state.onOver(() => {
      abandoned.unregister(this.#state);
      callback();
    });
  }

  next(): Promise<IteratorResult<Answer>> {
    return this.#state.next(this);
  }

  return(): Promise<IteratorResult<Answer>> {
    this.#state.leave();
    return Promise.resolve({ value: undefined, done: true });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
