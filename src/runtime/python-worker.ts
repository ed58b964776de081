/** A worker as a program sees it: call its functions, evaluate code in it, stream from it, lend it functions. */
import { TO_WORKER } from "../../contract/messages.ts";
import { ChannelTransport } from "../calls/channel-transport.ts";
import { CallClient, lost, withOptions, type CallOptions, type EvalOptions } from "../calls/client.ts";
import type { Answer, Hello, Lent } from "../calls/session.ts";
import { Stream } from "../calls/streams.ts";
import { IpcError } from "../base/errors.ts";
import { BrokenChannel, Channel, PeerGone } from "../plane/channel.ts";
import { Pipe } from "../plane/pipe.ts";

export type { CallOptions, EvalOptions } from "../calls/client.ts";

const PIPE_OPEN_MS = 10_000;
/**
 * How long the next run of a worker that ended is waited for: more than a restart, less than what a user of a server
 * waits for.
 */
export const REOPEN_MS = 10_000;
/** How long one that is started has to let us in: on a busy machine the imports of a large library take their time. */
export const BEGIN_MS = 60_000;

/** What the worker says of itself when a channel opens. */
export type WorkerHello = Hello;

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

/**
 * A channel to a worker, and after that has ended to its next run: requests that were under way reject, since nobody
 * knows how far they came, and the next request waits until there is a run that takes it. Functions that were lent are
 * lent again.
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
   * @param seek finds a run and attaches to it: now, and after that has ended
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
        // Who broke the rules is not asked again.
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

  /** A promise while the next run is waited for, or is to be. */
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

  /** What the present run said of itself, or the last one. */
  get hello(): WorkerHello {
    return this.#hello; // `open` waits for it
  }

  /** Whether there is a channel now. Without one the next request waits for the next run, if there is to be one. */
  get isOpen(): boolean {
    return this.#client.isOpen;
  }

  /**
   * Calls an exposed function. A generator's answer is an async iterable.
   * @throws PythonError what it raised; IpcError WORKER_CRASHED, WORKER_STOPPED, WORKER_RESTARTED, CONNECTION_LOST if
   * its run ended meanwhile, NOT_RUNNING if there is no other to come, DEADLINE if none came within 10 s; CodecError
   * for a value without a form
   */
  call<K extends keyof W & string>(name: K, ...args: ArgumentsOf<W[K]>): Promise<AnswerOf<W[K]>> {
    const client = this.#ready();
    return client instanceof CallClient
      ? client.begin(TO_WORKER.call, name, args, null)
      : client.then((next) => next.begin(TO_WORKER.call, name, args, null));
  }

  /**
   * The same, blocking this thread and its event loop: the quickest there is, for programs that have nothing else to do
   * meanwhile. Functions that were lent are answered while it waits if they are sync. A worker that ends is a
   * CONNECTION_LOST here: whoever blocks cannot ask why, nor wait for its next run, which an awaited request does.
   */
  callSync<K extends keyof W & string>(name: K, ...args: ArgumentsOf<W[K]>): AnswerOf<W[K]> {
    return this.#client.callSync(name, args) as AnswerOf<W[K]>;
  }

  /** The same with keyword arguments, which may stand for those at the end of `args`, and options. */
  callWith<K extends keyof W & string>(
    name: K,
    args: Readonly<Partial<ArgumentsOf<W[K]>>>,
    ...[options = {}]: WithKwargs<W[K]>
  ): Promise<AnswerOf<W[K]>> {
    const { kwargs = null } = options as { readonly kwargs?: unknown };
    return withOptions(this.#ready(), this.name, options, (client) => client.begin(TO_WORKER.call, name, args, kwargs));
  }

  /**
   * A generator of the worker as an async iterable with backpressure; leaving the loop early closes the generator. It
   * begins with the first item that is asked for.
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

  /**
   * Evaluates an expression, or runs statements; the value is that of the last expression. `await` works at the top.
   */
  eval(code: string, options: EvalOptions = {}): Promise<Answer> {
    return withOptions(this.#ready(), this.name, options, (client) => client.beginEval(code, options));
  }

  /** Runs statements. */
  async exec(code: string, options: EvalOptions = {}): Promise<void> {
    await this.eval(code, { ...options, mode: "exec" });
  }

  /** What was defined in a namespace of its own is gone. */
  async forgetNamespace(namespace: string): Promise<void> {
    const client = await this.#ready();
    await client.forgetNamespace(namespace);
  }

  /**
   * From now on this worker keeps the program alive: one that lends functions and has nothing else to do waits for them
   * to be called.
   */
  ref(): void {
    this.#isKept = true;
    this.#client.keep(true);
  }

  /**
   * From now on only what is under way keeps the program alive: requests, and streams that are read. It is so from the
   * beginning.
   */
  unref(): void {
    this.#isKept = false;
    this.#client.keep(false);
  }

  /**
   * Lends a function to Python, by its name in the script's namespace. It may be async, and may call back into Python.
   * What runs for this client gets it, whatever other clients lend by the same name; so do the threads that a call
   * starts, until it is answered.
   */
  bind(name: string, fn: Lent): void {
    this.#bound.set(name, fn);
    if (this.#client.isOpen || !this.#mayReopen) this.#client.bind(name);
  }

  /** Lends the functions of an object: Python calls `name.method(…)`. Other values of it are not lent. */
  bindObject(name: string, object: Readonly<Record<string, unknown>>): void {
    for (const [key, value] of Object.entries(object))
      if (typeof value === "function")
        this.bind(`${name}.${key}`, (...args: Answer[]) => (value as Lent).apply(object, args));
  }

  unbind(name: string): void {
    if (this.#bound.delete(name) && this.#client.isOpen) this.#client.unbind(name);
  }

  /**
   * Opens a pipe: raw messages of bytes, both ways, the quickest there is. The worker takes it with
   * `ipcctl.pipe(name)`. Several of one name go to the worker one after the other.
   * @throws IpcError NOT_RUNNING, DEADLINE, BAD_CONFIG for a name of more than 48 bytes
   */
  pipe(name: string, timeoutMs = PIPE_OPEN_MS): Promise<Pipe> {
    return Pipe.open(this.#run.shimSocket, this.name, timeoutMs, name, this.#transport.version);
  }

  /**
   * Raises KeyboardInterrupt in what runs for us, and in nothing else: in the request that was made last and is not
   * answered, else in the stream that is being read.
   */
  interrupt(): void {
    this.#client.interrupt();
  }

  /**
   * Whether all that was given up has ended, after so many milliseconds at most. Code in one long call of C does not
   * until that returns.
   */
  hasStopped(timeoutMs: number): Promise<boolean> {
    return this.#client.hasStopped(timeoutMs);
  }

  /** Ends the channel; the worker runs on, unless this program owns it. Calls that are under way reject. */
  [Symbol.dispose](): void {
    void this.#end();
  }

  /** The same; of a worker that this program owns it waits for the end. */
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
