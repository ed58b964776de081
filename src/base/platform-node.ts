/** What the SDK takes from Node 22 or newer; see platform.ts. */
import async_hooks from "node:async_hooks";
import { spawn } from "node:child_process";
import fs from "node:fs";
import { createConnection, Socket } from "node:net";
import os from "node:os";
import path, { join } from "node:path";
import { IpcError } from "./errors.ts";
import { ROOT } from "./install.ts";
import type { DetachedChild, StreamEvents, StreamSocket } from "./platform.ts";

const NODE_MIN = 22;
/** Loading them costs nothing here. */
const MODULES = { "node:async_hooks": async_hooks, "node:fs": fs, "node:os": os, "node:path": path };

export function late<Name extends keyof typeof MODULES>(name: Name): (typeof MODULES)[Name] {
  return MODULES[name];
}

export function requirePlatform(): void {
  if (process.platform !== "linux") throw new IpcError("FAILED", `ipcctl runs on Linux; this is ${process.platform}`);
  const { node } = process.versions;
  if (Number(node.split(".")[0]) < NODE_MIN)
    throw new IpcError("FAILED", `ipcctl needs Node ${NODE_MIN} or newer, or Bun; this is Node ${node}`);
}

export function openStream(to: { unix: string } | { fd: number }, on: StreamEvents): Promise<StreamSocket> {
  const { promise, resolve, reject } = Promise.withResolvers<StreamSocket>();
  const socket = "fd" in to ? new Socket({ fd: to.fd, readable: true, writable: false }) : createConnection(to.unix);
  const open: StreamSocket = {
    write: (bytes) => {
      socket.write(bytes); // Node buffers what does not fit
      return bytes.length;
    },
    end: () => void socket.end(),
    shutdown: () => void socket.end(),
    terminate: () => void socket.destroy(),
    ref: () => void socket.ref(),
    unref: () => void socket.unref(),
  };
  let isOpen = "fd" in to;
  socket.on("data", (bytes: Buffer) => on.data(bytes)); // no encoding was set
  socket.on("error", (error) => (isOpen ? on.error?.(error) : reject(error)));
  socket.on("close", () => isOpen && on.close());
  socket.on("connect", () => {
    isOpen = true;
    resolve(open);
  });
  if ("fd" in to) resolve(open);
  return promise;
}

export function spawnDetached(command: string[], env: Record<string, string>, output: number): DetachedChild {
  const [program, ...args] = command as [string, ...string[]];
  const child = spawn(program, args, { cwd: "/", env, detached: true, stdio: ["ignore", output, output] });
  child.unref();
  return child;
}

/** The launcher finds Bun and the entry by itself. */
export function bunCommand(_entry: string): string[] {
  return [join(ROOT, "bin/ipcctl")];
}
