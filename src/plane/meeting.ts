/** The serving side of what `meet.ts` opens: takes the channels that clients hand over. */
import { CHANNEL_FDS, CHANNEL_FDS_FORWARDED, MEETING } from "../../contract/shim.ts";
import {
  CHANNEL_KIND,
  MAGIC,
  OPEN,
  RING_CAPACITY_MAX,
  RING_CAPACITY_MIN,
  SEGMENT,
  SEGMENT_VERSION,
  SEGMENT_VERSION_SLOTS,
} from "../../contract/segment.ts";
import { IpcError } from "../base/errors.ts";
import { openStream, type StreamSocket } from "../base/platform.ts";
import { reachablePath } from "../base/socket-path.ts";
import type { OpenSegment } from "./meet.ts";
import { BrokenChannel } from "./ring.ts";
import {
  closeFd,
  closeOnExec,
  connectUnix,
  createPair,
  map,
  receivePacket,
  sealedBytes,
  sendWithFds,
  SEQPACKET,
  STREAM,
  waitReadable,
  type Packet,
} from "./system.ts";

/**
 * Takes the channel that is offered on the other end of this socket.
 * @throws BrokenChannel if nothing is offered in time, or it is not as docs/internals/shm-layout.md says
 */
export function acceptOn(socket: number, timeoutMs: number): OpenSegment {
  const packet = waitReadable(socket, timeoutMs) ? receivePacket(socket, CHANNEL_FDS_FORWARDED) : undefined;
  if (packet === undefined || packet === "bad")
    throw new BrokenChannel("the other side did not offer a channel in time");
  return takeSegment(packet, ["calls"]).segment;
}

/**
 * Meets the shim of this process, which does nothing else until its only channel is there: what is returned waits for
 * that, blocking.
 * @throws IpcError FAILED as {@link meet}; what is returned throws BrokenChannel if there will be none
 */
export function meetOnce(): () => OpenSegment {
  const socket = reachShim();
  return () => {
    try {
      return acceptOn(socket, FOREVER);
    } finally {
      closeFd(socket);
    }
  };
}

/** As poll(2) has it. */
const FOREVER = -1;

type Use = keyof typeof CHANNEL_KIND;
type Taken = { readonly use: Use; readonly label: string; readonly segment: OpenSegment };

/** @throws BrokenChannel if it is not a channel of one of these uses; its descriptors are closed then */
function takeSegment({ bytes, fds }: Packet, uses: readonly Use[]): Taken {
  const [segment, bell, descriptors, life] = fds as [number, number, number, number?];
  try {
    if (bytes.length <= OPEN.kind) throw new BrokenChannel(`${bytes.length} bytes are too few for a channel`);
    const [version, capacity] = [bytes.readUInt32LE(OPEN.version), bytes.readUInt32LE(OPEN.capacity)];
    const isKnown = version >= SEGMENT_VERSION_SLOTS && version <= SEGMENT_VERSION;
    const isPower = capacity >= RING_CAPACITY_MIN && capacity <= RING_CAPACITY_MAX && (capacity & (capacity - 1)) === 0;
    if (!isKnown || !isPower)
      throw new BrokenChannel(
        `the offered channel has layout ${version} with rings of ${capacity} bytes, which is not known here`,
      );
    const kind = bytes.readUInt8(OPEN.kind);
    const use = uses.find((one) => CHANNEL_KIND[one] === kind);
    if (use === undefined) throw new BrokenChannel(`channels of kind ${kind} are not served here`);
    if ((use === "relay") !== (life !== undefined))
      throw new BrokenChannel(`${fds.length} descriptors are not what a channel of kind ${kind} has`);
    const size = SEGMENT.data + 2 * capacity;
    if (sealedBytes(segment) !== size)
      throw new BrokenChannel("the offered segment is not sealed, or not of the size it claims");
    const memory = map(segment, size);
    const magic = Buffer.of(...Buffer.from(MAGIC), version, 0);
    if (!magic.equals(memory.subarray(SEGMENT.magic, SEGMENT.magic + magic.length)))
      throw new BrokenChannel("the offered segment does not begin with the magic of a channel");
    closeFd(segment);
    const label = bytes.subarray(OPEN.name).toString();
    return { use, label, segment: { version, capacity, memory, bell, descriptors, life } };
  } catch (error) {
    for (const fd of fds) closeFd(fd);
    throw error;
  }
}

/** Who takes what clients open. What nobody takes is turned away: its client sees it closed. */
export type Takers = {
  readonly calls?: (segment: OpenSegment) => void;
  /** The channel on which this worker asks the host. */
  readonly host?: (segment: OpenSegment) => void;
  /** The client's end of a channel to another worker, and what the daemon calls it. */
  readonly relay?: (label: string, segment: OpenSegment) => void;
};

