/**
 * What a listener does with a request: it passes it on to the daemon, and its answer back. The listener itself is
 * `Bun.serve({ hostname: "127.0.0.1", port, fetch: (request) => relay.fetch(request) })`. Whoever dies meanwhile, a
 * request is repeated only to those that know of the first time.
 */
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { atMost, sleep } from "../base/patience.ts";
import { CANCEL_TOPIC } from "../../contract/host.ts";
import {
  answerDelivery,
  answerHttp,
  BODY_BYTES,
  late,
  readHttp,
  refuseDelivery,
  tooMany,
  unknownOutcome,
  unknownToken,
  unreachable,
  type HttpCall,
  type HttpDelivery,
  type HttpRequest,
  type HttpResponse,
} from "../host/http-calls.ts";
import type { PublishedInfo } from "../protocol/happenings.ts";
import type { Connection } from "../sdk/connection.ts";

/** For how long the next daemon is waited for. */
const PATIENCE_MS = 15_000;
const AGAIN_MS = 100;
/** Within which a body has to come: nothing is too long on loopback. */
const BODY_MS = 10_000;
/** Connections that are kept for the next request: each of them waits for one answer at a time. */
const IDLE_MOST = 16;
/** Of those that the daemon accepts: the others are its other clients'. */
const CONNECTIONS_MOST = limit("connections") / 2;

/** What is known of a request before its body is read. */
type HttpHead = Omit<HttpRequest, "body">;
const NOTHING = new Uint8Array();

export class Relay implements Disposable {
  readonly #connect: () => Promise<Connection>;
  readonly #port: number;
  readonly #idle: Connection[] = [];
  /** By the tokens that ask; deliveries have those of their own. */
  readonly #slots = new Map<string, Slots>();
  #busy = 0;
  #registered: Connection | undefined;
  #isDisposed = false;

  private constructor(connect: () => Promise<Connection>, port: number) {
    this.#connect = connect;
    this.#port = port;
  }

  /** @param port where the listener is, on 127.0.0.1. @throws IpcError if no daemon takes it */
  static async open(connect: () => Promise<Connection>, port: number): Promise<Relay> {
    const relay = new Relay(connect, port);
    await relay.#register();
    return relay;
  }

  /** Takes a request of whoever sends one, and always has an answer. */
  async fetch(request: Request): Promise<Response> {
    const { pathname, search } = new URL(request.url);
    const head = { method: request.method, target: pathname + search, headers: Object.fromEntries(request.headers) };
    const { status, headers, body } = await this.answer(head, () => bodyOf(request), request.signal);
    return new Response(status === 204 ? null : body, { status, headers });
  }

  /**
   * @param readBody called only if its head is not refused
   * @param signal aborted when the client has gone: its call is given up
   */
  async answer(head: HttpHead, readBody: () => Promise<Uint8Array>, signal: AbortSignal): Promise<HttpResponse> {
    const read = (body: Uint8Array): ReturnType<typeof readHttp> =>
      readHttp({ ...head, body }, this.#port, () => crypto.randomUUID());
    const expected = read(NOTHING);
    if (!("kind" in expected)) return expected;
    const body = await atMost(
      BODY_MS,
      readBody().catch(() => NOTHING),
    ); // of a client that has gone, nothing
    if (body === undefined) return late(BODY_MS);
    const found = read(body);
    if (!("kind" in found)) return found;
    const whose = found.kind === "call" ? found.token : "";
    const slots = this.#slots.get(whose) ?? new Slots();
    if (!slots.hasRoomFor(body) || this.#busy >= CONNECTIONS_MOST) return tooMany();
    this.#slots.set(whose, slots); // only now: whoever is refused leaves nothing behind
    await slots.enter(body);
    this.#busy++;
    try {
      return signal.aborted ? unreachable("the client has gone") : await this.#passOn(found, signal);
    } finally {
      this.#busy--;
      slots.leave();
      if (slots.isIdle) this.#slots.delete(whose);
    }
  }

  async #passOn(read: HttpCall | HttpDelivery, signal: AbortSignal): Promise<HttpResponse> {
    try {
      return await (read.kind === "call" ? this.#call(read, signal) : this.#deliver(read));
    } catch (error) {
      const { code, message } = IpcError.from(error);
      if (code === "NO_PERMISSION") return read.kind === "call" ? unknownToken() : answerDelivery(undefined);
      if (read.kind === "call")
        return code === "DEADLINE" || code === "CONNECTION_LOST" ? unknownOutcome(read) : unreachable(message);
      return code === "USAGE" ? refuseDelivery(message) : unreachable("nobody can take it now");
    }
  }

  async #call(call: HttpCall, signal: AbortSignal): Promise<HttpResponse> {
    const { token, request, correlation } = call;
    let isOver = false;
    const giveUp = async (): Promise<void> => {
      const cancel = JSON.stringify({ topic: CANCEL_TOPIC, correlation, arguments: {} });
      // On another connection it may overtake what it gives up.
      for (; !isOver; await sleep(AGAIN_MS)) await this.#ask({ HostAsk: { token, request: cancel } });
    };
    const onAbort = (): void => void giveUp().catch(() => undefined); // its run is over, then
    if (correlation !== "") signal.addEventListener("abort", onAbort, { once: true });
    try {
      const { answer } = await this.#ask<{ answer: string }>(
        { HostAsk: { token, request } },
        { HostAsk: { token, request, again: true } },
      );
      return answerHttp(call, answer);
    } finally {
      isOver = true;
      signal.removeEventListener("abort", onAbort);
    }
  }

