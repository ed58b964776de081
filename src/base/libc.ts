/**
 * The few system calls that Bun does not offer, by its FFI. Only the daemon loads it, so a command does not pay for it.
 */
import { ERRNO } from "../../contract/linux.ts";
import { dlopen, FFIType, ptr, read } from "bun:ffi";
import { readFileSync } from "node:fs";
import { IpcError } from "./errors.ts";

const SYMBOLS = {
  flock: { args: [FFIType.i32, FFIType.i32], returns: FFIType.i32 },
  getsockopt: { args: [FFIType.i32, FFIType.i32, FFIType.i32, FFIType.ptr, FFIType.ptr], returns: FFIType.i32 },
  socket: { args: [FFIType.i32, FFIType.i32, FFIType.i32], returns: FFIType.i32 },
  sendto: {
    args: [FFIType.i32, FFIType.ptr, FFIType.u64, FFIType.i32, FFIType.ptr, FFIType.u32],
    returns: FFIType.i64,
  },
  connect: { args: [FFIType.i32, FFIType.ptr, FFIType.u32], returns: FFIType.i32 },
  waitpid: { args: [FFIType.i32, FFIType.ptr, FFIType.i32], returns: FFIType.i32 },
  close: { args: [FFIType.i32], returns: FFIType.i32 },
  signal: { args: [FFIType.i32, FFIType.u64], returns: FFIType.u64 },
  prctl: { args: [FFIType.i32, FFIType.u64, FFIType.u64, FFIType.u64, FFIType.u64], returns: FFIType.i32 },
  syscall: {
    args: [FFIType.i64, FFIType.i64, FFIType.i64, FFIType.i64],
    returns: FFIType.i64,
  },
  __errno_location: { args: [], returns: FFIType.ptr },
} as const;

/** glibc first, then musl under its names. */
const LIBRARIES = ["libc.so.6", "libc.musl-x86_64.so.1", "libc.musl-aarch64.so.1", "libc.so"];

function open() {
  for (const name of LIBRARIES) {
    try {
      return dlopen(name, SYMBOLS).symbols;
    } catch {
      // Try the next name.
    }
  }
  const limit = addressSpaceLimit();
  throw limit === undefined
    ? new IpcError("FAILED", `the C library cannot be loaded: there is none of ${LIBRARIES.join(", ")}`)
    : new IpcError(
        "FAILED",
        `the limit on address space (ulimit -v ${limit}) leaves Bun too little: it reserves far more than it uses`,
        {
          hint: "start it where ulimit -v says unlimited; --max-memory limits a worker",
        },
      );
}

/** In KiB, as a shell shows it; undefined if unlimited. */
function addressSpaceLimit(): number | undefined {
  const [, bytes] = /^Max address space\s+(\d+)/m.exec(readFileSync("/proc/self/limits", "utf8")) ?? [];
  return bytes === undefined ? undefined : Number(bytes) / 1024;
}

let opened: ReturnType<typeof open> | undefined;

/** Opened on first use, so that a program that imports this file can still report what is wrong. */
const libc = (): ReturnType<typeof open> => (opened ??= open());

const LOCK_EX = 2;
const LOCK_NB = 4;
const LOCK_UN = 8;
const EWOULDBLOCK = ERRNO.EAGAIN;

/** Takes an exclusive flock without waiting. `false` if somebody else holds it. */
export function tryLock(fd: number): boolean {
  if (libc().flock(fd, LOCK_EX | LOCK_NB) === 0) return true;
  const errno = lastErrno();
  if (errno === EWOULDBLOCK) return false;
  throw new IpcError("FAILED", `flock failed with errno ${errno}`);
}

export function unlock(fd: number): void {
  libc().flock(fd, LOCK_UN);
}

export type PeerCredentials = { readonly pid: number; readonly uid: number; readonly gid: number };

/** The peer credentials of a Unix socket (`SO_PEERCRED`); `undefined` if the peer is gone. */
export function peerCredentials(fd: number): PeerCredentials | undefined {
  const SOL_SOCKET = 1;
  const SO_PEERCRED = 17;
  const credentials = new Int32Array(3);
  const size = new Uint32Array([credentials.byteLength]);
  if (libc().getsockopt(fd, SOL_SOCKET, SO_PEERCRED, ptr(credentials), ptr(size)) !== 0) return undefined;
  return { pid: credentials[0]!, uid: credentials[1]! >>> 0, gid: credentials[2]! >>> 0 };
}

const AF_UNIX = 1;

/** `@` begins a name in the abstract namespace. */
function unixAddress(path: string): Buffer {
  const name = Buffer.from(path.startsWith("@") ? `\0${path.slice(1)}` : path);
  const address = Buffer.alloc(2 + name.length + (path.startsWith("@") ? 0 : 1));
  address.writeUInt16LE(AF_UNIX, 0);
  name.copy(address, 2);
  return address;
}

/** Whether a process listens on the stream socket at this path, of at most 107 bytes. */
export function isListening(path: string): boolean {
  const SOCK_STREAM_NONBLOCK_CLOEXEC = 1 | 0o4000 | 0o2000000;
  const address = unixAddress(path);
  const fd = libc().socket(AF_UNIX, SOCK_STREAM_NONBLOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  // Its backlog is full.
  const isTaken = libc().connect(fd, ptr(address), address.length) === 0 || lastErrno() === EWOULDBLOCK;
  libc().close(fd);
  return isTaken;
}

/**
 * Sends one datagram to a Unix socket; `@` begins a name in the abstract namespace. Returns false if it was not
 * accepted.
 * @param mayWait for room in the queue of a receiver that is slow
 */
export function sendDatagram(path: string, text: string, mayWait = true): boolean {
  const SOCK_DGRAM_CLOEXEC = 2 | 0o2000000;
  const MSG_NOSIGNAL = 0x4000;
  const MSG_DONTWAIT = 0x40;
  const flags = mayWait ? MSG_NOSIGNAL : MSG_NOSIGNAL | MSG_DONTWAIT;
  const address = unixAddress(path);
  const fd = libc().socket(AF_UNIX, SOCK_DGRAM_CLOEXEC, 0);
  if (fd < 0) return false;
  const bytes = Buffer.from(text);
  const sent = Number(libc().sendto(fd, ptr(bytes), BigInt(bytes.length), flags, ptr(address), address.length));
  libc().close(fd);
  return sent === bytes.length;
}

/** With an inherited SIGCHLD = SIG_IGN every exit status would be lost: waiting for a child would fail with ECHILD. */
export function restoreChildSignal(): void {
  const SIGCHLD = 17;
  libc().signal(SIGCHLD, 0n);
}

/** Reaps a child that nothing else waits for. */
export function reap(pid: number): void {
  const WNOHANG = 1;
  libc().waitpid(pid, null, WNOHANG);
}

/** The name that `ps` and `top` show; Bun's `process.title` does nothing. At most 15 bytes. */
export function setProcessName(name: string): void {
  const PR_SET_NAME = 15;
  const bytes = Buffer.from(`${name}\0`);
  libc().prctl(PR_SET_NAME, BigInt(ptr(bytes)), 0n, 0n, 0n);
}

function lastErrno(): number {
  return read.i32(libc().__errno_location()!, 0);
}

/** The Landlock ABI; 0 if the kernel has no Landlock or it is switched off. */
export function landlockAbi(): number {
  const LANDLOCK_CREATE_RULESET = 444;
  const VERSION = 1;
  return Math.max(0, Number(libc().syscall(LANDLOCK_CREATE_RULESET, 0, 0, VERSION)));
}
