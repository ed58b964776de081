/**
 * What Python asks of this process, one message after the other. Code of the guest runs in the middle of it, calls
 * Python, and waits for its answer here, while other requests may be served.
 */
import type { AsyncLocalStorage } from "node:async_hooks";
import { isProxy, isUint8Array } from "node:util/types";
import vm from "node:vm";
import {
  ENGINE_FAULT,
  FROM_ENGINE as TO,
  ROOM_OPERATION,
  TO_ENGINE as FROM,
  VALUE_LIMITS,
} from "../../contract/engine.ts";
import { IpcError } from "../base/errors.ts";
import { late } from "../base/platform.ts";
import { decodeHead } from "../plane/cbor-decode.ts";
import { Encoder } from "../plane/cbor-encode.ts";
import { BrokenChannel, Channel } from "../plane/channel.ts";
import { CodecError, type NdArray, type TypedArray } from "../plane/values.ts";
import type { OpenSegment } from "../plane/meet.ts";
import { KeptRoom } from "./kept-room.ts";
import {
  drain,
  findLoop,
  interruptThis,
  openBell,
  promiseState,
  takeInterrupts,
  versionOf,
} from "./engine-platform.ts";
import type { Realm } from "./realm.ts";
import { isEnding, isInterrupt, isOwn, isTimeout } from "./own-errors.ts";
import { thrownRecord } from "./thrown.ts";
import { toJavaScript } from "./language.ts";
import { dataProperty, GuestReader, GuestWriter, ValueFault, type Limits, type References } from "./guest-values.ts";

/** How long a turn may take before timers and other events have theirs. */
const TURN_MS = 1;
/** The longest sleep of a blocking wait between two looks. */
const LOOK_MS = 1000;
/** For so long an engine that has just begun, or is taken from a pool, does nothing but wait. */
const FIRST_MS = 5;
/** The first rest. */
const REST_MS = 5;
/** Without a message between them: the event loop is busy then, or this is none of what it waits for. */
const RESTS_MAX = 100;
/** Between two looks whether Python has read what it was told. */
const FULL_MS = 5;
/** What is left of code that was ended has so long to end, and so often anew. */
const CLEAR_MS = 200;
const CLEAR_TRIES = 5;
/** So many times code may ask for something after it was cancelled. */
const REFUSALS = 100;
const LIMITS: Limits = { depth: VALUE_LIMITS.depth, bytes: VALUE_LIMITS.size };

/** A part of the session that has messages of its own. */
export type Part = {
  /** Whether it took the message. */
  readonly take: (kind: number, number: number, fields: readonly unknown[]) => boolean;
  /** It has a value that cannot be had here. Whether it is one of its own, and no request. */
  readonly refuse?: (kind: number, number: number, why: Error) => boolean;
  /** It has timers, or may have some. */
  readonly isTiming?: () => boolean;
};

/** What the work of a request gives that is answered by what `later` gave. */
export const LATER = Symbol("later");

/** Answers of a request, or of a call of Python. */
export type Outcome = { readonly ok: (value: unknown) => void; readonly bad: (error: unknown) => void };

/** An async request, as the code knows it that runs for it after it has waited. */
type Origin = { readonly number: number; isCancelled: boolean; readonly ends: Set<() => void> };

type Waiting = { answer: readonly [isError: boolean, value: unknown] | undefined };

