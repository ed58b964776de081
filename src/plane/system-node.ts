/** The system calls of the data plane on Node, through a small addon; system.ts has the same interface. */
import { fstatSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { EDITION } from "../../contract/edition.ts";
import { IpcError } from "../base/errors.ts";
import { PARTS, remedyFor } from "../base/install.ts";
import type { Packet } from "./system.ts";

/** Results below 0 are -errno. */
type Addon = {
  readonly edition?: string;
  readonly createSegment: (bytes: number) => number;
  readonly map: (fd: number, bytes: number) => ArrayBuffer | number;
  readonly empty: (mapped: Uint8Array) => number;
  readonly getSeals: (fd: number) => number;
  readonly createPair: (type: number, fds: Int32Array) => number;
  readonly createPipe: (fds: Int32Array) => number;
  readonly send: (fd: number, bytes: Uint8Array, flags: number) => number;
  readonly receive: (fd: number, bytes: Uint8Array, flags: number) => number;
  readonly sendFds: (fd: number, bytes: Uint8Array, fds: Int32Array, flags: number) => number;
  readonly receivePacket: (fd: number, bytes: Uint8Array, fds: Int32Array) => number;
  readonly waitReadable: (fd: number, timeoutMs: number) => number;
  readonly connectUnix: (path: string, type: number) => number;
  readonly close: (fd: number) => number;
  readonly closeOnExec: (fd: number) => number;
  readonly core: () => number;
  readonly leaveCore: () => number;
  readonly limitData: (bytes: number) => number;
  readonly takeInterrupts: (signal: number) => number;
};

const ADDON = join(PARTS, "plane.node");

function load(): Addon {
  const hint = remedyFor("build-node.sh");
  let found: Addon;
  try {
    found = createRequire(import.meta.url)(ADDON) as Addon;
  } catch (error) {
    throw new IpcError("FAILED", `${ADDON} cannot be loaded: ${(error as Error).message}`, { hint });
  }
  if (found.edition === EDITION) return found;
  throw new IpcError("FAILED", `${ADDON} is of another version of ipcctl than the code that loads it`, { hint });
}

let loaded: Addon | undefined;

/** Loaded on first use: a program may import us on a machine where this cannot load, and is told when it connects. */
function addon(): Addon {
  return (loaded ??= load());
}

export function requireSystem(): void {
  addon();
}

export const STREAM = 1;
export const SEQPACKET = 5;
export const MSG_DONTWAIT = 0x40;
const F_SEAL_SHRINK = 2;
const BELL = Uint8Array.of(1);
const bells = new Uint8Array(64);

function checked(result: number, what: string): number {
  if (result >= 0) return result;
  throw new IpcError("FAILED", `${what} failed (errno ${-result})`, { hint: "see: ipcctl doctor" });
}

export function createSegment(bytes: number): number {
  return checked(addon().createSegment(bytes), "memfd_create");
}

export function map(fd: number, bytes: number): Uint8Array<ArrayBuffer> {
  const buffer = addon().map(fd, bytes);
  if (typeof buffer !== "number") return new Uint8Array(buffer);
  throw new IpcError("FAILED", `${bytes} bytes of shared memory cannot be mapped (errno ${-buffer})`, {
    hint: "share it in several parts; the address space may be limited: ulimit -v",
  });
}

export function empty(mapped: Uint8Array): void {
  addon().empty(mapped);
}

export function sealedBytes(fd: number): number | undefined {
  const seals = addon().getSeals(fd);
  return seals < 0 || (seals & F_SEAL_SHRINK) === 0 ? undefined : fstatSync(fd).size;
}

export function createPair(type: number): [number, number] {
  const fds = new Int32Array(2);
  checked(addon().createPair(type, fds), "socketpair");
  return [fds[0]!, fds[1]!];
}

export function createLife(): [number, number] {
  const fds = new Int32Array(2);
  checked(addon().createPipe(fds), "pipe2");
  return [fds[1]!, fds[0]!];
}

export function ring(fd: number): void {
  addon().send(fd, BELL, MSG_DONTWAIT);
}

export function drain(fd: number): boolean {
  return addon().receive(fd, bells, MSG_DONTWAIT) !== 0;
}

export function closeOnExec(fd: number): void {
  addon().closeOnExec(fd);
}

export function closeFd(fd: number): void {
  addon().close(fd);
}

export function connectUnix(path: string, type = STREAM): number | undefined {
  const fd = addon().connectUnix(path, type);
  return fd < 0 ? undefined : fd;
}

export function sendWithFds(socket: number, bytes: Uint8Array, fds: readonly number[], flags = 0): boolean {
  return addon().sendFds(socket, bytes, Int32Array.from(fds), flags) === bytes.length;
}

const PACKET_BYTES_MAX = 128;

export function receivePacket(socket: number, count: number): Packet | "bad" | undefined {
  const [bytes, fds] = [Buffer.alloc(PACKET_BYTES_MAX), new Int32Array(count)];
  const size = addon().receivePacket(socket, bytes, fds);
  if (size === 0) return undefined;
  return size < 0 ? "bad" : { bytes: bytes.subarray(0, size), fds: [...fds] };
}

export function receiveFd(socket: number, bytes: Uint8Array): number | undefined {
  const packet = receivePacket(socket, 1);
  if (packet === undefined || packet === "bad") return undefined;
  const [fd] = packet.fds;
  bytes.set(packet.bytes.subarray(0, bytes.length));
  if (packet.bytes.length === bytes.length) return fd;
  closeFd(fd!);
  return undefined;
}

export function waitReadable(fd: number, timeoutMs: number): boolean {
  return addon().waitReadable(fd, timeoutMs) > 0;
}

export function receive(socket: number, timeoutMs: number): Buffer | undefined {
  if (!waitReadable(socket, timeoutMs)) return undefined;
  const bytes = Buffer.alloc(4096);
  return bytes.subarray(0, Math.max(0, addon().receive(socket, bytes, 0)));
}

export function readText(path: string): string {
  return readFileSync(path, "latin1");
}

export function core(): number {
  return addon().core();
}

export function leaveCore(): boolean {
  return addon().leaveCore() === 1;
}

export function limitData(bytes: number): boolean {
  return addon().limitData(bytes) === 0;
}

/** From now on this signal ends a script that SIGINT ends, and is nothing at any other time. */
export function takeInterrupts(signal: number): void {
  checked(addon().takeInterrupts(signal), "sigaction");
}
