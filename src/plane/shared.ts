/** Memory of a worker, mapped instead of copied. */
import { closeSync, constants, fstatSync, openSync, readlinkSync } from "node:fs";
import { NdArray, TYPED_ARRAYS, type TypedArray } from "./codec-error.ts";
import { BrokenChannel } from "./ring.ts";
import { readSeals } from "./system.ts";

const F_SEAL_SHRINK = 0x0002;
const PAGE_BYTES = 65_536; // the largest page of the kernels that we run on

/** What the worker says of it; every number is checked against the memfd itself. */
export type SharedForm = { readonly lease: number; readonly value: TypedArray | NdArray };

/**
 * @param pid the worker's process, as the daemon knows it: only its own descriptors are looked at
 * @throws BrokenChannel if it is no sealed memfd, or not as large as is said
 */
export function mapShared(pid: number, form: unknown): SharedForm {
  const [lease, descriptor, offset, bytes, tag, shape] = Array.isArray(form) ? (form as unknown[]) : [];
  const numbers = [lease, descriptor, offset, bytes];
  const type = TYPED_ARRAYS.get(tag as number);
  if (!numbers.every((one) => Number.isSafeInteger(one) && (one as number) >= 0) || !type || !isShape(shape))
    throw new BrokenChannel("shared memory that is described wrongly");
  const [at, size] = [offset as number, bytes as number];
  const path = `/proc/${pid}/fd/${descriptor as number}`;
  if (!readlink(path).startsWith("/memfd:")) throw new BrokenChannel("shared memory that is no memfd");
  const fd = openSync(path, constants.O_RDWR);
  try {
    if ((readSeals(fd) & F_SEAL_SHRINK) === 0)
      throw new BrokenChannel("shared memory that could be taken away: it is not sealed");
    const count = size / type.BYTES_PER_ELEMENT;
    if (at + size > fstatSync(fd).size || shape.reduce((product, one) => product * one, 1) !== count)
      throw new BrokenChannel("shared memory that is smaller than is said");
    const start = Math.floor(at / PAGE_BYTES) * PAGE_BYTES;
    const mapped = Bun.mmap(`/proc/self/fd/${fd}`, { shared: true, offset: start, size: at - start + size });
    const View = type as unknown as new (buffer: ArrayBufferLike, byteOffset: number, length: number) => TypedArray;
    const begin = mapped.byteOffset + at - start;
    if (begin % type.BYTES_PER_ELEMENT !== 0) throw new BrokenChannel("shared memory that is not aligned");
    const data = new View(mapped.buffer, begin, count);
    return { lease: lease as number, value: shape.length === 1 ? data : new NdArray(shape, data) };
  } finally {
    closeSync(fd);
  }
}

function isShape(shape: unknown): shape is number[] {
  return Array.isArray(shape) && shape.length > 0 && shape.every((one) => Number.isSafeInteger(one) && one >= 0);
}

function readlink(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    throw new BrokenChannel("shared memory that is not there");
  }
}
