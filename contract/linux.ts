/**
 * Numbers of Linux that stand in a start specification. C and Python have them from their own headers; a test holds
 * these to those of Python.
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
