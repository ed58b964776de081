/** Opening a channel: the client makes the segment and hands its descriptors to the worker, through the worker's shim. */
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { sleep } from "../base/platform.ts";
import { reachablePath } from "../base/socket-path.ts";
import {
  closeFd,
  connectUnix,
  createLife,
  createPair,
  createSegment,
  map,
  receive,
  SEQPACKET,
  sendWithFds,
  STREAM,
} from "./system.ts";

const VERSION = 2;
const MAGIC = Buffer.from("IPCCTL\x02\x00", "latin1");
export const DATA_OFFSET = 4096;
export const CAPACITY = 1 << 20;
const PIPE_NAME_BYTES_MAX = limit("pipeNameBytes");

/** Frames of the shim that matter here (docs/shim.md). */
const SHIM = { open: 38, wake: 39, ok: 69, error: 70 };
/** A Python that starts has its handler by then; what has none after that never will. */
const START_MS = 2000;
/** No runtime is attached (ENOTCONN), the one that was has just ended (EPIPE, ECONNRESET), or it has too much to take (EAGAIN). */
const NOT_NOW = new Set([107, 32, 104, 11]);
const ENOSYS = 38;
const EMFILE = 24;

/** What a client holds of a channel. Each descriptor is its to close. */
export type OpenSegment = {
  readonly memory: Uint8Array;
  /** Bytes on it are bells, its end is the worker's. */
  readonly bell: number;
  /** Descriptors of shared memory travel on it. */
  readonly descriptors: number;
  /** Its end tells the shim that this client is gone. */
  readonly life: number;
};

/**
 * @param shimSocket the socket of the worker's shim
 * @param pipeName bytes in UTF-8; empty for a channel
 * @throws IpcError NOT_RUNNING, DEADLINE if no runtime attaches in time, FAILED if the worker cannot have one
 */
export async function openSegment(
  shimSocket: string,
  name: string,
  timeoutMs: number,
  pipeName: string,
): Promise<OpenSegment> {
  const label = Buffer.from(pipeName);
  if (label.length > PIPE_NAME_BYTES_MAX)
    throw new IpcError("BAD_CONFIG", `pipe ${pipeName}: a name has at most ${PIPE_NAME_BYTES_MAX} bytes`);
  const bytes = DATA_OFFSET + 2 * CAPACITY;
  const segment = createSegment(bytes);
  const memory = map(segment, bytes);
  memory.set(MAGIC, 0);
  const [bell, theirBell] = createPair(STREAM);
  const [descriptors, theirDescriptors] = createPair(SEQPACKET);
  const [life, theirLife] = createLife();
  try {
    const payload = Buffer.alloc(8 + label.length);
    payload.writeUInt32LE(VERSION, 0);
    payload.writeUInt32LE(CAPACITY, 4);
    label.copy(payload, 8);
    await handOver(shimSocket, name, timeoutMs, payload, [segment, theirBell, theirDescriptors, theirLife]);
    return { memory, bell, descriptors, life };
  } catch (error) {
    for (const fd of [bell, descriptors, life]) closeFd(fd);
    throw error;
  } finally {
    for (const fd of [segment, theirBell, theirDescriptors, theirLife]) closeFd(fd);
  }
}

/** `undefined` where nobody listens, nor is the folder there. */
function connectTo(path: string): number | undefined {
  let reachable: ReturnType<typeof reachablePath>;
  try {
    reachable = reachablePath(path);
  } catch {
    return undefined;
  }
  const socket = connectUnix(reachable.path);
  reachable.close();
  return socket;
}

/** OPEN with the descriptors, once a runtime is attached; a script that knows nothing of us is asked to attach one. */
async function handOver(path: string, name: string, timeoutMs: number, payload: Buffer, fds: number[]): Promise<void> {
  const began = performance.now();
  const deadline = began + timeoutMs;
  const socket = connectTo(path);
  if (socket === undefined) throw notRunning(name);
  try {
    let held: Buffer = Buffer.alloc(0);
    const next = async (): Promise<{ type: number; payload: Buffer } | undefined> => {
      while (held.length < 5 || held.length < 4 + held.readUInt32LE(0)) {
        const bytes = receive(socket, 0);
        if (bytes?.length === 0) throw notRunning(name); // its shim has just ended
        if (bytes) held = Buffer.concat([held, bytes]);
        else if (performance.now() > deadline) return undefined;
        else await sleep(1); // other descriptors than the event loop's own have no events
      }
      const end = 4 + held.readUInt32LE(0);
      const frame = { type: held.readUInt8(4), payload: held.subarray(5, end) };
      held = held.subarray(end);
      return frame;
    };
    const ask = async (type: number, body: Uint8Array, with_: readonly number[] = []): Promise<number> => {
      if (!sendWithFds(socket, Buffer.concat([frameHead(body.length + 1, type), body]), with_)) throw notRunning(name);
      for (let frame = await next(); frame !== undefined; frame = await next()) {
        if (frame.type === SHIM.ok && frame.payload[0] === type) return 0;
        if (frame.type === SHIM.error && frame.payload[0] === type) return frame.payload.readUInt32LE(1);
      }
      throw late(name, timeoutMs);
    };
    for (let pauseMs = 1; ; pauseMs = Math.min(pauseMs * 1.5, 50)) {
      const errno = await ask(SHIM.open, payload, fds);
      if (errno === 0) return;
      if (errno === EMFILE)
        throw new IpcError("FAILED", `${name} has as many channels as it can have, ${limit("channels")}`, {
          hint: "close those that are not needed; one per program is enough",
        });
      if (!NOT_NOW.has(errno)) throw new IpcError("FAILED", `${name} did not take the channel (errno ${errno})`);
      const asked = await ask(SHIM.wake, Buffer.alloc(0));
      const isHopeless = asked === ENOSYS && performance.now() > began + Math.min(START_MS, timeoutMs / 2);
      if (isHopeless || performance.now() > deadline) throw asked === ENOSYS ? noRuntime(name) : late(name, timeoutMs);
      await sleep(pauseMs);
    }
  } finally {
    closeFd(socket);
  }
}

/** Asks the worker to look at what is to be interrupted. */
export function pokeWorker(path: string): void {
  const socket = connectTo(path);
  if (socket === undefined) return;
  sendWithFds(socket, frameHead(1, SHIM.wake), []);
  receive(socket, 1000);
  closeFd(socket);
}

function frameHead(length: number, type: number): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32LE(length, 0);
  head.writeUInt8(type, 4);
  return head;
}

function notRunning(name: string): IpcError {
  return new IpcError("NOT_RUNNING", `${name} is not running`, { hint: `ipcctl start ${name}` });
}

function late(name: string, timeoutMs: number): IpcError {
  return new IpcError("DEADLINE", `${name} did not answer within ${timeoutMs / 1000} s`, {
    hint: `its main thread may be in a long call; see: ipcctl logs ${name}`,
  });
}

function noRuntime(name: string): IpcError {
  return new IpcError("FAILED", `${name} is no Python that ipcctl can look into`, {
    hint: "it needs Python 3.11 without -I, -E or -S, and no --no-console",
  });
}
