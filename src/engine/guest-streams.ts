/**
 * Streams between the guest and Python. Each side asks for one item at a time, when somebody wants to have it: so
 * nothing is made, or held, that nobody reads.
 */
import { isProxy } from "node:util/types";
import { FROM_ENGINE as TO, TO_ENGINE as FROM } from "../../contract/engine.ts";
import type { Part, Session } from "./guest-session.ts";
import { ValueFault, type References } from "./guest-values.ts";
import { addWebStreams, type Handle } from "./web-streams.ts";

type Outcome = { readonly kind: "item" | "end" | "bad"; readonly value?: unknown };

/** A stream of the guest that Python may read. It is locked when Python reads it for the first time. */
type Lent = {
  readonly stream: object;
  reader: object | undefined;
  /** Requests of Python, which get the items in order. */
  waiting: number[];
  /** What was read for requests that were cancelled meanwhile. */
  readonly held: Outcome[];
  /** How many items are asked for. */
  reading: number;
};

export class Streams implements Part {
  readonly #session: Session;
  readonly web: ReturnType<typeof addWebStreams>;
  readonly #lent = new Map<number, Lent>();
  #next = 1;
  /** Those of Python that the guest may still read. */
  readonly #streams = new Map<number, WeakRef<object>>();
  readonly #handles = new Map<number, WeakRef<Handle>>();
  /** Items of them are under way: they stay even if only a promise knows of them. */
  readonly #wanted = new Map<number, { readonly handle: Handle; left: number }>();
  readonly #gone = new FinalizationRegistry((number: number) => this.#leave(number));

  constructor(session: Session) {
    this.#session = session;
    this.web = addWebStreams(session.realm);
    Object.assign(session.references, {
      isStream: (value) => this.#isStream(value),
      lendStream: (stream) => this.#lend(stream),
      lentStream: (number) => this.#found(number).stream,
      stream: (number, ahead) => this.#stream(number, ahead),
    } satisfies Partial<References>);
  }

  take(kind: number, number: number, fields: readonly unknown[]): boolean {
    switch (kind) {
      case FROM.read:
        this.#session.begin(number, () => this.#read(number, fields[2] as number));
        return true;
      case FROM.abandon:
        this.#abandon(number, fields[2] === true);
        return true;
      case FROM.push:
        this.#handle(number)?.put(fields[2]);
        break;
      case FROM.close:
        this.#handle(number)?.close();
        this.#end(number);
        break;
      case FROM.fail:
        this.#handle(number)?.fail(this.#session.errorOf(fields[3] as number, fields[2]));
        this.#end(number);
        break;
      default:
        return false;
    }
    this.#session.goOn();
    return true;
  }

  refuse(kind: number, number: number, why: Error): boolean {
    if (kind !== FROM.push) return false;
    this.#handle(number)?.fail(this.#session.realm.make.error("TypeError", why.message));
    this.#leave(number);
    this.#session.goOn();
    return true;
  }

  // ---- of the guest ----

  #isStream(value: object): boolean {
    const web = this.web.made();
    if (!web) return false;
    for (let one: object | null = value, depth = 0; one !== null && depth < 100; depth++) {
      if (isProxy(one)) return false;
      one = Reflect.getPrototypeOf(one);
      if (one === web.prototype) return true;
    }
    return false;
  }

  #lend(stream: object): number {
    const number = this.#next++;
    this.#lent.set(number, { stream, reader: undefined, waiting: [], held: [], reading: 0 });
    return number;
  }

  #found(number: number): Lent {
    const found = this.#lent.get(number);
    if (!found) throw new ValueFault("this stream has been closed");
    return found;
  }

  #read(request: number, number: number): void {
    const lent = this.#lent.get(number);
    if (!lent) return this.#session.settle(request, () => this.#session.tell([TO.end, request])); // for another reader
    const held = lent.held.shift();
    if (held) return this.#answer(request, number, held);
    const web = this.web.make();
    try {
      lent.reader ??= web.reader(lent.stream);
    } catch (error) {
      this.#lent.delete(number); // somebody else reads it
      throw error;
    }
    lent.waiting = lent.waiting.filter((one) => this.#session.isAwaited(one));
    lent.waiting.push(request);
    if (lent.reading >= lent.waiting.length) return;
    lent.reading++;
    let isOpen = true;
    const settle = (outcome: Outcome): void => {
      if (!isOpen) return; // the guest may call this as often as it likes
      isOpen = false;
      lent.reading--;
      this.#onOutcome(lent, number, outcome);
    };
    web.read(
      lent.reader,
      (value) => settle({ kind: "item", value }),
      () => settle({ kind: "end" }),
      (value) => settle({ kind: "bad", value }),
    );
  }

  #onOutcome(lent: Lent, number: number, outcome: Outcome): void {
    for (let request = lent.waiting.shift(); request !== undefined; request = lent.waiting.shift())
      if (this.#session.isAwaited(request)) return this.#answer(request, number, outcome);
    lent.held.push(outcome);
  }

  #answer(request: number, number: number, { kind, value }: Outcome): void {
    if (kind !== "item") this.#lent.delete(number);
    this.#session.settle(request, () => {
      if (kind === "bad") this.#session.fail(request, value);
      else if (kind === "end") this.#session.tell([TO.end, request]);
      else this.#session.tellValue([TO.result, request], value);
    });
  }

  #abandon(number: number, isCancelled: boolean): void {
    const lent = this.#lent.get(number);
    if (!lent) return;
    this.#lent.delete(number);
    for (const request of lent.waiting) this.#session.settle(request, () => this.#session.tell([TO.end, request]));
    lent.waiting = [];
    if (isCancelled || lent.reader) this.#session.enterLater(() => this.web.make().cancel(lent.stream, lent.reader));
  }

  // ---- of Python ----

  #stream(number: number, ahead: number): object {
    const known = this.#streams.get(number)?.deref();
    if (known) return known;
    const pull = (handle: Handle): void => {
      if (this.#wanted.has(number) || !this.#handles.has(number)) return;
      const left = Math.max(1, ahead);
      this.#wanted.set(number, { handle, left });
      this.#session.tell([TO.want, number, left]);
    };
    const { stream, handle } = this.web.make().source(pull, () => this.#leave(number), ahead);
    this.#streams.set(number, new WeakRef(stream));
    this.#handles.set(number, new WeakRef(handle));
    this.#gone.register(handle, number);
    return stream;
  }

  #handle(number: number): Handle | undefined {
    const wanted = this.#wanted.get(number);
    if (wanted && --wanted.left <= 0) this.#wanted.delete(number);
    return wanted?.handle ?? this.#handles.get(number)?.deref();
  }

  /** Whoever comes across it later finds it ended. */
  #end(number: number): void {
    this.#handles.delete(number);
    this.#wanted.delete(number);
  }

  #leave(number: number): void {
    this.#streams.delete(number);
    this.#wanted.delete(number);
    if (this.#handles.delete(number)) this.#session.tell([TO.leave, number]);
  }
}
