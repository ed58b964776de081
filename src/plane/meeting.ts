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
import { openStream } from "../base/platform.ts";
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

/** Where the shim is met. It keeps the program alive. */
export type Meeting = {
  /** Takes no more channels. Those that are open stay. */
  readonly leave: () => void;
};

/** Gets the client's end of a channel to another worker, and what the daemon calls it. */
export type OnRelay = (label: string, segment: OpenSegment) => void;

/**
 * Meets the shim of this process, which hands over what clients open. What is no channel for calls is turned away.
 * @param onRelay without it, so is one that the daemon relays
 * @throws IpcError FAILED if ipcctl has not started this process, or another one of its tree has met the shim
 */
export async function meet(onChannel: (segment: OpenSegment) => void, onRelay?: OnRelay): Promise<Meeting> {
  const socket = reachShim();
  const [bell, theirs] = createPair(STREAM);
  const isHeard = sendWithFds(socket, Buffer.of(MEETING.bell), [theirs]);
  closeFd(theirs);
  const takeAll = (): void => {
    for (let packet = receive(); packet !== undefined; packet = receive()) {
      if (packet === "bad") continue;
      let taken: Taken;
      try {
        taken = takeSegment(packet, onRelay ? ["calls", "relay"] : ["calls"]);
      } catch {
        continue; // its client sees it closed, and says so
      }
      if (taken.use === "relay") onRelay!(taken.label, taken.segment);
      else onChannel(taken.segment);
    }
  };
  const most = onRelay ? CHANNEL_FDS : CHANNEL_FDS_FORWARDED;
  const receive = (): Packet | "bad" | undefined => receivePacket(socket, CHANNEL_FDS_FORWARDED, most);
  let isMet = true;
  const leave = (): void => {
    if (!isMet) return;
    isMet = false;
    stream.terminate();
    closeFd(socket);
  };
  // The shim rings when it has the bell, and hangs up if another process is there. Until then nobody is met.
  const answered = Promise.withResolvers<void>();
  const stream = await openStream(
    { fd: bell },
    {
      data: () => {
        answered.resolve();
        if (isMet) takeAll();
      },
      close: () => {
        leave();
        answered.resolve();
      },
    },
  );
  if (isHeard) await answered.promise;
  if (isHeard && isMet) return { leave };
  leave();
  throw new IpcError("FAILED", "serve: another process of this worker serves already");
}

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
    throw new IpcError("FAILED", "serve: ipcctl has not started this program (no IPCCTL_PLANE)", {
      hint: "start it with: ipcctl start SCRIPT",
    });
  throw new IpcError("FAILED", "serve: its shim cannot be reached");
}