  async #deliver({ path, headers, body }: HttpDelivery): Promise<HttpResponse> {
    const message = { HostDeliver: { path, headers, body: Buffer.from(body).toString("base64") } };
    return answerDelivery(await this.#ask<PublishedInfo>(message)); // by its key once, however often
  }

  /**
   * On a connection of its own: the daemon answers one after the other on each.
   * @param again for the next daemon, where an earlier one may have taken the message
   */
  async #ask<T>(message: object, again = message): Promise<T> {
    const deadline = performance.now() + PATIENCE_MS;
    for (let wasAsked = false; ;) {
      let connection: Connection | undefined;
      try {
        connection = this.#takeIdle() ?? (await this.#connect());
        const answer = (await connection.request(wasAsked ? again : message)) as {
          readonly Data: { readonly data: T };
        };
        this.#keep(connection);
        return answer.Data.data;
      } catch (error) {
        if (connection?.isOpen === true) this.#keep(connection); // its daemon has refused
        const { code } = IpcError.from(error);
        if (connection !== undefined && code !== "CONNECTION_LOST") throw error;
        wasAsked ||= connection !== undefined;
        if (this.#isDisposed || performance.now() > deadline) throw wasAsked ? lost(error) : error;
        await sleep(AGAIN_MS);
      }
    }
  }

  /** What is sent on one that has ended is not sent: the daemon of before may have had many. */
  #takeIdle(): Connection | undefined {
    for (let one = this.#idle.pop(); one !== undefined; one = this.#idle.pop()) if (one.isOpen) return one;
    return undefined;
  }

  #keep(connection: Connection): void {
    if (connection.isOpen && this.#idle.length < IDLE_MOST && !this.#isDisposed) this.#idle.push(connection);
    else connection.close();
  }

  async #register(): Promise<void> {
    const connection = await this.#connect();
    try {
      await connection.request({ HostListen: { url: `http://127.0.0.1:${this.#port}` } });
    } catch (error) {
      connection.close(); // its daemon may take no listener, and live on
      throw error;
    }
    if (this.#isDisposed) return connection.close();
    this.#registered = connection;
    connection.onEvents(
      () => undefined,
      () => void this.#registerAgain(),
    );
  }

  /** With the next daemon. */
  async #registerAgain(): Promise<void> {
    while (!this.#isDisposed) {
      const isDone = await this.#register().then(
        () => true,
        () => false,
      );
      if (isDone) return;
      await sleep(AGAIN_MS);
    }
  }

  [Symbol.dispose](): void {
    this.#isDisposed = true;
    this.#registered?.close();
    for (const one of this.#idle.splice(0)) one.close();
  }
}

/** It was sent, and no daemon has come that could say what became of it. */
function lost(cause: unknown): IpcError {
  return new IpcError("CONNECTION_LOST", "the daemon ended before it answered", { cause });
}

/** Each request that is under way has a connection to the daemon: whoever floods waits for themselves. */
class Slots {
  #used = 0;
  #bytes = 0;
  readonly #waiting: (() => void)[] = [];

  hasRoomFor({ length }: Uint8Array): boolean {
    return this.#waiting.length < limit("hostCalls") && this.#bytes + length <= limit("pipelinedBytes");
  }

  get isIdle(): boolean {
    return this.#used === 0;
  }

  async enter({ length }: Uint8Array): Promise<void> {
    if (this.#used < limit("httpCalls")) {
      this.#used++;
      return;
    }
    this.#bytes += length;
    await new Promise<void>((go) => this.#waiting.push(go)); // in the place of one that leaves
    this.#bytes -= length;
  }

  leave(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#used--;
    else next();
  }
}

/** Reads no more of it than is needed to see that it is too large. */
async function bodyOf(request: Request): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  let length = 0;
  for await (const piece of request.body ?? []) {
    pieces.push(piece);
    length += piece.length;
    if (length > BODY_BYTES) break;
  }
  return Buffer.concat(pieces).subarray(0, BODY_BYTES + 1);
}
