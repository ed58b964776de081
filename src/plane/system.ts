/** The system calls of the data plane, by Bun's FFI. Loaded by programs that call workers, not by the daemon's or the CLI's start. */
import { dlopen, FFIType, ptr, toArrayBuffer, type Pointer } from "bun:ffi";
import { IpcError } from "../base/errors.ts";

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
  munmap: { args: [pointer, u64], returns: i32 },
  pipe2: { args: [pointer, i32], returns: i32 },
  recv: { args: [i32, pointer, u64, i32], returns: i64 },
  send: { args: [i32, pointer, u64, i32], returns: i64 },
  poll: { args: [pointer, u64, i32], returns: i32 },
  close: { args: [i32], returns: i32 },
} as const;

function open() {
  for (const name of ["libc.so.6", "libc.musl-x86_64.so.1", "libc.musl-aarch64.so.1", "libc.so"]) {
    try {
      return dlopen(name, SYMBOLS).symbols;
    } catch {
      // The next name may be this machine's.
    }
  }
  throw new IpcError("FAILED", "no C library found");
}

const libc = open();
/** Bun takes a context and a function that frees; its types do not know. */
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
 * Maps a segment, readable and writable, as long as somebody holds the result. Bun.mmap would go through the path and read-ahead.
 * @throws IpcError
 */
export function map(fd: number, bytes: number): Uint8Array<ArrayBuffer> {
  const READ_WRITE = 3;
  const SHARED = 1;
  const address = libc.mmap(0n, BigInt(bytes), READ_WRITE, SHARED, fd, 0n) as unknown as number;
  if (address === null || address < 0 || address >= Number.MAX_SAFE_INTEGER)
    throw new IpcError("FAILED", `mapping ${bytes} bytes failed`, {
      hint: "the address space may be limited: ulimit -v",
    });
  // munmap has the form that is wanted of a deallocator: it is given the address and, as context, the length.
  const unmap = (libc.munmap as unknown as { readonly ptr: Pointer }).ptr;
  return new Uint8Array(adopt(address, 0, bytes, bytes, unmap));
}

/** Bytes of a memfd that cannot be shrunk; undefined of anything else. */
export function sealedBytes(fd: number): number | undefined {
  const F_GET_SEALS = 1034;
  const F_SEAL_SHRINK = 2;
  const SEEK_END = 2;
  const seals = libc.fcntl(fd, F_GET_SEALS, 0);
  if (seals < 0 || (seals & F_SEAL_SHRINK) === 0) return undefined;
  return Number(libc.lseek(fd, 0, SEEK_END)); // a third of the time of fstatSync
}

/** Two ends of a socket. */
export function createPair(type: number): [number, number] {
  const fds = new Int32Array(2);
  checked(libc.socketpair(AF_UNIX, type | CLOEXEC, 0, ptr(fds)), "socketpair");
  return [fds[0]!, fds[1]!];
}

/** A pipe that nothing is written to: `[ours, theirs]`, theirs ends when ours does, also if this process is killed. */
export function createLife(): [number, number] {
  const fds = new Int32Array(2);
  checked(libc.pipe2(ptr(fds), CLOEXEC | NONBLOCK), "pipe2");
  return [fds[1]!, fds[0]!];
}

const bell = Buffer.from(new ArrayBuffer(1)); // of any content; held, and in a place of its own
const BELL = ptr(bell);
export const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;

