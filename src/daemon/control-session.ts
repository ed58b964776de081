/**
 * One connection: frames in, requests one after the other, answers out, and events in between after a subscription. A
 * peer that sends too fast is not read; a peer that does not read is not served; neither costs memory beyond its limit.
 */
import type { Socket } from "bun";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { encodeMessage, FrameDecoder } from "../protocol/frame.ts";
import { parseRequest } from "../protocol/requests.ts";
import type { Subscriptions, Subscriber } from "../events/subscriptions.ts";
import { eventsDropped, failure, success, type EventMessage, type Response } from "../protocol/responses.ts";
import type { RequestOf } from "../protocol/verbs.ts";
import type { Handled } from "./handlers.ts";
import { Outbox } from "./outbox.ts";

/** How long a refused peer may take to read the refusal. */
const REFUSED_MS = 100;

/** Bytes of unfinished frames over all connections: many half frames must not add up. */
export type Budget = { heldBytes: number };

export type SessionDeps = {
  readonly handle: (request: RequestOf<Handled>) => Promise<Response>;
  readonly subscriptions: Subscriptions;
  readonly budget: Budget;
  readonly onError: (error: unknown) => void;
};

export class Session implements Subscriber {
  readonly #socket: Socket<unknown>;
  readonly #deps: SessionDeps;
  readonly #decoder = new FrameDecoder();
  readonly #outbox: Outbox;
  #counted = 0;
  #isBusy = false;
  /** Resolves when nothing is under way. */
  #done: Promise<void> = Promise.resolve();
  #isPaused = false;
  #isClosed = false;
  #isEnding = false;
  #dropped = 0;
  #pendingEvents = 0;

  constructor(socket: Socket<unknown>, deps: SessionDeps) {
    this.#socket = socket;
    this.#deps = deps;
    this.#outbox = new Outbox(socket);
  }

  onData(bytes: Uint8Array): void {
    if (this.#isEnding) return;
    this.#decoder.push(bytes);
    this.#count();
    if (this.#deps.budget.heldBytes > limit("unfinishedBytes")) {
      return this.refuse(new IpcError("LIMIT", "the daemon holds too many unfinished requests; try again"));
    }
    if (this.#decoder.heldBytes > limit("pipelinedBytes")) this.#pause();
    this.#work();
  }

  onDrain(): void {
    if (!this.#outbox.flush()) return;
    this.#pendingEvents = 0;
    if (this.#dropped > 0) this.#tellDropped();
    if (this.#isEnding) this.#endSoon();
    else this.#work();
  }

  /** Resolves when the request that it was in the middle of has been carried out: none is after that. */
  onClose(): Promise<void> {
    this.#isClosed = true;
    this.#deps.subscriptions.remove(this);
    this.#outbox.clear();
    this.#deps.budget.heldBytes -= this.#counted;
    this.#counted = 0;
    return this.#done;
  }

  /** Sends one Error, then closes. */
  refuse(error: IpcError): void {
    this.#isEnding = true;
    this.#pause();
    this.#outbox.send(encodeMessage(failure(error)));
    if (this.#outbox.bytes === 0) this.#endSoon();
  }

  /** Not at once: a client that is still connecting would get a failed connect instead of the reason. */
  #endSoon(): void {
    setTimeout(() => this.#isClosed || this.#socket.end(), REFUSED_MS).unref();
  }

  /** A peer that was told of lost events is not waited for until it has read everything. */
  get isBehind(): boolean {
    const isFull = this.#pendingEvents > limit("subscriberEvents") / 2 || this.#outbox.bytes > limit("outboxBytes") / 2;
    return isFull && this.#dropped === 0 && !this.#isClosed && !this.#isEnding;
  }

  /**
   * Sends an event to this subscriber. Beyond the limit events are counted, and the count is sent once there is room.
   */
  deliver(event: EventMessage): void {
    if (this.#isClosed || this.#isEnding) return;
    if (this.#pendingEvents >= limit("subscriberEvents") || this.#outbox.bytes > limit("outboxBytes")) {
      this.#dropped++;
      return;
    }
    this.#outbox.send(encodeMessage(event));
    this.#pendingEvents = this.#outbox.bytes === 0 ? 0 : this.#pendingEvents + 1;
  }

  #tellDropped(): void {
    const count = this.#dropped;
    this.#dropped = 0;
    this.#outbox.send(encodeMessage(eventsDropped(count)));
  }

  #work(): void {
    if (!this.#isBusy) this.#done = this.#answerAll();
  }

  /** Requests in order: the next one starts when the answer to this one is sent. */
  async #answerAll(): Promise<void> {
    this.#isBusy = true;
    try {
      while (!this.#isClosed && !this.#isEnding && this.#outbox.bytes < limit("outboxBytes")) {
        const payload = this.#decoder.next();
        this.#count();
        if (!payload) break;
        await this.#answer(payload);
        if (this.#outbox.bytes > 0 && this.#pendingEvents === 0) break; // the peer does not read: `drain` continues
      }
      if (this.#isPaused && !this.#isEnding && this.#decoder.heldBytes <= limit("pipelinedBytes")) this.#resume();
    } catch (error) {
      this.refuse(IpcError.from(error, "reading the request"));
    } finally {
      this.#isBusy = false;
    }
  }

  async #answer(payload: Uint8Array): Promise<void> {
    let response: Response;
    try {
      const request = parseRequest(payload);
      if (request.tag === "Subscribe" || request.tag === "Unsubscribe") return this.#subscribe(request);
      response = await this.#deps.handle(request);
    } catch (error) {
      if (!(error instanceof IpcError)) this.#deps.onError(error);
      response = failure(IpcError.from(error, "carrying out the request"));
    }
    if (this.#isClosed) return;
    this.#outbox.send(this.#encode(response));
  }

  /** The acknowledgement is sent before the first event, or after the last. */
  #subscribe(request: RequestOf<"Subscribe"> | RequestOf<"Unsubscribe">): void {
    if (request.tag === "Subscribe") {
      const { seq, replay } = this.#deps.subscriptions.put(this, request);
      const { Success } = success("Subscribed to events");
      this.#outbox.send(encodeMessage({ Success: seq === undefined ? Success : { ...Success, seq } }));
      replay();
    } else {
      this.#deps.subscriptions.remove(this);
      this.#outbox.send(encodeMessage(success("Unsubscribed from events")));
    }
  }

  #encode(response: Response): Uint8Array {
    try {
      return encodeMessage(response);
    } catch (error) {
      return encodeMessage(failure(IpcError.from(error, "the answer")));
    }
  }

  #count(): void {
    this.#deps.budget.heldBytes += this.#decoder.heldBytes - this.#counted;
    this.#counted = this.#decoder.heldBytes;
  }

  #pause(): void {
    if (this.#isPaused) return;
    this.#isPaused = true;
    this.#socket.pause();
  }

  #resume(): void {
    this.#isPaused = false;
    this.#socket.resume();
  }
}
