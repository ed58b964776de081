/** What the SDK takes from Bun. platform-node.ts is its twin for Node; the bundle for Node has that one instead. */
import { join } from "node:path";
import { IpcError } from "./errors.ts";
import { ROOT } from "./install.ts";

export type StreamSocket = {
  /** Returns how many bytes were accepted. */
  readonly write: (bytes: Uint8Array) => number;
  readonly end: () => void;
  /** Ends our half; the other side's end closes it. */
  readonly shutdown: () => void;
  readonly terminate: () => void;
  readonly ref: () => void;
  readonly unref: () => void;
};

export type StreamEvents = {
  readonly data: (bytes: Uint8Array) => void;
  readonly close: () => void;
  readonly error?: (error: Error) => void;
  /** The rest can be written now. */
  readonly drain?: () => void;
};

type Late = {
  readonly "node:async_hooks": typeof import("node:async_hooks");
  readonly "node:fs": typeof import("node:fs");
  readonly "node:os": typeof import("node:os");
  readonly "node:path": typeof import("node:path");
};

/**
 * A module of the runtime, loaded by whoever asks first: engines start often, rarely need it, and would wait for it
 * longer than for all that is ours.
 */
export function late<Name extends keyof Late>(name: Name): Late[Name] {
  return process.getBuiltinModule(name);
}

/** @throws IpcError FAILED if nothing of ipcctl can run; a program that only imports it is not told */
export function requirePlatform(): void {
  if (process.platform !== "linux") throw new IpcError("FAILED", `ipcctl runs on Linux; this is ${process.platform}`);
  if (!isBunEnough())
    throw new IpcError(
      "FAILED",
      `ipcctl needs ${BUN_NEEDED}, or Node 22 or newer; this is Bun ${process.versions.bun}`,
    );
}

export const BUN_NEEDED = "Bun from 1.4.5 to below 2";

export function isBunEnough(): boolean {
  const [major, minor, patch] = process.versions.bun.split(".", 3).map((number) => Number.parseInt(number, 10)) as [
    number,
    number,
    number,
  ];
  return major === 1 && (minor > 4 || (minor === 4 && patch >= 5));
}

/** Connects to a Unix socket, or takes a connected one. Rejects with an error that has a `code`. */
export async function openStream(to: { unix: string } | { fd: number }, on: StreamEvents): Promise<StreamSocket> {
  const socket = {
    data: (_: unknown, bytes: Uint8Array) => on.data(bytes),
    close: () => on.close(),
    error: (_: unknown, error: Error) => on.error?.(error),
    drain: () => on.drain?.(),
  };
  // Bun accepts `fd`, but its types do not know it.
  return Bun.connect({ ...to, socket } as unknown as Bun.UnixSocketOptions);
}

export type DetachedChild = { readonly exitCode: number | null; readonly signalCode: string | number | null };

/** A process that outlives this one, with its output to a descriptor. */
export function spawnDetached(command: string[], env: Record<string, string>, output: number): DetachedChild {
  const child = Bun.spawn(command, { cwd: "/", env, detached: true, stdio: ["ignore", output, output] });
  child.unref();
  return child;
}

/** Flags that keep Bun from reading anything in the working directory. */
export const CLEAN_BUN: readonly string[] = ["--no-env-file", "--config=/dev/null", "--tsconfig-override=/dev/null"];

/**
 * The command that runs one of our files on Bun. The Bun inside a compiled program runs only that program, over and
 * over.
 */
export function bunCommand(entry: string): string[] {
  if (Bun.main.startsWith("/$bunfs/")) return [join(ROOT, "bin/ipcctl")];
  return [process.execPath, ...CLEAN_BUN, entry];
}
