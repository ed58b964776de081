/**
 * The system calls of the data plane, by Bun's FFI. Loaded by programs that call workers, not at the start of the
 * daemon or a command.
 */
import { FFIType, ptr, toArrayBuffer, type dlopen, type Pointer } from "bun:ffi";
import { RLIMIT } from "../../contract/linux.ts";
import { IpcError } from "../base/errors.ts";
import { openLibc } from "./open-libc.ts";

const { i32, u32, u64, i64, ptr: pointer } = FFIType;
const SYMBOLS = {
  memfd_create: { args: [pointer, u32], returns: i32 },
  ftruncate: { args: [i32, i64], returns: i32 },
  fcntl: { args: [i32, i32, i32], returns: i32 },
  socketpair: { args: [i32, i32, i32, pointer], returns: i32 },
  socket: { args: [i32, i32, i32], returns: i32 },
  connect: { args: [i32, pointer, u32], returns: i32 },
  sendmsg: { args: [i32, pointer, i32], returns: i64 },
  recvmsg: { args: [i32, pointer, i32], returns: i64 },
  mmap: { args: [u64, u64, i32, i32, i32, i64], returns: pointer },
  lseek: { args: [i32, i64, i32], returns: i64 },
  madvise: { args: [pointer, u64, i32], returns: i32 },
  munmap: { args: [pointer, u64], returns: i32 },
  pipe2: { args: [pointer, i32], returns: i32 },
  recv: { args: [i32, pointer, u64, i32], returns: i64 },
  send: { args: [i32, pointer, u64, i32], returns: i64 },
  poll: { args: [pointer, u64, i32], returns: i32 },
  open: { args: [pointer, i32], returns: i32 },
  read: { args: [i32, pointer, u64], returns: i64 },
  close: { args: [i32], returns: i32 },
  sched_getcpu: { args: [], returns: i32 },
  sched_getaffinity: { args: [i32, u64, pointer], returns: i32 },
  sched_setaffinity: { args: [i32, u64, pointer], returns: i32 },
  setrlimit: { args: [i32, pointer], returns: i32 },
} as const;

type Library = ReturnType<typeof dlopen<typeof SYMBOLS>>["symbols"];

const found = openLibc(SYMBOLS);
/** A program that imports this on a machine without a C library is told when it connects. */
const libc = found as Library;

/** @throws IpcError FAILED if the data plane cannot work here at all */
export function requireSystem(): void {
  if (found === undefined) throw new IpcError("FAILED", "the C library cannot be loaded, so there is no shared memory");
}

/** Bun accepts a context and a function that frees, but its types do not know. */
const adopt = toArrayBuffer as unknown as (
  address: number,
  offset: number,
  length: number,
  context: number,
  free: Pointer,
) => ArrayBuffer;
const MFD_CLOEXEC = 1;
const MFD_ALLOW_SEALING = 2;
const F_ADD_SEALS = 1033;
const SEALS = 0x0001 | 0x0002 | 0x0004; // no more seals, no shrinking, no growing
const AF_UNIX = 1;
const CLOEXEC = 0o2000000;
const NONBLOCK = 0o4000;
/** Kinds of sockets. */
export const STREAM = 1;
export const SEQPACKET = 5;

function checked(result: number, what: string): number {
  if (result >= 0) return result;
  throw new IpcError("FAILED", `${what} failed`, { hint: "see: ipcctl doctor" });
}

/** A sealed segment without a name. */
export function createSegment(bytes: number): number {
  const fd = checked(
    libc.memfd_create(ptr(Buffer.from("ipcctl-channel\0")), MFD_CLOEXEC | MFD_ALLOW_SEALING),
    "memfd_create",
  );
  checked(libc.ftruncate(fd, BigInt(bytes)), "ftruncate");
  checked(libc.fcntl(fd, F_ADD_SEALS, SEALS), "sealing the segment");
  return fd;
}

/**
 * Maps a segment for reading and writing, as long as the result is referenced. Bun.mmap would need a path and read
 * ahead.
 * @throws IpcError
 */
