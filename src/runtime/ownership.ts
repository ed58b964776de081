/** The connection to its shim by which this program owns an ephemeral worker: the worker ends with it. */
import { REPLY, REQUEST } from "../../contract/shim.ts";
import { IpcError } from "../base/errors.ts";
import { openStream, type StreamSocket } from "../base/platform.ts";
import { signalName } from "../base/signals.ts";
import { reachablePath } from "../base/socket-path.ts";
import { takeFrames } from "../shim/frame-stream.ts";
import { errorOfEnd } from "./python-worker.ts";

const SIGNAL_BITS = 0x7f;

export class Ownership {
  readonly #name: string;
  readonly #claim = Promise.withResolvers<void>();
  readonly #ended = Promise.withResolvers<void>();
  #socket: StreamSocket | undefined;
  #held: Buffer = Buffer.alloc(0);
  #howItEnded: IpcError | undefined;

  private constructor(name: string) {
    this.#name = name;
  }

  /** @throws IpcError NOT_RUNNING if it has ended already, or was not claimed in time */
  static async claim(name: string, shimSocket: string): Promise<Ownership> {
    const own = new Ownership(name);
    own.#claim.promise.catch(() => undefined); // it may fail before anybody waits for it
    const reached = reachablePath(shimSocket);
    try {
      own.#socket = await openStream(
        { unix: reached.path },
        {
          data: (bytes) => own.#receive(Buffer.from(bytes)),
          close: () => own.#onClose(),
          error: () => undefined,
        },
      );
      own.#socket.write(Buffer.of(1, 0, 0, 0, REQUEST.own));
      await own.#claim.promise;
      own.#socket.unref();
      return own;
    } catch (error) {
      own.#socket?.terminate();
      throw error instanceof IpcError ? error : hasEnded(name);
    } finally {
      reached.close();
    }
  }

  /** Ends the worker with its whole tree; resolves when nothing of it runs. */
  async release(): Promise<void> {
    this.#socket?.ref();
    this.#socket?.shutdown();
    await this.#ended.promise;
  }

  /** Once nothing of it runs. */
  async howItEnded(): Promise<IpcError> {
    await this.#ended.promise;
    return this.#howItEnded ?? new IpcError("WORKER_CRASHED", `${this.#name} ended: its shim was killed`);
  }

  #receive(bytes: Buffer): void {
    this.#held = takeFrames(
      Buffer.concat([this.#held, bytes]),
      (type, payload) => this.#take(type, payload),
      () => this.#socket?.terminate(),
    );
  }

  #take(type: number, payload: Buffer): void {
    if (type === REPLY.ok) this.#claim.resolve();
    if (type === REPLY.error) this.#claim.reject(hasEnded(this.#name));
    if (type === REPLY.exited) this.#howItEnded = this.#describe(payload.readUInt32LE(0), payload.readUInt8(12) === 1);
  }

  /** @param status as wait(2) has it */
  #describe(status: number, isStopping: boolean): IpcError {
    if (isStopping) return new IpcError("WORKER_STOPPED", `${this.#name} was stopped`);
    const signal = status & SIGNAL_BITS;
    return signal === 0
      ? errorOfEnd(this.#name, { kind: "exit", status: status >> 8, signal: null })
      : errorOfEnd(this.#name, { kind: "signal", status: signal, signal: signalName(signal) });
  }

  #onClose(): void {
    this.#claim.reject(hasEnded(this.#name));
    this.#ended.resolve();
  }
}

/** A worker that runs once, and has: nothing starts it again. */
export function hasEnded(name: string): IpcError {
  return new IpcError("NOT_RUNNING", `${name} has ended already`);
}
