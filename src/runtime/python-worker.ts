/** A worker as a program sees it: call its functions, evaluate code in it, read its streams, bind functions for it. */
import { TO_WORKER } from "../../contract/messages.ts";
import { ChannelTransport } from "../calls/channel-transport.ts";
import { CallClient, lost, withOptions, type CallOptions, type EvalOptions } from "../calls/client.ts";
import type { Hello, Lent } from "../calls/session.ts";
import { Stream } from "../calls/streams.ts";
import { IpcError } from "../base/errors.ts";
import { BrokenChannel, Channel, PeerGone } from "../plane/channel.ts";
import { Pipe } from "../plane/pipe.ts";
import type { ExitInfo } from "../protocol/status.ts";

export type { CallOptions, EvalOptions } from "../calls/client.ts";

const PIPE_OPEN_MS = 10_000;
/**
 * How long to wait for the next run of a worker that ended: more than a restart takes, less than the user of a server
 * would wait.
 */
export const REOPEN_MS = 10_000;
/**
 * How long a started worker has to accept the channel: on a busy machine the imports of a large library take their
 * time.
 */
export const BEGIN_MS = 60_000;

/** What the worker says about itself when a channel opens. */
export type WorkerHello = Hello;

/**
 * Functions by name: what `ipcctl types worker.py` writes. If nothing is known of the worker, a caller says of each
 * call what it knows: `call<number>("add", 2, 3)`. Nothing checks it.
 */
export type AnyFunctions = { readonly [name: string]: (...args: unknown[]) => unknown };
/** Any name of a worker of which nothing is known, and no name of one whose functions have types. */
type UntypedName<W> = string extends keyof W ? string : never;
type UntypedOptions = CallOptions & { readonly kwargs?: Readonly<Record<string, unknown>> };
type ArgumentsOf<F> = F extends (...args: infer A) => unknown ? A : never;
type AnswerOf<F> = F extends (...args: never[]) => infer R ? Awaited<R> : never;
/** Keyword arguments of a function if `ipcctl types` knows them; otherwise any. */
type KwargsOf<F> = "kwargs" extends keyof F ? NonNullable<F["kwargs"]> : Readonly<Record<string, unknown>>;
type WithKwargs<F> =
  Partial<KwargsOf<F>> extends KwargsOf<F>
    ? [options?: CallOptions & { readonly kwargs?: KwargsOf<F> }]
    : [options: CallOptions & { readonly kwargs: KwargsOf<F> }];
type ItemOf<F> = AnswerOf<F> extends AsyncIterable<infer Item> ? Item : unknown;

/** Where to reach a run of a worker. */
export type Run = {
  readonly name: string;
  readonly shimSocket: string;
  /** Asked once it is gone: whether it crashed, was stopped or restarted. */
  readonly whatHappened?: () => Promise<IpcError | undefined>;
};
export type Attach = (run: Run, timeoutMs: number) => Promise<void>;

/** Why a run that nobody asked to end is over. @param hints what to do next, where there is something */
export function errorOfEnd(
  name: string,
  { kind, status, signal }: Pick<ExitInfo, "kind" | "status" | "signal">,
  hints: { readonly ended?: string; readonly crashed?: string } = {},
): IpcError {
  const withHint = (hint: string | undefined): { hint?: string } => (hint === undefined ? {} : { hint });
  if (kind === "exit" && status === 0)
    return new IpcError("WORKER_STOPPED", `${name} ended (exit code 0)`, withHint(hints.ended));
  const how = signal === null ? `exit code ${status}` : `signal ${signal}`;
  return new IpcError("WORKER_CRASHED", `${name} crashed (${how})`, withHint(hints.crashed));
}

/**
 * A channel to a worker and, after its end, to the worker's next run. Requests in progress reject at the end, because
 * nobody knows how far they got; the next request waits for a run that takes it. Bound functions are bound again.
 */
export class PythonWorker<W extends object = AnyFunctions> implements Disposable, AsyncDisposable {
  readonly #seek: (attach: Attach, timeoutMs: number) => Promise<void>;
  readonly #attached: Attach = (run, timeoutMs) => this.#attach(run, timeoutMs);
  readonly #onDispose: (() => Promise<void> | void) | undefined;
  readonly #bound = new Map<string, Lent>();
  #run!: Run;
  #transport!: ChannelTransport;
  #client!: CallClient;
  #hello!: Hello;
  #reopening: Promise<CallClient> | undefined;
  /** The last channel ended with its worker. */
  #mayReopen = false;
  #isDisposed = false;
  /** An idle channel keeps the program alive. */
  #isKept = false;

  private constructor(
    seek: (attach: Attach, timeoutMs: number) => Promise<void>,
    onDispose?: () => Promise<void> | void,
  ) {
    this.#seek = seek;
    this.#onDispose = onDispose;
  }

