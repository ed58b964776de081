/** Garbage on the shim's own socket: it may close the connection, and the worker does not notice. */
import { expect, test } from "bun:test";
import { createConnection } from "node:net";
import { join } from "node:path";
import { reachablePath } from "../../src/base/socket-path.ts";
import { Home, waitUntil } from "../home.ts";

/** Sends bytes and gives what came back until the shim closed, or until it has answered `expected` bytes. */
function talk(path: string, bytes: Uint8Array, expected = Number.POSITIVE_INFINITY): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(path);
    const got: Buffer[] = [];
    const finish = (): void => {
      socket.destroy();
      resolve(Buffer.concat(got));
    };
    socket.on("data", (data: Buffer) => {
      got.push(data);
      if (Buffer.concat(got).length >= expected) finish();
    });
    socket.on("close", finish);
    socket.on("error", (error) => ((error as { code?: string }).code === "ECONNRESET" ? finish() : reject(error)));
    socket.write(bytes);
  });
}

function frame(type: number, payload: Uint8Array = new Uint8Array(0)): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32LE(payload.length + 1, 0);
  head.writeUInt8(type, 4);
  return Buffer.concat([head, payload]);
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

/** Type and payload of each frame. */
function framesOf(bytes: Buffer): { type: number; payload: Buffer }[] {
  if (bytes.length < 5) return [];
  const end = 4 + bytes.readUInt32LE(0);
  return [{ type: bytes.readUInt8(4), payload: bytes.subarray(5, end) }, ...framesOf(bytes.subarray(end))];
}

test("a shim closes on garbage, keeps room for the daemon, and keeps its worker", async () => {
  await using home = new Home();
  await home.start("steady", home.script("steady.py", "import time\nprint('up', flush=True)\ntime.sleep(600)\n"));
  await waitUntil(async () => (await home.lines("steady"))[0] === "up", "it is up");
  const before = await home.status("steady");
  const socket = reachablePath(join(before.log_dir, "..", "sock"));
  let seed = 1;
  const random = (): number => (seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0) % 256;
  const hostile = [
    Buffer.from([0, 0, 0, 0, 1]), // a length of nothing
    Buffer.from([0xff, 0xff, 0xff, 0xff, 1]), // four gibibytes
    Buffer.concat([Buffer.from([0x00, 0x10, 0x00, 0x00, 1]), Buffer.alloc(70_000, 1)]), // longer than it may be
    ...Array.from({ length: 50 }, () => Buffer.from(Array.from({ length: 4096 }, random))),
  ];
  for (const bytes of hostile) expect((await talk(socket.path, bytes)).length).toBe(0);
  expect((await talk(socket.path, frame(99))).length).toBe(0); // no such request
  expect((await talk(socket.path, frame(32, u32(1)), 6)).length).toBeGreaterThan(5); // HELLO: its state
  const half = Array.from({ length: 20 }, () => {
    const one = createConnection(socket.path);
    one.on("error", () => undefined);
    one.write(Buffer.from([9, 0])); // and never the rest
    return one;
  });
  expect((await home.status("steady")).pid).toBe(before.pid);
  expect((await home.cli("signal", "steady", "0")).status).toBeLessThan(3);
  for (const one of half) one.destroy();
  await home.killDaemon();
  await waitUntil(async () => (await home.status("steady")).pid === before.pid, "the next daemon gets through to it");
  expect((await home.cli("stop", "steady")).stdout).toBe("steady: stopped\n");
  socket.close();
});

test("a shim speaks the lower version of its own and of who asks", async () => {
  await using home = new Home();
  await home.start("both", home.script("both.py", "import time\ntime.sleep(600)\n"));
  const socket = reachablePath(join((await home.status("both")).log_dir, "..", "sock"));
  const [state, words36, words37] = [5 + 85, 5 + 8 + 8 * 36, 5 + 8 + 8 * 37];
  const calls = frame(40);
  for (const [hello, words] of [
    [1, words36],
    [2, words37],
    [9, words37],
  ] as const) {
    const [first, second] = framesOf(
      await talk(socket.path, Buffer.concat([frame(32, u32(hello)), calls]), state + words),
    );
    expect([first!.type, first!.payload.length, first!.payload.readUInt32LE(0)]).toEqual([64, 85, 2]);
    expect([second!.type, second!.payload.length]).toEqual([74, words - 5]);
  }
  const [unasked] = framesOf(await talk(socket.path, calls, words36)); // said no HELLO: it is an old one
  expect([unasked!.type, unasked!.payload.length]).toEqual([74, words36 - 5]);
  const [refused] = framesOf(await talk(socket.path, frame(32, u32(0)), 10));
  expect([refused!.type, refused!.payload[0], refused!.payload.readInt32LE(1)]).toEqual([70, 32, 71]); // EPROTO
  socket.close();
});
