/** One connection to the daemon: requests in order, and events after a subscription. */
import { statSync } from "node:fs";
import { dirname } from "node:path";
import { IpcError, isErrorCode } from "../base/errors.ts";
import { openStream, type StreamSocket } from "../base/platform.ts";
import { reachablePath } from "../base/socket-path.ts";
import { encodeMessage, FrameDecoder } from "../protocol/frame.ts";
import { SUBSCRIPTIONS, type EventMessage, type Response } from "../protocol/responses.ts";
import { Verbs } from "./verbs.ts";

type Waiter = { readonly resolve: (response: Response) => void; readonly reject: (error: Error) => void };

/** An open connection. Close it with `using` or {@link Connection.close}. */
export class Connection extends Verbs implements Disposable {
  readonly #socket: StreamSocket;
  readonly #decoder = new FrameDecoder();
  readonly #waiters: Waiter[] = [];
  readonly #outbox: Uint8Array[] = [];
  #onEvent: ((event: EventMessage["Event"]) => void) | undefined;
  #onClose: ((error: IpcError) => void) | undefined;
  #closed: IpcError | undefined;

  private constructor(socket: StreamSocket) {
    super();
    this.#socket = socket;
  }

  /** @throws IpcError NO_DAEMON if nothing listens there, NO_PERMISSION if we may not connect */
  static async open(path: string): Promise<Connection> {
    let connection: Connection | undefined;
    /** The refusal of a daemon may arrive before the connection is set up. */
    const early: ((open: Connection) => void)[] = [];
    const on = (act: (open: Connection) => void): void => {
      if (connection) act(connection);
      else early.push(act);
    };
    let reached: ReturnType<typeof reachablePath> | undefined;
    try {
      requireTrustedSocket(path);
      reached = reachablePath(path); // for a long path the folder must exist
      const socket = await openStream(
        { unix: reached.path },
        {
          data: (bytes) => on((open) => open.#receive(bytes)),
          close: () => on((open) => open.#fail(lost())),
          error: (error) =>
            on((open) => open.#fail(new IpcError("CONNECTION_LOST", `connection broke: ${error.message}`))),
          drain: () => on((open) => open.#flush()),
        },
      );
      connection = new Connection(socket);
      connection.#updateRef();
      for (const act of early) act(connection);
      return connection;
    } catch (error) {
      throw connectError(error, path);
    } finally {
      reached?.close();
    }
  }

  /** From its greeting; 0 before. */
  protocol = 0;

  /** Whether the daemon knows `"policy": "auto"`, `default_policy` and `allow`. */
  get decidesPolicy(): boolean {
    return this.protocol >= 2;
  }

  get isOpen(): boolean {
    return this.#closed === undefined;
  }

  /** Sends one request and waits for its answer. @throws IpcError with the daemon's code */
  async request(message: unknown): Promise<Response> {
    if (this.#closed) throw this.#closed;
    const bytes = encodeMessage(message); // first: what is too large has no answer
    const answer = new Promise<Response>((resolve, reject) => this.#waiters.push({ resolve, reject }));
    this.#outbox.push(bytes);
    this.#updateRef();
    this.#flush();
    const response = await answer;
    if (!("Error" in response)) return response;
    throw errorOf(response.Error);
  }

  /** Only a pending wait keeps the program alive. */
  #updateRef(): void {
    if (this.#waiters.length > 0 || this.#onEvent !== undefined) this.#socket.ref();
    else this.#socket.unref();
  }

  /** Calls back for each event from now on; `onClose` once when the connection ends. */
  onEvents(onEvent: (event: EventMessage["Event"]) => void, onClose: (error: IpcError) => void): void {
    this.#onEvent = onEvent;
    this.#onClose = onClose;
    this.#updateRef();
    if (this.#closed) onClose(this.#closed);
  }

  /**
   * Events with their numbers, for {@link Connection.onEvents}: those held after a number, or future ones. Returns the
   * number of the newest event; undefined from an older daemon, which has none.
   * @param only of this worker; of published events, those whose topics match this pattern
   * @throws IpcError FAILED if such a daemon is asked for events that it does not keep
   */
  async subscribe(
    topic: keyof typeof SUBSCRIPTIONS,
    only: string | null,
    since: number | "now",
  ): Promise<number | undefined> {
    const subscription = { [SUBSCRIPTIONS[topic]]: topic === "events" ? { topic: only } : { app_name: only } };
    const response = await this.request({ Subscribe: { subscription, since } });
    const { seq } = "Success" in response ? (response.Success as { readonly seq?: number }) : {};
    if (seq === undefined && since !== "now")
      throw new IpcError(
        "FAILED",
        `the daemon is of a version before this one and keeps no events: none after ${since}`,
        {
          hint: "ipcctl daemon restart puts one of this version in its place; workers run on",
        },
      );
    return seq;
  }

  /** Gives up on a peer that does not answer, and may never close properly either. */
  terminate(): void {
    this.#fail(new IpcError("CONNECTION_LOST", "the connection to the daemon was abandoned"));
    this.#socket.terminate();
  }

  close(): void {
    this.#closed ??= new IpcError("CONNECTION_LOST", "the connection to the daemon was closed");
    this.#socket.end();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #receive(bytes: Uint8Array): void {
    try {
      this.#decoder.push(bytes);
      for (let payload = this.#decoder.next(); payload; payload = this.#decoder.next()) {
        this.#deliver(JSON.parse(Buffer.from(payload).toString("utf8")) as Response);
      }
    } catch (error) {
      this.#fail(IpcError.from(error, "reading the daemon's answer"));
      this.#socket.end();
    }
  }

  #deliver(response: Response): void {
    if ("Event" in response) return this.#onEvent?.(response.Event);
    const waiter = this.#waiters.shift();
    this.#updateRef();
    if (waiter) waiter.resolve(response);
    else if ("Error" in response) this.#fail(errorOf(response.Error)); // refused before we asked anything
  }

  #fail(error: IpcError): void {
    if (this.#closed) return;
    this.#closed = error;
    for (const waiter of this.#waiters.splice(0)) waiter.reject(error);
    this.#onClose?.(error);
  }

  /** Bun's `write` takes what fits and buffers nothing: the rest waits for `drain`. */
  #flush(): void {
    while (this.#outbox.length > 0) {
      const bytes = this.#outbox[0]!;
      const written = this.#socket.write(bytes);
      if (written < bytes.length) {
        this.#outbox[0] = bytes.subarray(Math.max(0, written));
        return;
      }
      this.#outbox.shift();
    }
  }
}

/**
 * The listener gets environments and definitions. In a folder like /tmp anybody may have created the socket first: only
 * a socket of our user, or of root, is trusted. Root may use any user's socket, in a folder where nobody else could
 * have put it.
 */
function requireTrustedSocket(path: string): void {
  const stat = statSync(path, { throwIfNoEntry: false });
  const uid = process.geteuid!();
  if (!stat || stat.uid === uid || stat.uid === 0) return;
  if (uid === 0 && (statSync(dirname(path)).mode & 0o022) === 0) return;
  throw new IpcError("NO_PERMISSION", `${path} belongs to user ${stat.uid}: nothing is sent there`, {
    hint: "choose another place with --socket PATH, or become that user",
  });
}

function connectError(error: unknown, path: string): IpcError {
  if (error instanceof IpcError) return error;
  const code = (error as { code?: string }).code;
  if (code === "ENOENT" || code === "ECONNREFUSED") {
    return new IpcError("NO_DAEMON", `no daemon answers at ${path}`, {
      hint: "start one with: ipcctl daemon, or start a worker",
      cause: error,
    });
  }
  if (code === "EACCES" || code === "EPERM") {
    return new IpcError("NO_PERMISSION", `may not connect to ${path}`, {
      hint: "the daemon belongs to another user",
      cause: error,
    });
  }
  return new IpcError("NO_DAEMON", `cannot connect to ${path}: ${(error as Error).message}`, { cause: error });
}

/** The daemon's error; a newer daemon may have codes that we do not know. */
function errorOf({ code, message, hint, output = [] }: RemoteError): IpcError {
  return new IpcError(isErrorCode(code) ? code : "FAILED", message, {
    output,
    ...(hint === undefined ? {} : { hint }),
  });
}

type RemoteError = { code?: unknown; message: string; hint?: string; output?: readonly string[] };

function lost(): IpcError {
  return new IpcError("CONNECTION_LOST", "the daemon closed the connection", { hint: "see: ipcctl daemon status" });
}
