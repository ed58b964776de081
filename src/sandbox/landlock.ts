/**
 * Rights of Landlock, by the ABI of the kernel that knows them (https://docs.kernel.org/userspace-api/landlock.html).
 */

/** Rights on files and folders: bit, and the ABI that introduced it. */
const FILE_RIGHTS = {
  execute: [0n, 1],
  writeFile: [1n, 1],
  readFile: [2n, 1],
  readDir: [3n, 1],
  removeDir: [4n, 1],
  removeFile: [5n, 1],
  makeChar: [6n, 1],
  makeDir: [7n, 1],
  makeReg: [8n, 1],
  makeSock: [9n, 1],
  makeFifo: [10n, 1],
  makeBlock: [11n, 1],
  makeSym: [12n, 1],
  refer: [13n, 2],
  truncate: [14n, 3],
  ioctlDev: [15n, 5],
} as const;

type FileRight = keyof typeof FILE_RIGHTS;

const CHANGING: readonly FileRight[] = [
  "writeFile",
  "removeDir",
  "removeFile",
  "makeChar",
  "makeDir",
  "makeReg",
  "makeSock",
  "makeFifo",
  "makeBlock",
  "makeSym",
  "refer",
  "truncate",
  "ioctlDev",
];

/**
 * An older ABI cannot deny truncation, so a worker could empty a file that it may only read: writing cannot be denied.
 */
export const ABI_OF_WRITING = 3;
export const ABI_OF_TCP = 4;
export const ABI_OF_SCOPES = 6;

function bits(rights: readonly FileRight[], abi: number): bigint {
  return rights
    .filter((right) => FILE_RIGHTS[right][1] <= abi)
    .reduce((sum, right) => sum | (1n << FILE_RIGHTS[right][0]), 0n);
}

/** Reading files and folders. */
export function readingRights(abi: number): bigint {
  return bits(["readFile", "readDir"], abi);
}

/** Executing programs. */
export function executionRights(abi: number): bigint {
  return bits(["execute"], abi);
}

/** Everything that changes a file or folder. */
export function changingRights(abi: number): bigint {
  return bits(CHANGING, abi);
}

/** Writing to existing files, for example /dev/null. */
export function writingRights(abi: number): bigint {
  return bits(["writeFile", "truncate", "ioctlDev"], abi);
}

/**
 * A right that no program needs: the domain is created for its side effect, which is that processes outside cannot be
 * traced.
 */
export function tokenRight(): bigint {
  return bits(["makeBlock"], 1);
}

export const TCP_BIND = 1n;
export const TCP_CONNECT = 2n;
export const SCOPE_ABSTRACT_SOCKETS = 1n;
export const SCOPE_SIGNALS = 2n;