export function map(fd: number, bytes: number): Uint8Array<ArrayBuffer> {
  const READ_WRITE = 3;
  const SHARED = 1;
  const address = libc.mmap(0n, BigInt(bytes), READ_WRITE, SHARED, fd, 0n) as unknown as number;
  if (address === null || address < 0 || address >= Number.MAX_SAFE_INTEGER)
    throw new IpcError("FAILED", `${bytes} bytes of shared memory cannot be mapped`, {
      hint: "share it in several parts; the address space may be limited: ulimit -v",
    });
  // munmap has the signature of a deallocator: it gets the address and, as context, the length.
  const unmap = (libc.munmap as unknown as { readonly ptr: Pointer }).ptr;
  try {
    return new Uint8Array(adopt(address, 0, bytes, bytes, unmap));
  } catch (error) {
    libc.munmap(address as Pointer, BigInt(bytes));
    throw new IpcError("FAILED", `memory of ${bytes} bytes is more than an ArrayBuffer holds here, which is 4 GiB`, {
      cause: error,
      hint: "share it in several parts",
    });
  }
}

/** Gives the pages of what was mapped back to the kernel. It reads as zeros then, and may be written anew. */
export function empty(mapped: Uint8Array): void {
  const MADV_REMOVE = 9;
  libc.madvise(ptr(mapped), BigInt(mapped.length), MADV_REMOVE);
}

/** The size of a memfd that cannot be shrunk; undefined for anything else. */
export function sealedBytes(fd: number): number | undefined {
  const F_GET_SEALS = 1034;
  const F_SEAL_SHRINK = 2;
  const SEEK_END = 2;
  const seals = libc.fcntl(fd, F_GET_SEALS, 0);
  if (seals < 0 || (seals & F_SEAL_SHRINK) === 0) return undefined;
  return Number(libc.lseek(fd, 0, SEEK_END)); // takes a third of the time of fstatSync
}

/** Two ends of a socket. */
export function createPair(type: number): [number, number] {
  const fds = new Int32Array(2);
  checked(libc.socketpair(AF_UNIX, type | CLOEXEC, 0, ptr(fds)), "socketpair");
  return [fds[0]!, fds[1]!];
}

/** A pipe that nothing is written to: `[ours, theirs]`. Theirs ends when ours does, also if this process is killed. */
export function createLife(): [number, number] {
  const fds = new Int32Array(2);
  checked(libc.pipe2(ptr(fds), CLOEXEC | NONBLOCK), "pipe2");
  return [fds[1]!, fds[0]!];
}

/**
 * Memory whose address is passed to the kernel. It must not move, so it has a buffer of its own (that of a small typed
 * array moves once it is asked for), and it must stay alive, so it hangs on an object that functions refer to: a module
 * constant that no function names is collected.
 */
function fixed(bytes: number): { readonly bytes: Buffer; readonly at: Pointer } {
  const buffer = Buffer.from(new ArrayBuffer(bytes));
  return { bytes: buffer, at: ptr(buffer) };
}

const bell = fixed(1);
const bells = fixed(64);
export const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;