export class Session {
  readonly realm: Realm;
  readonly #channel: Channel;
  #writer: GuestWriter;
  readonly #encoder = new Encoder();
  readonly #references: References;
  readonly #functions = new Map<number, readonly [fn: Function, self: unknown]>();
  readonly #operations = new Map<number, WeakRef<Function>>();
  /** Those that JavaScript may call by their number, and which of them are async. */
  readonly #numbered = new Map<number, boolean>();
  readonly #dropped = new FinalizationRegistry((operation: number) => this.#onDropped(operation));
  readonly #parts: Part[] = [];
  limits: Limits = LIMITS;
  /** What is known of the engine's memory and of what is open. */
  report: () => Record<string, number> = () => ({});
  #next = 1;
  /** Requests whose code is on the stack, and those that wait for a promise. */
  readonly #running: number[] = [];
  readonly #awaited = new Set<number>();
  /** What is done once one of those is answered, or given up. */
  readonly #ends = new Map<number, () => void>();
  /** The async request to which code belongs that runs after it has waited; none before the first one. */
  #origin: AsyncLocalStorage<Origin> | undefined;
  /** Of those that nobody has given up. */
  readonly #live = new Map<number, Origin>();
  #isPrinting = false;
  /** Requests whose prints are told. */
  readonly #printing = new Set<number>();
  /** Calls of Python whose answer the code on the stack waits for. */
  readonly #waiting = new Map<number, Waiting>();
  /** Async ones, with what settles their promise. */
  readonly #promises = new Map<
    number,
    readonly [(value: unknown) => void, (error: unknown) => void, Origin | undefined]
  >();
  readonly #origins = new WeakMap<object, number>();
  readonly #kept = new KeptRoom(
    (bytes) => this.#room(bytes),
    () => this.restLater(),
  );
  /** Where the event loop waits; null if that is not known. */
  #loop: number | null | undefined;
  #isRestPlanned = false;
  #plans = 0;
  /** Nothing came in the last rest. */
  #isQuiet = false;
  /** Messages that were received, of which nothing has been done yet: they survive the end of what runs. */
  readonly #left: Uint8Array[] = [];
  /** Since there was a message last. */
  #rests = 0;
  #refused = 0;
  #turn = false;
  #isUnasked = false;
  #work: () => unknown = () => undefined;
  /** Async requests whose code goes on, on the stack: what is ended there never answers them. */
  readonly #resumed: number[] = [];
  readonly #entry: vm.Script;

  constructor(segment: OpenSegment, realm: Realm) {
    this.realm = realm;
    this.#references = {
      lend: (fn, self) => this.#lend(fn, self),
      isStream: () => false,
      lendStream: () => 0,
      found: (number) => this.#found(number),
      operation: (number, isAsync, name) => this.#operation(number, isAsync, name),
      share: (view) => this.#channel.sharing.lend(view),
      shared: (form) => this.#borrow(form),
      room: (bytes) => this.#room(bytes),
      keptRoom: (bytes) => this.#kept.take(bytes),
      lentStream: unknownStream,
      stream: unknownStream,
    };
    this.#writer = new GuestWriter(realm, this.#references);
    (globalThis as Record<string, unknown>).ipcctlEntry = () => this.#work();
    this.#addCallers();
    this.#entry = new vm.Script("'use strict'; ipcctlEntry()", { filename: "ipcctl:entry" });
    this.#channel = Channel.serve(
      segment,
      {
        onMessage: (bytes) => this.#onMessage(bytes),
        onInterrupt: () => undefined,
        onHeard: () => this.#recover(),
        onRoused: () => this.takeFirst(),
        onClose: () => process.exit(0),
      },
      openBell,
    );
    this.#channel.keepTaken();
    const { sharing } = this.#channel;
    sharing.adopt = (buffer) => realm.make.adopt(buffer);
    sharing.onForget = (number) => this.tell([TO.forget, number]);
  }

  /** Streams, modules and what else comes. */
  add(part: Part): void {
    this.#parts.push(part);
  }

  /** What refers to what, for parts that add kinds of references. */
  get references(): References {
    return this.#references;
  }

  hello(): void {
    takeInterrupts();
    this.tell([TO.hello, 0, { pid: process.pid, ...versionOf() }]);
  }

  /** Takes what Python asks at once, if it does: a turn of the event loop takes longer than most code. */
  takeFirst(): void {
    this.#channel.waitBlocking(FIRST_MS);
  }

  /** Plans a rest, which comes once the event loop has had its turn. */
  restLater(): void {
    this.#plans++;
    if (this.#isRestPlanned) return;
    this.#isRestPlanned = true;
    this.#plan();
  }

  /** Behind all that a turn has left to the event loop. */
  #plan(): void {
    const plans = this.#plans;
    setImmediate(() => {
      if (plans !== this.#plans) return this.#plan();
      this.#isRestPlanned = false;
      this.#rest();
    });
  }

  /**
   * Waits in the kernel for what Python asks next, or for what the event loop has to do: that loop takes some hundred
   * microseconds from a bell to us. Its timers it would not notice, so it waits itself where there are any.
   */
  #rest(): void {
    if (this.#turn || !this.#channel.isOpen) return;
    const loop = this.#rests >= RESTS_MAX || this.#channel.isFull ? undefined : this.#loopAtRest();
    if (loop === undefined) return this.#channel.resume(); // what was ended may have left it awake, without a bell
    this.#rests++;
    // The first one after something was done is short: the event loop has its turn once more, whatever is left to it.
    const [began, isShort] = [performance.now(), !this.#isQuiet];
    // What makes it interruptible takes long to set up.
    this.#begin(() => void this.#channel.waitBlocking(isShort ? REST_MS : -1, loop, false));
    this.#isQuiet = isShort && performance.now() - began >= REST_MS;
  }

  /** Where the event loop waits, if not for timers. */
  #loopAtRest(): number | undefined {
    if (this.#kept.isTiming || this.#parts.some((part) => part.isTiming?.() === true)) return undefined;
    return (this.#loop ??= findLoop()) ?? undefined;
  }

  /** Sends a message of ours. */
  tell(message: readonly unknown[]): void {
    if (this.#channel.isOpen) this.#channel.send(this.#encoder.encode(message));
  }

  /** What the code that runs tells the console. It waits while Python has much of that to read. */
  print(level: string, text: string): void {
    this.tell([TO.print, this.current, level, text]);
    while (this.#channel.isFull && !this.isCancelled) this.#channel.waitBlocking(FULL_MS);
  }

  /** Answers a request with a value of ours. */
  answer(number: number, value: object): void {
    this.tell([TO.result, number, value]);
  }

  /** Sends a message with a value of the guest as its last field. @throws ValueFault, whatever the value throws */
  tellValue(head: readonly (number | string | boolean)[], value: unknown): void {
    this.#send(this.#freeWriter().message(head, value, this.limits));
  }

  #send(bytes: Uint8Array): void {
    if (this.#channel.isOpen) this.#channel.send(bytes);
  }

  /** A getter of a value that is being written may call Python, or have been ended in the middle. */
  #freeWriter(): GuestWriter {
    if (this.#writer.isBusy) this.#writer = new GuestWriter(this.realm, this.#references);
    return this.#writer;
  }

  // ---- turns ----

  #onMessage(bytes: Uint8Array): void {
    this.#rests = 0;
    if (this.#turn) {
      this.#take(bytes);
      return this.#channel.accept();
    }
    this.#left.push(bytes);
    this.#channel.accept();
    this.#begin();
  }

  /** Code was ended: it may be ours, which has just taken something else. */
  #findLeft(): void {
    const left = this.#channel.takeBack();
    if (left !== undefined && left !== this.#left[0] && !this.#running.includes(decodeHead(left)?.[1] ?? 0))
      this.#left.unshift(left);
    if (this.#left.length > 0) setImmediate(() => this.#left.length > 0 && !this.#turn && this.#begin());
  }

  #takeLeft(): void {
    for (let one = this.#left[0]; one !== undefined && this.#channel.isOpen; one = this.#left[0]) {
      this.#channel.accept(one); // in this order: in between it is there twice, and not lost
      this.#left.shift();
      this.#channel.takeAgain(one);
    }
  }

  /** Whoever asks one thing after the other finds us here. All of it can be interrupted. */
  #begin(first?: () => void): void {
    this.#turn = true;
    this.#origin?.enterWith(undefined as never); // the one that ran as this was planned
    try {
      this.#enter(
        () => {
          this.#takeLeft();
          first?.();
          const began = performance.now();
          for (let isMore = true; isMore && this.#channel.isOpen && performance.now() - began < TURN_MS;) {
            this.#takeLeft();
            const loop = this.#loopAtRest();
            isMore = this.#channel.waitBlocking(loop === undefined ? 0 : TURN_MS, loop);
          }
        },
        { breakOnSigint: true },
      );
    } catch (error) {
      if (!isInterrupt(error)) throw error;
      this.#onInterrupted();
    } finally {
      this.#turn = false;
      this.restLater();
    }
  }

  /** Runs work of which code of the guest is a part, so that it can be ended. */
  #enter<T>(work: () => T, options: vm.RunningScriptOptions): T {
    const before = this.#work;
    this.#work = work;
    try {
      return this.#entry.runInThisContext(options) as T;
    } finally {
      this.#work = before;
    }
  }

  /** Code of the guest that nobody asked for now: of a timer, or of what was awaited. */
  enterLater(work: () => void): void {
    if (this.#turn) return this.#run(work);
    this.#turn = true;
    try {
      this.#enter(() => this.#run(work), { breakOnSigint: true });
    } catch (error) {
      if (!isInterrupt(error)) throw error;
      this.#onInterrupted();
    } finally {
      this.#turn = false;
      this.restLater();
    }
  }

  /** From now on code may run, print and call something while nobody asks. */
  tellUnasked(): void {
    if (!this.#isUnasked) this.tell([TO.later, 0]);
    this.#isUnasked = true;
  }

  #run(work: () => void): void {
    try {
      this.#resume(this.#origin?.getStore()?.number, () => {
        work();
        drain();
      });
    } catch (error) {
      if (isEnding(error)) throw error;
      this.tell([TO.print, 0, "error", `Uncaught ${thrownRecord(error, () => undefined).stack ?? "error"}`]);
    }
  }

  /** Everything that was on the stack has ended. */
  #onInterrupted(): void {
    this.#findLeft();
    this.#waiting.clear();
    for (let one = this.#running[0]; one !== undefined; one = this.#running[0]) {
      this.#interrupted(one);
      this.#running.shift();
    }
    this.#endResumed(0);
    this.#clear(undefined);
  }

  /** From the event loop nothing is on the stack: what a turn has left there, an interrupt ended as that was over. */
  #recover(): void {
    if (!this.#turn && this.#running.length === 0) return;
    this.#turn = false;
    this.#onInterrupted();
    this.restLater();
  }

  /** From this place of the stack on. */
  #endResumed(from: number): void {
    for (const request of this.#resumed.slice(from)) if (this.#awaited.has(request)) this.#interrupted(request);
    this.#resumed.length = from;
  }

  #interrupted(request: number): void {
    this.#endFor(request);
    this.#fault(request, ENGINE_FAULT.interrupted, "interrupted");
    this.#forget(request);
  }

  /**
   * After code was ended in the middle. What it has left among the microtasks may go on without end, and outside of a
   * turn nothing could end it.
   * @param origin of the code that goes on
   */
  #clear(origin: Origin | undefined): void {
    this.#origin?.enterWith(origin as never); // what was ended could not leave its own
    this.#kept.forget();
    for (let tries = 0; tries < CLEAR_TRIES; tries++) {
      try {
        return this.#enter(drain, { timeout: CLEAR_MS, breakOnSigint: true });
      } catch (error) {
        if (!isEnding(error)) throw error;
      }
      this.#origin?.enterWith(origin as never);
      for (const request of [...this.#awaited]) this.#interrupted(request); // it may have been of any of them
    }
    process.exit(1);
  }

  get #allOrigins(): AsyncLocalStorage<Origin> {
    return (this.#origin ??= new (late("node:async_hooks").AsyncLocalStorage)());
  }

  // ---- messages ----

  #take(bytes: Uint8Array): void {
    let fields: readonly unknown[];
    try {
      fields = new GuestReader(bytes, this.realm, this.#references).message();
    } catch (error) {
      const head = decodeHead(bytes);
      if (!head || !(isOwn(error, CodecError) || isOwn(error, ValueFault))) throw error;
      return this.#onUnreadable(head[0], head[1], error);
    }
    const kind = fields[0] as number;
    const number = fields[1] as number;
    switch (kind) {
      case FROM.eval:
        if (fields[6] === true) this.#printing.add(number);
        return this.request(number, fields[4] as number | null, fields[5] === true, () => {
          const [source, name] = [fields[2] as string, fields[3] as string];
          return this.realm.run(fields[7] === true ? toJavaScript(source, "ts", name) : source, name);
        });
      case FROM.call:
        return this.#call(number, fields);
      case FROM.cancel: {
        const origin = this.#live.get(number);
        if (origin) origin.isCancelled = true;
        this.#endFor(number);
        // Its code on the stack ends by what it calls next, or is interrupted; then it is answered.
        if (!this.#running.includes(number))
          this.settle(number, () => this.#fault(number, ENGINE_FAULT.interrupted, "cancelled"));
        return;
      }
      case FROM.bind:
        return this.#bind(fields[2] as string, fields[3]);
      case FROM.return:
        return this.#answered(number, false, fields[2]);
      case FROM.throw:
        return this.#answered(number, true, this.errorOf(number, fields[2]));
      case FROM.operation:
        this.#numbered.set(number, fields[2] === true);
        return;
      case FROM.settings:
        return this.#onSettings(fields[2]);
      case FROM.report:
        return this.tell([TO.result, number, this.report()]);
      case FROM.forget:
        return this.#channel.sharing.forget(number);
      case FROM.release: {
        const numbers = fields[2] as number[];
        for (let at = 0; at < numbers.length; at++) this.#functions.delete(numbers[at]!);
        return;
      }
      default:
        if (!this.#parts.some((part) => part.take(kind, number, fields)))
          throw new BrokenChannel(`unknown kind of message: ${kind}`);
    }
  }

  #onUnreadable(kind: number, number: number, error: Error): void {
    if (this.#parts.some((part) => part.refuse?.(kind, number, error) === true)) return;
    if (kind === FROM.return || kind === FROM.throw)
      return this.#answered(number, true, this.realm.make.error("TypeError", error.message));
    this.#fault(number, ENGINE_FAULT.refused, error.message);
  }

  #borrow(form: unknown): TypedArray | NdArray {
    try {
      return this.#channel.sharing.borrow(form) as TypedArray | NdArray;
    } catch (error) {
      if (error instanceof BrokenChannel || error instanceof IpcError) throw new ValueFault(error.message);
      throw error;
    }
  }

  /** In our own realm: what is written into it is copied once. */
  #room(bytes: number): Uint8Array | undefined {
    const [hasFailed, view] = this.callNow(ROOM_OPERATION, [bytes]);
    return hasFailed || !isUint8Array(view) ? undefined : new Uint8Array(view.buffer, view.byteOffset, bytes);
  }

  // ---- requests ----

  /**
   * Runs what a request asks for, and answers with its value, or with what its promise comes to.
   * @param isAwaited its promise is awaited; else a promise is a value like others, unless the request is a call
   */
  request(number: number, timeoutMs: number | null, isAwaited: boolean, work: () => unknown, isCall = false): void {
    const origin = this.#origin?.getStore();
    const resumed = this.#resumed.length;
    this.#running.push(number);
    this.#channel.accept();
    try {
      const perform = (): void => this.#perform(number, isAwaited, isCall, work);
      // In the middle of async code that waits for Python, this is none of its business.
      const isElsewhere = isAwaited || origin !== undefined;
      const mine = isAwaited ? this.#begun(number) : undefined;
      const act = isElsewhere ? (): void => this.#allOrigins.run(mine as Origin, perform) : perform;
      if (timeoutMs === null) act();
      else this.#enter(act, { timeout: Math.max(1, Math.ceil(timeoutMs)) });
    } catch (error) {
      if (isInterrupt(error)) throw error;
      if (isTimeout(error)) {
        this.#findLeft();
        this.#endFor(number);
        this.#fault(number, ENGINE_FAULT.timeout, "timed out");
        this.#forget(number);
        this.#endResumed(resumed);
        this.#clear(origin);
      } else this.fail(number, error);
    }
    const at = this.#running.lastIndexOf(number);
    if (at >= 0) this.#running.splice(at, 1);
    if (isAwaited && !this.#awaited.has(number)) this.#live.delete(number);
    if (this.#printing.size > 0 && !this.#awaited.has(number)) this.#printing.delete(number);
  }

  #begun(number: number): Origin {
    const origin = { number, isCancelled: false, ends: new Set<() => void>() };
    this.#live.set(number, origin);
    return origin;
  }

  #perform(number: number, isAwaited: boolean, isCall: boolean, work: () => unknown): void {
    const value = work();
    drain();
    if (value === LATER) return;
    if (isAwaited) return this.#await(number, value);
    const state = isCall ? promiseState(value, this.realm.make.settle) : undefined;
    if (state === undefined || state.kind === "none") return this.tellValue([TO.result, number], value);
    if (state.kind === "fulfilled") return this.tellValue([TO.result, number], state.value);
    if (state.kind === "rejected") {
      this.realm.make.settle(value, ignore, ignore); // it is handled
      throw state.value;
    }
    this.tell([TO.pending, number]);
    this.#await(number, value);
  }

  #await(number: number, value: unknown): void {
    const { ok, bad } = this.later(number);
    this.realm.make.settle(value, ok, bad);
    drain();
  }

  /**
   * What answers a request whose work gives `LATER`.
   * @param onEnd called once it is answered, or nobody waits for it any more
   */
  later(number: number, onEnd?: () => void): Outcome {
    this.#awaited.add(number);
    if (onEnd) this.#ends.set(number, onEnd);
    return {
      ok: (value) => this.settle(number, () => this.tellValue([TO.result, number], value)),
      bad: (error) => this.settle(number, () => this.fail(number, error)),
    };
  }

  /**
   * Ends what the code that runs has under way, once nobody waits for its request any more.
   * @returns what keeps it from that
   */
  onCancelled(end: () => void): () => void {
    const running = this.#running.at(-1);
    const origin = running === undefined ? this.#origin?.getStore() : this.#live.get(running);
    origin?.ends.add(end);
    return () => void origin?.ends.delete(end);
  }

  #endFor(number: number): void {
    const ends = this.#live.get(number)?.ends;
    for (const end of ends ?? []) end();
    ends?.clear();
  }

  /** Begins a request that a part answers by {@link settle}. */
  begin(number: number, work: () => void): void {
    this.#awaited.add(number);
    this.#running.push(number);
    this.#channel.accept();
    try {
      work();
      drain();
    } catch (error) {
      if (isInterrupt(error)) throw error;
      this.settle(number, () => {
        throw error;
      });
    }
    const at = this.#running.lastIndexOf(number);
    if (at >= 0) this.#running.splice(at, 1);
  }

  isAwaited(number: number): boolean {
    return this.#awaited.has(number);
  }

  /**
   * An interrupt may come at any point: what was not told is told again, and Python passes over what it is told twice.
   * @param answer tells what a request has come to; called if somebody waits for it
   */
  settle(number: number, answer: () => void): void {
    if (!this.#awaited.has(number)) return;
    try {
      answer();
    } catch (error) {
      this.fail(number, error);
    }
    this.#forget(number);
  }

  /** Of a request that is answered. */
  #forget(number: number): void {
    this.#printing.delete(number);
    this.#live.delete(number);
    this.#ends.get(number)?.();
    this.#ends.delete(number);
    this.#awaited.delete(number);
  }

  /** Answers a request with an error. */
  fail(number: number, error: unknown): void {
    if (isOwn(error, ValueFault) || isOwn(error, CodecError))
      return this.#fault(number, ENGINE_FAULT.value, error.message);
    this.tell([
      TO.error,
      number,
      { kind: ENGINE_FAULT.thrown, ...thrownRecord(error, (one) => this.#origins.get(one), this.realm.firstColumns) },
    ]);
  }

  /** Answers a request that makes no sense. */
  refuse(number: number, message: string): void {
    this.#fault(number, ENGINE_FAULT.refused, message);
  }

  #fault(number: number, kind: number, message: string): void {
    this.tell([TO.error, number, { kind, message }]);
  }

  #call(number: number, fields: readonly unknown[]): void {
    const found = this.#functions.get(fields[2] as number);
    if (!found) return this.#fault(number, ENGINE_FAULT.refused, "Function has been closed");
    const act = (): unknown => this.realm.make.apply(found[0], found[1], fields[3] as unknown[]);
    this.request(number, fields[4] as number | null, fields[5] === true, act, true);
  }

  // ---- functions of the guest ----

  #lend(fn: Function, self: unknown): number {
    const number = this.#next++;
    this.#functions.set(number, [fn, self]);
    return number;
  }

  #found(number: number): Function {
    const found = this.#functions.get(number);
    if (!found) throw new ValueFault("Function has been closed");
    return found[0];
  }

  // ---- operations of Python ----

  #operation(number: number, isAsync: boolean, name: string): Function {
    const known = this.#operations.get(number)?.deref();
    if (known) return known;
    const fn = this.realm.make.fn(
      (args) => (isAsync ? [false, this.callLater(number, args)] : this.callNow(number, args)),
      name,
    );
    this.#operations.set(number, new WeakRef(fn));
    this.#dropped.register(fn, number);
    return fn;
  }

  #onDropped(operation: number): void {
    if (this.#operations.get(operation)?.deref() !== undefined) return;
    this.#operations.delete(operation);
    this.tell([TO.drop, 0, [operation]]);
  }

  /** Calls Python, and waits for its answer. @returns `[hasFailed, value or error]` */
  callNow(operation: number, args: readonly unknown[]): readonly [boolean, unknown] {
    if (this.isCancelled) return this.#refuse();
    const number = this.#next++;
    const waiting: Waiting = { answer: undefined };
    let sent: Uint8Array;
    try {
      sent = this.#invocation(number, operation, args, true);
    } catch (error) {
      return [true, this.#guestError(error)];
    }
    this.#waiting.set(number, waiting);
    this.#channel.sendBlocking(sent);
    while (waiting.answer === undefined) {
      if (this.isCancelled) {
        this.#waiting.delete(number);
        return this.#refuse();
      }
      if (!this.#channel.isOpen) return [true, this.realm.make.error("Error", "Python is gone")];
      this.#channel.waitBlocking(LOOK_MS);
    }
    return waiting.answer;
  }

  /** To code of a request that was cancelled. If it goes on as if nothing were, it is ended. */
  #refuse(): readonly [boolean, unknown] {
    if (++this.#refused % REFUSALS === 0) interruptThis();
    return [true, this.realm.make.error("Error", "the task that this belongs to was cancelled")];
  }

  /** Calls Python, and gives the promise of its answer. */
  callLater(operation: number, args: readonly unknown[]): unknown {
    const number = this.#next++;
    const { promise, resolve, reject } = this.realm.make.promise();
    if (this.isCancelled) return promise; // what waits for it is over
    try {
      const sent = this.#invocation(number, operation, args, false);
      this.#promises.set(number, [resolve, reject, this.#origin?.getStore()]);
      this.#send(sent);
    } catch (error) {
      reject(this.#guestError(error));
    }
    return promise;
  }

  /** Calls Python on behalf of a request, for a part of this program. */
  ask(operation: number, args: readonly (string | boolean)[], request: number, { ok, bad }: Outcome): void {
    const number = this.#next++;
    this.#promises.set(number, [ok, bad, undefined]);
    this.tell([TO.invoke, number, operation, args, request, false]);
  }

  #invocation(number: number, operation: number, args: readonly unknown[], isWaiting: boolean): Uint8Array {
    return this.#freeWriter().invocation([TO.invoke, number, operation], args, [this.current, isWaiting], this.limits);
  }

  #answered(number: number, isError: boolean, value: unknown): void {
    const waiting = this.#waiting.get(number);
    if (waiting) {
      waiting.answer = [isError, value];
      this.#waiting.delete(number);
      return;
    }
    const promise = this.#promises.get(number);
    if (!promise) return;
    if (!promise[2]?.isCancelled) promise[isError ? 1 : 0](value);
    this.#promises.delete(number);
    this.goOn(promise[2]?.number);
  }

  /**
   * Runs code that waited for what was just taken, which is not taken again if that is interrupted.
   * @param request to which the code belongs
   */
  goOn(request?: number): void {
    this.#channel.accept();
    this.#resume(request, drain);
  }

  #resume(request: number | undefined, work: () => void): void {
    if (request === undefined) return work();
    const before = this.#resumed.length;
    this.#resumed.push(request);
    try {
      work();
    } finally {
      this.#resumed.length = before; // not of what is ended
    }
  }

  /** As the guest sees it: what a getter of the guest threw is its own. */
  #guestError(error: unknown): unknown {
    return isOwn(error, Error) ? this.realm.make.error("TypeError", error.message) : error;
  }

  /** An error of the guest for one of Python. @param number by which Python knows its cause */
  errorOf(number: number, told: unknown): unknown {
    const [name, message] = ["name", "message"].map((key) => String(dataProperty(told as object, key)));
    const error = this.realm.make.error(name!, message!);
    this.#origins.set(error, number);
    return error;
  }

  #onSettings(told: unknown): void {
    const [depth, bytes, isShown] = ["depth", "bytes", "console"].map((key) => dataProperty(told as object, key));
    this.limits = { depth: depth as number, bytes: bytes as number };
    this.#isPrinting = isShown === true;
  }

  /** What calls operations by their numbers. */
  #addCallers(): void {
    for (const isAsync of [false, true]) {
      const name = isAsync ? "__host_op_async__" : "__host_op_sync__";
      const call = (args: unknown[]): readonly [boolean, unknown] => {
        const number = args[0];
        const known = typeof number === "number" ? this.#numbered.get(number) : undefined;
        if (known !== isAsync) {
          const other = isAsync ? "it is sync: __host_op_sync__ calls it" : "it is async: __host_op_async__ calls it";
          const why = known === undefined ? "there is no such operation" : other;
          return [true, this.realm.make.error("TypeError", `${name}: operation ${String(number)}: ${why}`)];
        }
        const rest: unknown[] = [];
        for (let at = 1; at < args.length; at++) rest[at - 1] = args[at];
        return isAsync ? [false, this.callLater(number as number, rest)] : this.callNow(number as number, rest);
      };
      this.realm.define(name, this.realm.make.fn(call, name));
    }
  }

  // ---- globals ----

  #bind(name: string, value: unknown): void {
    const { global } = this.realm.make;
    const present = dataProperty(global, name);
    // A proxy of the guest would be given a descriptor of our own realm.
    if (isRecord(present) && !isProxy(present) && isRecord(value)) {
      for (const key of Reflect.ownKeys(value)) define(present, key, dataProperty(value, key));
      return;
    }
    define(global, name, value);
  }

  /** The request whose code runs; 0 if nobody asked for it. */
  get current(): number {
    return this.#running.at(-1) ?? this.#origin?.getStore()?.number ?? 0;
  }

  /** The code that runs belongs to a request that was cancelled: it is to do nothing more. */
  get isCancelled(): boolean {
    const running = this.#running.at(-1);
    return (running === undefined ? this.#origin?.getStore() : this.#live.get(running))?.isCancelled === true;
  }

  /** Whether Python wants to be told what the console is told now. */
  get isPrinting(): boolean {
    return this.#isPrinting || this.#printing.has(this.current);
  }

  /** What the engine has under way, for `get_stats`. */
  get counts(): { readonly functions: number; readonly promises: number } {
    return { functions: this.#functions.size, promises: this.#promises.size };
  }
}

function unknownStream(): never {
  throw new ValueFault("there is no such stream");
}

function ignore(): void {
  // what it comes to is known
}

function isRecord(value: unknown): value is object {
  return typeof value === "object" && value !== null;
}

function define(on: object, key: PropertyKey, value: unknown): void {
  Reflect.defineProperty(on, key, { value, writable: true, enumerable: true, configurable: true });
}