  /**
   * @param seek finds a run and attaches to it: now, and after each end
   * @throws IpcError NOT_RUNNING, DEADLINE, FAILED
   */
  static async open<W extends object = AnyFunctions>(
    seek: (attach: Attach, timeoutMs: number) => Promise<void>,
    timeoutMs: number,
    onDispose?: () => Promise<void> | void,
  ): Promise<PythonWorker<W>> {
    const worker = new PythonWorker<W>(seek, onDispose);
    await seek(worker.#attached, timeoutMs);
    return worker;
  }

  async #attach(run: Run, timeoutMs: number): Promise<void> {
    const { name, shimSocket, whatHappened } = run;
    const transport = await ChannelTransport.open((listener) => Channel.open(shimSocket, name, timeoutMs, listener));
    let timer: Timer | undefined;
    try {
      this.#run = run;
      this.#transport = transport;
      this.#client = new CallClient(transport, {
        name,
        bound: this.#bound,
        // A worker that violated the protocol is not asked again.
        onClose: (cause) => (this.#mayReopen = cause instanceof PeerGone && !this.#isDisposed),
        whatHappened,
      });
      if (this.#isDisposed) throw lost(name, new BrokenChannel("the channel was closed"));
      const late = new Promise<never>((_, reject) => {
        const error = new IpcError("DEADLINE", `${name} did not answer within ${timeoutMs / 1000} s`);
        timer = setTimeout(() => reject(error), timeoutMs);
      });
      this.#hello = await Promise.race([this.#client.hello, late]);
      if (this.#isKept) this.#client.keep(true);
    } catch (error) {
      const isLate = transport.isOpen; // it did nothing that would speak against another attempt
      transport[Symbol.dispose]();
      if (isLate) this.#mayReopen = !this.#isDisposed;
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** A promise while the next run is awaited. */
  #ready(): CallClient | Promise<CallClient> {
    if (this.#reopening !== undefined) return this.#reopening;
    if (this.#client.isOpen || !this.#mayReopen) return this.#client;
    this.#reopening = this.#seek(this.#attached, REOPEN_MS)
      .then(() => this.#client)
      .finally(() => (this.#reopening = undefined));
    return this.#reopening;
  }

  get name(): string {
    return this.#run.name;
  }

  /** What the present run said about itself, or the last one. */
  get hello(): WorkerHello {
    return this.#hello; // `open` waits for it
  }

  /** Whether there is a channel now. Without one, the next request waits for the next run, if there will be one. */
  get isOpen(): boolean {
    return this.#client.isOpen;
  }

  /**
   * Calls an exposed function. The answer of a generator is an async iterable.
   * @throws PythonError what it raised; IpcError WORKER_CRASHED, WORKER_STOPPED, WORKER_RESTARTED, CONNECTION_LOST if
   * its run ended meanwhile, NOT_RUNNING if no other run will come, DEADLINE if none came within 10 s; CodecError for a
   * value that cannot be encoded
   */
  call<T = unknown>(name: UntypedName<W>, ...args: readonly unknown[]): Promise<T>;
  /** Calls an exposed function with the types that it has there. The answer of a generator is an async iterable. */
  call<K extends keyof W & string>(name: K, ...args: ArgumentsOf<W[K]>): Promise<AnswerOf<W[K]>>;
  call(name: string, ...args: readonly unknown[]): Promise<unknown> {
    const client = this.#ready();
    return client instanceof CallClient
      ? client.begin(TO_WORKER.call, name, args, null)
      : client.then((next) => next.begin(TO_WORKER.call, name, args, null));
  }

  /**
   * The same, blocking this thread and its event loop: the fastest way, for programs that have nothing else to do
   * meanwhile. Bound functions are answered while it waits if they are sync. If the worker ends, this throws
   * CONNECTION_LOST: a blocked thread can neither ask for the reason nor wait for the next run, as an awaited request
   * does.
   */
  // oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- the caller knows it, as with `call`
  callSync<T = unknown>(name: UntypedName<W>, ...args: readonly unknown[]): T;
  /** The same, blocking this thread and its event loop. */
  callSync<K extends keyof W & string>(name: K, ...args: ArgumentsOf<W[K]>): AnswerOf<W[K]>;
  callSync(name: string, ...args: readonly unknown[]): unknown {
    return this.#client.callSync(name, args);
  }

  /** The same with keyword arguments, which may replace the last ones of `args`, and options. */
  callWith<T = unknown>(name: UntypedName<W>, args: readonly unknown[], options?: UntypedOptions): Promise<T>;
  /** `call` with keyword arguments, which may replace the last ones of `args`, and options. */
  callWith<K extends keyof W & string>(
    name: K,
    args: Readonly<Partial<ArgumentsOf<W[K]>>>,
    ...options: WithKwargs<W[K]>
  ): Promise<AnswerOf<W[K]>>;
  callWith(name: string, args: readonly unknown[], options: UntypedOptions = {}): Promise<unknown> {
    const { kwargs = null } = options;
    return withOptions(this.#ready(), this.name, options, (client) => client.begin(TO_WORKER.call, name, args, kwargs));
  }

  /**
   * A generator of the worker as an async iterable with backpressure; leaving the loop early closes the generator. It
   * starts when the first item is asked for.
   */
  stream<T = unknown>(name: UntypedName<W>, ...args: readonly unknown[]): AsyncGenerator<T, void, undefined>;
  /** A generator as an async iterable with backpressure, which starts when its first item is asked for. */
  stream<K extends keyof W & string>(
    name: K,
    ...args: ArgumentsOf<W[K]>
  ): AsyncGenerator<ItemOf<W[K]>, void, undefined>;
  stream(name: string, ...args: readonly unknown[]): AsyncGenerator<unknown, void, undefined> {
    return (this as unknown as PythonWorker).streamWith(name, args);
  }

  /** The same with keyword arguments, and options that hold until the end of the stream. */
  streamWith<T = unknown>(
    name: UntypedName<W>,
    args: readonly unknown[],
    options?: UntypedOptions,
  ): AsyncGenerator<T, void, undefined>;
  /** `stream` with keyword arguments, and options that hold until its end. */
  streamWith<K extends keyof W & string>(
    name: K,
    args: Readonly<Partial<ArgumentsOf<W[K]>>>,
    ...options: WithKwargs<W[K]>
  ): AsyncGenerator<ItemOf<W[K]>, void, undefined>;
  async *streamWith(
    name: string,
    args: readonly unknown[],
    options: UntypedOptions = {},
  ): AsyncGenerator<unknown, void, undefined> {
    const answer = await (this as unknown as PythonWorker).callWith(name, args, options);
    if (!(answer instanceof Stream))
      throw new IpcError("FAILED", `${name} is not a generator, so it has no stream`, {
        hint: `call("${name}", …) gives its value`,
      });
    yield* answer;
  }

  /** Evaluates an expression, or runs statements; the value is that of the last expression. Top-level `await` works. */
  eval<T = unknown>(code: string, options: EvalOptions = {}): Promise<T> {
    return withOptions(this.#ready(), this.name, options, (client) => client.beginEval(code, options));
  }

  /** Runs statements. */
  async exec(code: string, options: EvalOptions = {}): Promise<void> {
    await this.eval(code, { ...options, mode: "exec" });
  }

  /** Deletes a separate namespace with everything defined in it. */
  async forgetNamespace(namespace: string): Promise<void> {
    const client = await this.#ready();
    await client.forgetNamespace(namespace);
  }

  /**
   * From now on this worker keeps the program alive: for a program that only waits for its bound functions to be
   * called.
   */
  ref(): void {
    this.#isKept = true;
    this.#client.keep(true);
  }

  /** From now on only pending requests, and streams that are read, keep the program alive. This is the default. */
  unref(): void {
    this.#isKept = false;
    this.#client.keep(false);
  }

  /**
   * Binds a function under a name in the script's namespace. It may be async, and may call back into Python. Code that
   * runs for this client gets it, whatever other clients bind under the same name; so do threads that a call starts,
   * until it is answered.
   */
  bind(name: string, fn: Lent): void {
    this.#bound.set(name, fn);
    if (this.#client.isOpen || !this.#mayReopen) this.#client.bind(name);
  }

  /** Binds the functions of an object: Python calls `name.method(…)`. Its other values are not bound. */
  bindObject(name: string, object: Readonly<Record<string, unknown>>): void {
    for (const [key, value] of Object.entries(object))
      if (typeof value === "function")
        this.bind(`${name}.${key}`, (...args: never[]) => (value as Lent).apply(object, args));
  }

  unbind(name: string): void {
    if (this.#bound.delete(name) && this.#client.isOpen) this.#client.unbind(name);
  }

  /**
   * Opens a pipe: raw messages of bytes in both directions, the fastest way. The worker takes it with
   * `ipcctl.pipe(name)`, several of one name one after the other.
   * @throws IpcError NOT_RUNNING, DEADLINE, BAD_CONFIG for a name of more than 48 bytes
   */
  pipe(name: string, timeoutMs = PIPE_OPEN_MS): Promise<Pipe> {
    return Pipe.open(this.#run.shimSocket, this.name, timeoutMs, name, this.#transport.version);
  }

  /**
   * Raises KeyboardInterrupt in code that runs for us, and in nothing else: in the newest unanswered request, else in
   * the stream that is being read.
   */
  interrupt(): void {
    this.#client.interrupt();
  }

  /**
   * Whether all abandoned requests have ended, waiting at most this many milliseconds. Code in one long C call does not
   * end until that returns.
   */
  hasStopped(timeoutMs: number): Promise<boolean> {
    return this.#client.hasStopped(timeoutMs);
  }

  /** Closes the channel; the worker runs on, unless this program owns it. Calls in progress reject. */
  [Symbol.dispose](): void {
    void this.#end();
  }

  /** The same; waits for the end of a worker that this program owns. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#end();
  }

  #end(): Promise<void> | void {
    this.#isDisposed = true;
    this.#mayReopen = false;
    this.#client[Symbol.dispose]();
    return this.#onDispose?.();
  }
}
