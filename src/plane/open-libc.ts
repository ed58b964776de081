/** The C library of this machine, by Bun's FFI. */
import { dlopen, type FFIFunction, type Library } from "bun:ffi";

/** Undefined if it cannot be loaded. */
export function openLibc<Symbols extends Record<string, FFIFunction>>(
  symbols: Symbols,
): Library<Symbols>["symbols"] | undefined {
  for (const name of ["libc.so.6", "libc.musl-x86_64.so.1", "libc.musl-aarch64.so.1", "libc.so"]) {
    try {
      return dlopen(name, symbols).symbols;
    } catch {
      // Try the next name.
    }
  }
  return undefined;
}
