/**
 * Numbers of Linux that TypeScript needs and the runtime does not know on every platform it is built for. C and Python
 * have them from their own headers; a test holds these to those.
 */

/** Resource limits, as `setrlimit` of x86-64 and arm64 numbers them. */
export const RLIMIT = {
  cpu: 0,
  fileSize: 1,
  data: 2,
  stack: 3,
  core: 4,
  threads: 6,
  openFiles: 7,
  locked: 8,
  space: 9,
  signals: 11,
  queues: 12,
} as const;

/** What ends a worker unless its definition says otherwise. */
export const SIGTERM = 15;

/** Bits of clone(2) and unshare(2). */
export const CLONE = {
  VM: 0x0000_0100,
  NEWTIME: 0x0000_0080,
  PARENT: 0x0000_8000,
  THREAD: 0x0001_0000,
  NEWNS: 0x0002_0000,
  NEWCGROUP: 0x0200_0000,
  NEWUTS: 0x0400_0000,
  NEWIPC: 0x0800_0000,
  NEWUSER: 0x1000_0000,
  NEWPID: 0x2000_0000,
  NEWNET: 0x4000_0000,
} as const;

/** What a failed call gives, as x86-64 and arm64 number it. */
export const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  ESRCH: 3,
  E2BIG: 7,
  ENOEXEC: 8,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  ENOTDIR: 20,
  EINVAL: 22,
  EMFILE: 24,
  ETXTBSY: 26,
  EROFS: 30,
  EPIPE: 32,
  ENOSYS: 38,
  ECONNRESET: 104,
  ENOTCONN: 107,
  ETIMEDOUT: 110,
} as const;
