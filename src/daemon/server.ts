/** The control socket: listens, checks peers, makes sessions, counts them. */
import { chmodSync, lstatSync, mkdirSync, rmSync } from "node:fs";
import type { UnixSocketListener } from "bun";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { reachablePath } from "../base/socket-path.ts";
import { requirePermitted, type Trees } from "./peers.ts";
import { Session, type SessionWorld } from "./session.ts";

export type ServerWorld = Omit<SessionWorld, "budget"> & {
  readonly trees: Trees;
  readonly uid: number;
  readonly onRefused: (error: IpcError) => void;
};

export class Server implements Disposable {
  readonly #path: string;
  readonly #sessions = new Set<Session>();
  readonly #listener: UnixSocketListener<Session | undefined>;

  /** The caller holds the daemon's lock: a socket file that is there is a dead daemon's. */
  constructor(path: string, runtimeDir: string, world: ServerWorld) {
    this.#path = path;
    prepareDirectory(runtimeDir, world.uid);
    removeStale(path);
    const reached = reachablePath(path);
    const mask = process.umask(0o177);
    try {
      this.#listener = this.#listen(reached.path, { ...world, budget: { heldBytes: 0 } });
      chmodSync(path, 0o600);
    } finally {
      process.umask(mask);
      reached.close();
    }
  }

  get connections(): number {
    return this.#sessions.size;
  }

  [Symbol.dispose](): void {
    this.#listener.stop(true);
    rmSync(this.#path, { force: true });
  }

  #listen(path: string, world: SessionWorld & ServerWorld): UnixSocketListener<Session | undefined> {
    return Bun.listen<Session | undefined>({
      unix: path,
      socket: {
        open: (socket) => {
          const session = new Session(socket, world);
          try {
            if (this.#sessions.size >= limit("connections")) {
              throw new IpcError("LIMIT", `${limit("connections")} connections are open already`);
            }
            requirePermitted(fdOf(socket), world.uid, world.trees);
          } catch (error) {
            const refusal = IpcError.from(error, "accepting a connection");
            world.onRefused(refusal);
            session.refuse(refusal);
            return;
          }
          socket.data = session;
          this.#sessions.add(session);
        },
        data: (socket, bytes) => socket.data?.onData(bytes),
        drain: (socket) => socket.data?.onDrain(),
        close: (socket) => this.#close(socket.data),
        error: (socket) => this.#close(socket.data),
      },
    });
  }

  #close(session: Session | undefined): void {
    if (!session || !this.#sessions.delete(session)) return;
    session.onClose();
  }
}

/** Bun's sockets have a descriptor that its types do not tell. */
function fdOf(socket: unknown): number {
  return (socket as { fd: number }).fd;
}

/** 0700 and ours: a directory that others may write to could give our clients another socket. */
function prepareDirectory(path: string, uid: number): void {
  mkdirSync(path, { recursive: true, mode: 0o700 });
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

function removeStale(path: string): void {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  if (!stat) return;
  if (!stat.isSocket())
    throw new IpcError("FAILED", `${path} exists and is not a socket`, {
      hint: "remove it, or choose another place with --socket PATH",
    });
  rmSync(path);
}