/** Sends one byte; if there is no room, it is rung already. */
export function ring(fd: number): void {
  libc.send(fd, bell.at, 1n, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/** Takes the bells so far. False at the end of the connection. */
export function drain(fd: number): boolean {
  return Number(libc.recv(fd, bells.at, 64n, MSG_DONTWAIT)) !== 0;
}

/** A program that this one starts does not get it. */
export function closeOnExec(fd: number): void {
  const F_SETFD = 2;
  const FD_CLOEXEC = 1;
  libc.fcntl(fd, F_SETFD, FD_CLOEXEC);
}

export function closeFd(fd: number): void {
  libc.close(fd);
}

/** A blocking connection to a Unix socket; undefined if nothing listens. */
export function connectUnix(path: string, type = STREAM): number | undefined {
  const name = Buffer.from(`${path}\0`);
  const address = Buffer.alloc(2 + name.length);
  address.writeUInt16LE(AF_UNIX, 0);
  name.copy(address, 2);
  const fd = checked(libc.socket(AF_UNIX, type | CLOEXEC, 0), "socket");
  if (libc.connect(fd, ptr(address), address.length) === 0) return fd;
  libc.close(fd);
  return undefined;
}

const FDS_MAX = 8;
const BYTES_MAX = 128;
const outgoing = { data: fixed(BYTES_MAX), control: fixed(16 + FDS_MAX * 4), part: fixed(16), header: fixed(56) };
outgoing.part.bytes.writeBigUInt64LE(BigInt(outgoing.data.at), 0);
outgoing.header.bytes.writeBigUInt64LE(BigInt(outgoing.part.at), 16);
outgoing.header.bytes.writeBigUInt64LE(1n, 24);
outgoing.header.bytes.writeBigUInt64LE(BigInt(outgoing.control.at), 32);

/** Sends at most 128 bytes with at most 8 descriptors (`SCM_RIGHTS`). */
export function sendWithFds(socket: number, bytes: Uint8Array, fds: readonly number[], flags = 0): boolean {
  if (bytes.length > BYTES_MAX || fds.length > FDS_MAX)
    throw new RangeError(
      `a packet of ${bytes.length} bytes with ${fds.length} descriptors: at most ${BYTES_MAX} and ${FDS_MAX} fit`,
    );
  const { data, control, part, header } = outgoing;
  data.bytes.set(bytes);
  part.bytes.writeUInt32LE(bytes.length, 8);
  control.bytes.writeUInt32LE(16 + fds.length * 4, 0);
  control.bytes.writeInt32LE(1, 8); // SOL_SOCKET
  control.bytes.writeInt32LE(1, 12); // SCM_RIGHTS
  for (const [index, fd] of fds.entries()) control.bytes.writeInt32LE(fd, 16 + index * 4);
  header.bytes.writeUInt32LE(fds.length === 0 ? 0 : 16 + fds.length * 4 + ((fds.length * 4) % 8), 40);
  return Number(libc.sendmsg(socket, header.at, MSG_NOSIGNAL | flags)) === bytes.length;
}

const incoming = { data: fixed(BYTES_MAX), control: fixed(16 + FDS_MAX * 4), part: fixed(16), header: fixed(56) };
incoming.part.bytes.writeBigUInt64LE(BigInt(incoming.data.at), 0);
incoming.header.bytes.writeBigUInt64LE(BigInt(incoming.part.at), 16);
incoming.header.bytes.writeBigUInt64LE(1n, 24);
incoming.header.bytes.writeBigUInt64LE(BigInt(incoming.control.at), 32);

/** What one packet brought: all of its bytes, and as many descriptors as were asked for. */
export type Packet = { readonly bytes: Buffer; readonly fds: readonly number[] };

/** The size of the next packet, with at most so many descriptors beside it; 0 or less if there is none. */
function receiveMessage(socket: number, bytes: number, fds: number): number {
  const MSG_CMSG_CLOEXEC = 0x4000_0000;
  incoming.part.bytes.writeUInt32LE(bytes, 8);
  incoming.header.bytes.writeUInt32LE(16 + 4 * fds, 40); // not padded, so that the kernel closes further descriptors
  return Number(libc.recvmsg(socket, incoming.header.at, MSG_DONTWAIT | MSG_CMSG_CLOEXEC));
}

/** How many descriptors the message had that was received last. */
function receivedFds(): number {
  const { control, header } = incoming;
  const hasFds =
    header.bytes.readUInt32LE(40) > 16 && control.bytes.readInt32LE(8) === 1 && control.bytes.readInt32LE(12) === 1;
  return hasFds ? (control.bytes.readUInt32LE(0) - 16) / 4 : 0;
}

function isTruncated(): boolean {
  const MSG_TRUNCATED = 0x28; // MSG_TRUNC and MSG_CTRUNC
  return (incoming.header.bytes.readInt32LE(48) & MSG_TRUNCATED) !== 0;
}

/**
 * The next packet, of at most 128 bytes and with exactly so many descriptors, at least one. Undefined if there is none,
 * `"bad"` for one of another form, of which nothing stays open.
 * @param most it may have as many instead
 */
export function receivePacket(socket: number, count: number, most = count): Packet | "bad" | undefined {
  const { data, control } = incoming;
  const size = receiveMessage(socket, BYTES_MAX, most);
  if (size <= 0) return undefined;
  const fds = Array.from({ length: receivedFds() }, (_, index) => control.bytes.readInt32LE(16 + 4 * index));
  const isWhole = (fds.length === count || fds.length === most) && !isTruncated();
  if (isWhole) return { bytes: Buffer.from(data.bytes.subarray(0, size)), fds };
  for (const fd of fds) closeFd(fd);
  return "bad";
}

/**
 * The next packet of exactly this size with one descriptor; undefined if there is none, or one of another form. Makes
 * nothing that must be collected: each array in shared memory comes by it.
 */
export function receiveFd(socket: number, bytes: Uint8Array): number | undefined {
  const size = receiveMessage(socket, bytes.length, 1);
  if (size < 0 || receivedFds() !== 1) return undefined;
  const fd = incoming.control.bytes.readInt32LE(16);
  bytes.set(incoming.data.bytes.subarray(0, bytes.length));
  if (size === bytes.length && !isTruncated()) return fd;
  closeFd(fd);
  return undefined;
}

const polled = fixed(16);
const received = fixed(4096);

/**
 * Blocks until a descriptor is readable or closed, at most for this long; below zero, without end.
 * @param other the same; below zero, none
 */
export function waitReadable(fd: number, timeoutMs: number, other = -1): boolean {
  const POLLIN = 1;
  polled.bytes.writeInt32LE(fd, 0);
  polled.bytes.writeInt16LE(POLLIN, 4);
  polled.bytes.writeInt32LE(other, 8);
  polled.bytes.writeInt16LE(POLLIN, 12);
  return libc.poll(polled.at, 2n, timeoutMs) > 0;
}

/** Blocks until bytes arrive; empty at the end of the connection, undefined after the timeout. */
export function receive(socket: number, timeoutMs: number): Buffer | undefined {
  if (!waitReadable(socket, timeoutMs)) return undefined;
  const count = Number(libc.recv(socket, received.at, BigInt(received.bytes.length), 0));
  return Buffer.from(received.bytes.subarray(0, Math.max(0, count)));
}

/** The beginning of a small file, such as those of the kernel, without node:fs, which takes long to load. */
export function readText(path: string): string {
  const fd = checked(libc.open(ptr(Buffer.from(`${path}\0`)), CLOEXEC), `open ${path}`);
  const count = Number(libc.read(fd, received.at, BigInt(received.bytes.length)));
  libc.close(fd);
  return received.bytes.toString("latin1", 0, checked(count, `read ${path}`));
}

/** The core that this thread runs on, counted from one; 0 is unknown. */
export function core(): number {
  return libc.sched_getcpu() + 1;
}

const CORE_SET_BYTES = 128;
const allowed = fixed(CORE_SET_BYTES);
const all = fixed(CORE_SET_BYTES);
all.bytes.fill(0xff);

/**
 * Moves this thread off its core, if it may run on all online cores: an affinity that was set for it, or for its group,
 * is left alone. Returns whether it did. Afterwards more cores than are online are allowed: a mask of exactly these
 * would not grow with the group, or with the machine.
 */
export function leaveCore(): boolean {
  const bytes = BigInt(CORE_SET_BYTES);
  const here = core() - 1;
  if (here < 0 || libc.sched_getaffinity(0, bytes, allowed.at) < 0 || !isAllOnline(allowed.bytes)) return false;
  allowed.bytes[here >> 3]! &= ~(1 << (here & 7));
  const hasMoved = libc.sched_setaffinity(0, bytes, allowed.at) === 0;
  if (hasMoved) libc.sched_setaffinity(0, bytes, all.at);
  return hasMoved;
}

/** Whether a set of cores is what the kernel reports as online, as "0-3,8". */
function isAllOnline(set: Buffer): boolean {
  let text: string;
  try {
    text = readText("/sys/devices/system/cpu/online");
  } catch {
    return false;
  }
  const online = new Uint8Array(CORE_SET_BYTES);
  for (const range of text.trim().split(",")) {
    const [first = Number.NaN, last = first] = range.split("-").map(Number);
    for (let one = first; one <= last; one++) online[one >> 3]! |= 1 << (one & 7);
  }
  return set.equals(online);
}

/**
 * What this process may have of writable memory of its own, from now on and for good. False if it may have less
 * already.
 */
export function limitData(bytes: number): boolean {
  const both = new BigUint64Array(2).fill(BigInt(bytes)); // soft and hard
  return libc.setrlimit(RLIMIT.data, ptr(both)) === 0;
}