/** A part of this program that has met the shim. */
export type Meeting = {
  /** Takes no more channels. Those that are open stay. */
  readonly leave: () => void;
  /** Resolves once nothing comes any more: the shim has turned this process away, or all have left. */
  readonly over: Promise<void>;
};

/** One process of a worker meets its shim once, whatever parts of it take channels. */
let met: Promise<Meet> | undefined;

/**
 * Meets the shim of this process, which hands over what clients open.
 * @param keepsAlive false: the program may end while it waits for channels
 * @throws IpcError FAILED if ipcctl has not started this process, or another one of its tree has met the shim
 */
export async function meet(takers: Takers, keepsAlive = true): Promise<Meeting> {
  const part: Part = { takers, keepsAlive };
  const isFirst = met === undefined;
  const meeting = (met ??= Meet.open(part));
  try {
    const one = await meeting;
    if (!isFirst) one.add(part);
    return { leave: () => one.remove(part), over: one.over.promise };
  } catch (error) {
    if (met === meeting) met = undefined;
    throw error;
  }
}

type Part = { readonly takers: Takers; readonly keepsAlive: boolean };

class Meet {
  readonly over = Promise.withResolvers<void>();
  readonly #socket: number;
  readonly #parts: Set<Part>;
  #stream: StreamSocket | undefined;
  #isOver = false;

  private constructor(socket: number, first: Part) {
    this.#socket = socket;
    this.#parts = new Set([first]);
  }

  /** @param first takes what has come before the shim is met */
  static async open(first: Part): Promise<Meet> {
    const one = new Meet(reachShim(), first);
    const [bell, theirs] = createPair(STREAM);
    const isHeard = sendWithFds(one.#socket, Buffer.of(MEETING.bell), [theirs]);
    closeFd(theirs);
    // The shim rings when it has the bell, and hangs up if another process is there. Until then nobody is met.
    const answered = Promise.withResolvers<void>();
    one.#stream = await openStream(
      { fd: bell },
      {
        data: () => {
          answered.resolve();
          one.#takeAll();
        },
        close: () => {
          one.#end();
          answered.resolve();
        },
      },
    );
    if (isHeard) await answered.promise;
    if (isHeard && !one.#isOver) {
      one.#settleRef();
      return one;
    }
    one.#end();
    throw new IpcError("FAILED", "another process of this worker has met its shim already");
  }

  add(part: Part): void {
    if (this.#isOver) return;
    this.#parts.add(part);
    this.#settleRef();
  }

  remove(part: Part): void {
    this.#parts.delete(part);
    if (this.#parts.size === 0) this.#end();
    else if (!this.#isOver) this.#settleRef();
  }

  #settleRef(): void {
    if ([...this.#parts].some((part) => part.keepsAlive)) this.#stream!.ref();
    else this.#stream!.unref();
  }

  #end(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    met = undefined;
    this.#stream?.terminate();
    closeFd(this.#socket);
    this.over.resolve();
  }

  #takeAll(): void {
    while (!this.#isOver) {
      const parts = [...this.#parts].map(({ takers }) => takers);
      const relay = parts.find((one) => one.relay)?.relay;
      const most = relay ? CHANNEL_FDS : CHANNEL_FDS_FORWARDED;
      const packet = receivePacket(this.#socket, CHANNEL_FDS_FORWARDED, most);
      if (packet === undefined) return;
      if (packet === "bad") continue;
      const uses = USES.filter((use) => parts.some((one) => one[use]));
      let taken: Taken;
      try {
        taken = takeSegment(packet, uses);
      } catch {
        continue; // its client sees it closed, and says so
      }
      const { use, label, segment } = taken;
      if (use === "relay") relay!(label, segment);
      else parts.find((one) => one[use as "calls"])![use as "calls"]!(segment);
    }
  }
}

const USES = ["calls", "host", "relay"] as const;

/** Passed by the shim, where no socket can be reached by its path; else connected to. @throws IpcError FAILED */
function reachShim(): number {
  const { IPCCTL_PLANE_FD: passed, IPCCTL_PLANE: path } = process.env;
  if (passed !== undefined) {
    delete process.env.IPCCTL_PLANE_FD;
    const socket = Number(passed);
    closeOnExec(socket);
    if (sendWithFds(socket, Buffer.of(MEETING.here), [])) return socket;
  } else if (path !== undefined) {
    const reachable = reachablePath(path);
    const socket = connectUnix(reachable.path, SEQPACKET);
    reachable.close();
    if (socket !== undefined) return socket;
  } else
    throw new IpcError("FAILED", "ipcctl has not started this program (no IPCCTL_PLANE)", {
      hint: "start it with: ipcctl start SCRIPT",
    });
  throw new IpcError("FAILED", "the shim of this worker cannot be reached");
}
