/** The system calls of the data plane, by Bun's FFI. Loaded by programs that call workers, not by the daemon's or the CLI's start. */
import { dlopen, FFIType, ptr } from "bun:ffi";
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
const MFD_CLOEXEC = 1;
const MFD_ALLOW_SEALING = 2;
const F_ADD_SEALS = 1033;
const SEALS = 0x0001 | 0x0002 | 0x0004; // no more seals, no shrinking, no growing
const AF_UNIX = 1;
const SOCK_STREAM_CLOEXEC = 1 | 0o2000000;

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

/** The seals of a memfd; 0 of anything else. */
export function readSeals(fd: number): number {
  const F_GET_SEALS = 1034;
  return Math.max(0, libc.fcntl(fd, F_GET_SEALS, 0));
}

/** Two ends of a stream socket. */
export function createPair(): [number, number] {
  const fds = new Int32Array(2);
  checked(libc.socketpair(AF_UNIX, SOCK_STREAM_CLOEXEC, 0, ptr(fds)), "socketpair");
  return [fds[0]!, fds[1]!];
}

const BELL = ptr(Buffer.from([1]));
const MSG_DONTWAIT = 0x40;
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
  const fd = checked(libc.socket(AF_UNIX, SOCK_STREAM_CLOEXEC, 0), "socket");
  if (libc.connect(fd, ptr(address), address.length) === 0) return fd;
  libc.close(fd);
  return undefined;
}

/** Sends bytes with descriptors beside them (`SCM_RIGHTS`). */
export function sendWithFds(socket: number, bytes: Uint8Array, fds: readonly number[]): boolean {
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
  return Number(libc.sendmsg(socket, ptr(message), MSG_NOSIGNAL)) === bytes.length;
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
