/** The control socket: listens, checks peers, makes sessions, counts them. */
import { chmodSync, lstatSync, mkdirSync, renameSync, rmSync } from "node:fs";
import type { UnixSocketListener } from "bun";
import { IpcError } from "../base/errors.ts";
import { isListening } from "../base/libc.ts";
import { limit } from "../base/limits.ts";
import { reachablePath, SOCKET_PATH_BYTES_MAX } from "../base/socket-path.ts";
import type { Response } from "../protocol/responses.ts";
import type { RequestOf } from "../protocol/verbs.ts";
import type { Caller, Handled } from "./handlers.ts";
import { requirePermitted, type Trees } from "./peers.ts";
import { Session, type SessionDeps } from "./control-session.ts";

export type ServerDeps = Omit<SessionDeps, "budget" | "handle"> & {
  readonly handle: (caller: Caller, request: RequestOf<Handled>, server: Server) => Promise<Response>;
  readonly trees: Trees;
  readonly uid: number;
  /** One of its connections has ended, and nothing that it asked is being carried out. */
  readonly onEnd: (caller: Caller) => void;
  readonly onRefused: (error: IpcError) => void;
  /** The socket's file was gone: this says why. */
  readonly onRebound: (text: string) => void;
};

/** A daemon that is being killed still listens for a moment after it lost its lock. */
const DYING_MS = 1000;

export class Server implements Disposable {
  readonly #path: string;
  readonly #runtimeDir: string;
  readonly #deps: ServerDeps;
  readonly #budget = { heldBytes: 0 };
  /** Connections so far. */
  #accepted = 0;
  readonly #sessions = new Map<Session, Caller>();
  #listener: UnixSocketListener<Session | undefined> | undefined;
  /** Identifies our file: another one may lie at its path by now. */
  #file: { readonly ino: number; readonly dev: number } | undefined;
  #trouble: string | undefined;

  /** The caller holds the daemon's lock, so a socket file on which nobody listens belongs to a dead daemon. */
  constructor(path: string, runtimeDir: string, deps: ServerDeps) {
    this.#path = path;
    this.#runtimeDir = runtimeDir;
    this.#deps = deps;
    this.bind(DYING_MS);
  }

  get connections(): number {
    return this.#sessions.size;
  }

  /** Why the socket's file could not be recreated; undefined while it exists. */
  get trouble(): string | undefined {
    return this.#trouble;
  }