/** One byte; where there is no room for it, it is rung already. */
export function ring(fd: number): void {
  libc.send(fd, BELL, 1n, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/** Takes the bells that were rung. False at the end of the connection. */
export function drain(fd: number): boolean {
  return Number(libc.recv(fd, ptr(Buffer.alloc(64)), 64n, MSG_DONTWAIT)) !== 0;
}

export function closeFd(fd: number): void {
  libc.close(fd);
}

/** A blocking connection to a Unix socket; undefined if nobody listens. */
export function connectUnix(path: string): number | undefined {
  const name = Buffer.from(`${path}\0`);
  const address = Buffer.alloc(2 + name.length);
  address.writeUInt16LE(AF_UNIX, 0);
  name.copy(address, 2);
  const fd = checked(libc.socket(AF_UNIX, STREAM | CLOEXEC, 0), "socket");
  if (libc.connect(fd, ptr(address), address.length) === 0) return fd;
  libc.close(fd);
  return undefined;
}

/** Sends bytes with descriptors beside them (`SCM_RIGHTS`). */
export function sendWithFds(socket: number, bytes: Uint8Array, fds: readonly number[], flags = 0): boolean {
  const control = Buffer.alloc(16 + fds.length * 4 + ((fds.length * 4) % 8));
  control.writeBigUInt64LE(BigInt(16 + fds.length * 4), 0);
  control.writeInt32LE(1, 8); // SOL_SOCKET
  control.writeInt32LE(1, 12); // SCM_RIGHTS
  for (const [index, fd] of fds.entries()) control.writeInt32LE(fd, 16 + index * 4);
  const part = Buffer.alloc(16);
  part.writeBigUInt64LE(BigInt(ptr(bytes)), 0);
  part.writeBigUInt64LE(BigInt(bytes.length), 8);
  const message = Buffer.alloc(56);
  message.writeBigUInt64LE(BigInt(ptr(part)), 16);
  message.writeBigUInt64LE(1n, 24);
  if (fds.length > 0) {
    message.writeBigUInt64LE(BigInt(ptr(control)), 32);
    message.writeBigUInt64LE(BigInt(control.length), 40);
  }
  return Number(libc.sendmsg(socket, ptr(message), MSG_NOSIGNAL | flags)) === bytes.length;
}

/** A `struct msghdr` for one packet and one descriptor, made once: the kernel closes descriptors beyond. */
const incoming = (() => {
  // Over buffers of their own: the memory of a small typed array moves once somebody asks for its buffer.
  const [packet, control, part, header] = [8, 24, 16, 56].map((bytes) => Buffer.from(new ArrayBuffer(bytes))) as [
    Buffer,
    Buffer,
    Buffer,
    Buffer,
  ];
  part.writeBigUInt64LE(BigInt(ptr(packet)), 0);
  header.writeBigUInt64LE(BigInt(ptr(part)), 16);
  header.writeBigUInt64LE(1n, 24);
  header.writeBigUInt64LE(BigInt(ptr(control)), 32);
  return { packet, control, part, header, address: ptr(header) };
})();

/** The next packet of at most 8 bytes with its descriptor, if one is there; more than one descriptor, or none, is undefined too. */
export function receiveFd(socket: number, bytes: Uint8Array): number | undefined {
  const MSG_CMSG_CLOEXEC = 0x4000_0000;
  const { packet, control, part, header } = incoming;
  part.writeUInt32LE(bytes.length, 8);
  header.writeUInt32LE(control.length, 40);
  const count = Number(libc.recvmsg(socket, incoming.address, MSG_DONTWAIT | MSG_CMSG_CLOEXEC));
  const hasFd =
    count >= 0 && header.readUInt32LE(40) >= 20 && control.readInt32LE(8) === 1 && control.readInt32LE(12) === 1;
  if (!hasFd) return undefined;
  const fd = control.readInt32LE(16);
  bytes.set(packet.subarray(0, bytes.length));
  if (count === bytes.length) return fd;
  closeFd(fd);
  return undefined;
}

/** Blocks until a descriptor can be read or has ended, at most so long. */
export function waitReadable(fd: number, timeoutMs: number): boolean {
  const poll = Buffer.alloc(8);
  poll.writeInt32LE(fd, 0);
  poll.writeInt16LE(1, 4); // POLLIN
  return libc.poll(ptr(poll), 1n, timeoutMs) > 0;
}

/** Blocks for what comes, at most so long; empty at the end of the connection, undefined at the end of the time. */
export function receive(socket: number, timeoutMs: number): Buffer | undefined {
  if (!waitReadable(socket, timeoutMs)) return undefined;
  const bytes = Buffer.alloc(4096);
  const count = Number(libc.recv(socket, ptr(bytes), BigInt(bytes.length), 0));
  return bytes.subarray(0, Math.max(0, count));
}
