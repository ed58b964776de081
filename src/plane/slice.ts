/**
 * How soon a program runs that has just been woken, where others want its core too. Router and plugins do a little for
 * whoever waits for them, and sleep again; by the usual slice of some milliseconds they wait that long for the end of
 * another program's. A shorter one gives them nothing more of the machine, only sooner.
 */
import { dlopen, FFIType, ptr } from "bun:ffi";

/** The shortest that the kernel takes. */
const SLICE_NS = 100_000n;
const ATTR_BYTES = 48;
/** In `struct sched_attr`; of programs without a deadline it is the slice, from Linux 6.12 on. */
const RUNTIME_AT = 24;
/** Of x64 and of arm64. */
const [GET, SET] = process.arch === "arm64" ? [275, 274] : [315, 314];

/** Only advice: an older kernel ignores it. @param pid its main thread */
export function shortenSlice(pid: number): void {
  libc ??= open();
  if (libc === undefined) return;
  const attr = Buffer.alloc(ATTR_BYTES);
  const at = ptr(attr);
  if (libc.symbols.syscall(GET, pid, at, ATTR_BYTES, 0) < 0) return; // it has ended
  attr.writeBigUInt64LE(SLICE_NS, RUNTIME_AT);
  libc.symbols.syscall(SET, pid, at, 0, 0);
}

const { i64, i32, u32, ptr: pointer } = FFIType;
const SYMBOLS = { syscall: { args: [i64, i32, pointer, u32, u32], returns: i32 } } as const;

let libc: ReturnType<typeof open>;

function open() {
  for (const name of ["libc.so.6", "libc.musl-x86_64.so.1", "libc.musl-aarch64.so.1", "libc.so"]) {
    try {
      return dlopen(name, SYMBOLS);
    } catch {
      // Try the next name.
    }
  }
  return undefined;
}