  /** Must be called every few seconds: recreates the socket's file if it was removed or replaced. */
  look(): void {
    const found = lstatSync(this.#path, { throwIfNoEntry: false });
    if (this.#isOurs(found)) return;
    const what = found ? "replaced" : "removed";
    try {
      this.bind();
      this.#trouble = undefined;
      this.#deps.onRebound(`the socket ${this.#path} was ${what}: it was made again`);
    } catch (error) {
      const text = `the socket ${this.#path} was ${what} and cannot be made again: ${(error as Error).message}`;
      if (text !== this.#trouble) this.#deps.onRebound(text);
      this.#trouble = text;
    }
  }

  /**
   * Listens at the path, whatever happened to the file there; open connections stay.
   * @throws IpcError if the file belongs to somebody else
   */
  bind(patienceMs = 0): void {
    requireSocketFolder(this.#runtimeDir, this.#deps.uid);
    this.#requireVacant(patienceMs);
    const fresh = `${this.#path}.new`;
    rmSync(fresh, { force: true }); // left by a daemon that was killed right here
    const reached = reachablePath(fresh);
    const mask = process.umask(0o177);
    try {
      if (Buffer.byteLength(reached.path) > SOCKET_PATH_BYTES_MAX)
        throw new IpcError("FAILED", `the file name of ${this.#path} is too long for a socket`, {
          hint: "use a file name of at most 80 bytes, in any folder",
        });
      const listener = this.#listen(reached.path);
      chmodSync(fresh, 0o600);
      renameSync(fresh, this.#path); // atomically, so that there is always a socket
      this.#listener?.stop();
      this.#listener = listener;
    } finally {
      process.umask(mask);
      reached.close();
    }
    const { ino, dev } = lstatSync(this.#path);
    this.#file = { ino, dev };
  }

  [Symbol.dispose](): void {
    this.#listener?.stop(true);
    if (this.#isOurs(lstatSync(this.#path, { throwIfNoEntry: false }))) rmSync(this.#path, { force: true });
  }

  #isOurs(found: { ino: number; dev: number } | undefined): boolean {
    return found !== undefined && found.ino === this.#file?.ino && found.dev === this.#file.dev;
  }

  /** The file there is ours, or a dead daemon left it. */
  #requireVacant(patienceMs: number): void {
    const stat = lstatSync(this.#path, { throwIfNoEntry: false });
    if (!stat || this.#isOurs(stat)) return;
    const elsewhere = "remove it, or choose another place with --socket PATH";
    if (!stat.isSocket()) throw new IpcError("FAILED", `${this.#path} exists and is not a socket`, { hint: elsewhere });
    if (stat.uid !== this.#deps.uid)
      throw new IpcError("NO_PERMISSION", `${this.#path} belongs to user ${stat.uid}`, { hint: elsewhere });
    const reached = reachablePath(this.#path);
    try {
      const deadline = performance.now() + patienceMs;
      while (isListening(reached.path) && performance.now() < deadline) Bun.sleepSync(10);
      if (!isListening(reached.path)) return;
    } finally {
      reached.close();
    }
    throw new IpcError("FAILED", `another daemon listens at ${this.#path}`, {
      hint: "end that one, or choose another place with --socket PATH",
    });
  }

  #listen(path: string): UnixSocketListener<Session | undefined> {
    return Bun.listen<Session | undefined>({
      unix: path,
      socket: {
        open: (socket) => {
          let caller: Caller;
          try {
            caller = this.#admit(fdOf(socket));
          } catch (error) {
            const refusal = IpcError.from(error, "accepting a connection");
            this.#deps.onRefused(refusal);
            new Session(
              socket,
              this.#depsOf(() => Promise.reject(refusal)),
            ).refuse(refusal);
            return;
          }
          const session = new Session(
            socket,
            this.#depsOf((request) => this.#deps.handle(caller, request, this)),
          );
          socket.data = session;
          this.#sessions.set(session, caller);
        },
        data: (socket, bytes) => socket.data?.onData(bytes),
        drain: (socket) => socket.data?.onDrain(),
        close: (socket) => this.#close(socket.data),
        error: (socket) => this.#close(socket.data),
      },
    });
  }

  /** @throws IpcError LIMIT, NO_PERMISSION */
  #admit(fd: number): Caller {
    if (this.#sessions.size >= limit("connections"))
      throw new IpcError(
        "LIMIT",
        `${limit("connections")} connections are open already, the most that the daemon accepts`,
      );
    return { ...requirePermitted(fd, this.#deps.uid, this.#deps.trees), connection: ++this.#accepted };
  }

  #depsOf(handle: SessionDeps["handle"]): SessionDeps {
    const { subscriptions, onError } = this.#deps;
    return { handle, subscriptions, onError, budget: this.#budget };
  }

  #close(session: Session | undefined): void {
    const caller = session && this.#sessions.get(session);
    if (session === undefined || caller === undefined) return;
    this.#sessions.delete(session);
    void session.onClose().then(() => this.#deps.onEnd(caller));
  }
}

/** Bun's sockets have a descriptor that its types do not show. */
function fdOf(socket: unknown): number {
  return (socket as { fd: number }).fd;
}

/** 0700 and ours: in a directory that others can write to, they could give our clients another socket. */
export function requireSocketFolder(path: string, uid: number): void {
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 });
  } catch (error) {
    const isSession = process.env.XDG_RUNTIME_DIR !== undefined && path.startsWith(process.env.XDG_RUNTIME_DIR);
    throw new IpcError("FAILED", `the folder ${path} cannot be created: ${(error as Error).message}`, {
      hint: isSession
        ? "this user has no login session; try: env -u XDG_RUNTIME_DIR ipcctl status"
        : "choose another place with --socket PATH",
      cause: error,
    });
  }
  const stat = lstatSync(path);
  if (stat.uid !== uid && stat.uid !== 0) {
    throw new IpcError("NO_PERMISSION", `${path} belongs to user ${stat.uid}, not to ${uid}`, {
      hint: "choose another place with --socket PATH",
    });
  }
  if ((stat.mode & 0o022) !== 0 && (stat.mode & 0o1000) === 0) {
    throw new IpcError("NO_PERMISSION", `${path} can be written by others`, { hint: `chmod 700 ${path}` });
  }
}
