/**
 * Rings between every ordered pair of C, TypeScript and Python, each end a process; and two C threads under
 * ThreadSanitizer.
 */
import { dlopen, ptr } from "bun:ffi";
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SharedRingBuffer } from "ipcctl";
import { ROOT } from "../home.ts";
import { skipUnless } from "../needs.ts";
import { seed } from "../seed.ts";

const FRAMES = 1500;
const folder = mkdtempSync(join(tmpdir(), "ipcctl-rings-"));
const binary = join(folder, "ring-peer");
const PEERS = join(import.meta.dir, "peers");

function compile(out: string, ...flags: string[]): string {
  const sources = ["native/fuzz/ring_peer.c", "native/ring/ring.c"].map((path) => join(ROOT, path));
  const { exitCode, stderr } = Bun.spawnSync([
    "cc",
    "-std=c11",
    "-D_GNU_SOURCE",
    "-pthread",
    ...flags,
    "-o",
    out,
    ...sources,
  ]);
  return exitCode === 0 ? "" : stderr.toString();
}

beforeAll(() => {
  expect(compile(binary, "-O2", "-Wall", "-Wextra", "-Werror")).toBe("");
});
afterAll(() => rmSync(folder, { recursive: true }));

const LANGUAGES: Record<string, (path: string, role: string) => { command: string[]; env?: Record<string, string> }> = {
  C: (path, role) => ({ command: [binary, path, role] }),
  TypeScript: (path, role) => ({
    command: [process.execPath, "--no-env-file", join(PEERS, "ring_peer.ts"), path, role],
  }),
  Python: (path, role) => ({ command: ["python3", join(PEERS, "ring_peer.py"), join(ROOT, "python"), path, role] }),
  "pure Python": (path, role) => ({
    command: ["python3", join(PEERS, "ring_peer.py"), join(ROOT, "python"), path, role],
    env: { IPCCTL_PURE: "1" },
  }),
};
const pairs = Object.keys(LANGUAGES).flatMap((from) => Object.keys(LANGUAGES).map((to) => [from, to] as const));

test.each(pairs)(
  "%s to %s",
  async (from, to) => {
    const memory = memfd(256 + 4096);
    const end = async (language: string, role: string): Promise<string> => {
      const { command, env = {} } = LANGUAGES[language]!(memory, role);
      const child = Bun.spawn([...command, `${seed}`, `${FRAMES}`], {
        env: { ...process.env, ...env },
        stdio: ["ignore", "pipe", "pipe"],
      });
      const [stdout, stderr] = await Promise.all([
        new Response(child.stdout).text(),
        new Response(child.stderr).text(),
      ]);
      expect(stderr).toBe("");
      return stdout.trim();
    };
    const [sent, received] = await Promise.all([end(from, "produce"), end(to, "consume")]);
    expect(sent).toMatch(/^\d+$/);
    expect(received).toBe(sent);
  },
  60_000,
);

test("two C threads under ThreadSanitizer", () => {
  const tsan = join(folder, "ring-peer-tsan");
  const error = compile(tsan, "-g", "-O1", "-fsanitize=thread");
  if (skipUnless(error === "", "ThreadSanitizer", "two threads under ThreadSanitizer")) return;
  // Its shadow memory needs the addresses that randomisation may take.
  const run = Bun.spawnSync(["setarch", "-R", tsan, "threads", `${seed}`, "20000"]);
  expect(run.stderr.toString()).toBe("");
  expect(run.exitCode).toBe(0);
}, 60_000);

test("the same face with the same refusals as in Python and C", () => {
  const memory = new Uint8Array(256 + 4096);
  const make = (control: number, data: number, capacity: number, position = 0): (() => SharedRingBuffer) => {
    return () => new SharedRingBuffer(memory, control, data, capacity, true, position);
  };
  expect(make(0, 256, 2048)).toThrow("capacity must be a power of two");
  expect(make(0, 256, 4097)).toThrow("capacity must be a power of two");
  expect(make(8, 256, 4096)).toThrow("multiple of 64");
  expect(make(0, 257, 4096)).toThrow("of 8");
  expect(make(0, 264, 4096)).toThrow("ends beyond");
  expect(make(64, 128, 4096)).toThrow("overlaps");
  expect(make(0, 256, 4096, 4)).toThrow("position");
  const start = 2 ** 32 - 64; // positions wrap around
  new Uint32Array(memory.buffer)[0] = start;
  new Uint32Array(memory.buffer)[16] = start;
  const producer = make(0, 256, 4096, start)();
  const consumer = new SharedRingBuffer(memory, 0, 256, 4096, false, start);
  expect(() => producer.trySend(new Uint8Array(4093))).toThrow("does not fit");
  for (let turn = 0; turn < 3; turn++) {
    expect(producer.trySend(new Uint8Array(4092).fill(turn))).toBe(true);
    expect(producer.trySend(new Uint8Array(0))).toBe(false);
    expect(consumer.needsBell()).toBe(true); // the producer waits for room
    expect(consumer.hasData).toBe(true);
    expect(consumer.tryReceive()).toEqual(new Uint8Array(4092).fill(turn));
    expect(consumer.receiveSpin(10)).toBeUndefined();
    expect(consumer.prepareSleep()).toBe(true);
    expect(producer.trySend(new Uint8Array(1))).toBe(true);
    expect(producer.needsBell()).toBe(true);
    expect(producer.needsBell()).toBe(false);
    expect(consumer.prepareSleep()).toBe(false);
    expect(consumer.tryReceive()?.length).toBe(1);
  }
  expect(consumer.capacity).toBe(4096);
});

/** Memory that others open by a path as long as this process lives. */
function memfd(bytes: number): string {
  const libc = dlopen("libc.so.6", {
    memfd_create: { args: ["ptr", "u32"], returns: "i32" },
    ftruncate: { args: ["i32", "i64"], returns: "i32" },
  }).symbols;
  const fd = libc.memfd_create(ptr(Buffer.from("rings\0")), 1);
  expect(libc.ftruncate(fd, BigInt(bytes))).toBe(0);
  return `/proc/${process.pid}/fd/${fd}`;
}
