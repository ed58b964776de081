/**
 * A worker that writes whatever it likes into the segment, in the middle of traffic: the client reports a broken
 * channel and goes on.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { Ipcctl, IpcError, type PythonWorker } from "ipcctl";
import { SharedRingBuffer } from "../../src/plane/ring.ts";
import { limit } from "../../src/base/limits.ts";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { reachablePath } from "../../src/base/socket-path.ts";
import { Home, waitUntil, workerPrelude } from "../home.ts";
import { seed } from "../seed.ts";

const WORKER = `${workerPrelude()}
import os, random, signal, struct, sys, time
import ipcctl
from ipcctl import _backend, _serving

def segment():
    return _serving.serving()._sessions[-1].channel.map

@ipcctl.expose
def add(a, b): return a + b

@ipcctl.expose
def write(offset, data):
    segment()[offset:offset + len(data)] = bytes(data)
    _serving.serving()._sessions[-1].channel._ring()
    time.sleep(30)  # the client sees it before the answer mends it, and closes, which ends this

@ipcctl.expose
def scribble(seed, rounds):
    """Random words into the control blocks and heads of frames, while answers go out."""
    r, m = random.Random(seed), segment()
    for _ in range(rounds):
        offset = r.choice([256, 320, 384, 388, 512, 576, 640, 644, 4096 + r.randrange(1 << 21) // 4 * 4])
        m[offset:offset + 4] = struct.pack("<I", r.choice([0, 1, 7, 8, 1 << 20, (1 << 20) + 8, 0xFFFFFFFF, r.getrandbits(32)]))

@ipcctl.expose
def send(data):
    channel = _serving.serving()._sessions[-1].channel
    channel._put(bytes(data))
    channel._ring()

@ipcctl.expose
def truncate():
    import fcntl
    for fd in os.listdir("/proc/self/fd"):
        try: path = os.readlink(f"/proc/self/fd/{fd}")
        except OSError: continue
        if "ipcctl-channel" in path:
            for size in (0, 1 << 30):
                try: os.ftruncate(int(fd), size)
                except OSError as error: yield error.errno
            try: os.truncate(f"/proc/self/fd/{fd}", 0)
            except OSError as error: yield error.errno

@ipcctl.expose
def claim(form):
    """An answer over shared memory that is a lie."""
    import socket
    def hand(fds, packet=struct.pack("<I", 1)):
        socket.send_fds(_serving.serving()._sessions[-1].channel.sharing._socket, [packet], fds)
    def memfd(seals, size=4096):
        import fcntl
        fd = os.memfd_create("loose", os.MFD_ALLOW_SEALING); os.ftruncate(fd, size); fcntl.fcntl(fd, 1033, seals)
        return fd
    if form == "big": hand([memfd(7)]); form = [1, 0, 8192, 64, [8192]]
    elif form == "shape": hand([memfd(7)]); form = [1, 0, 8, 64, [3, 3]]
    elif form == "askew": hand([memfd(7)]); form = [1, 4, 8, 86, [1]]
    elif form == "unsealed": hand([memfd(0)]); form = [1, 0, 8, 64, [8]]
    elif form == "growable": hand([memfd(4)]); form = [1, 0, 8, 64, [8]]
    elif form == "empty": hand([memfd(7, 0)]); form = [1, 0, 8, 64, [8]]
    elif form == "socket": hand([0]); form = [1, 0, 8, 64, [8]]
    elif form == "none": hand([]); form = [1, 0, 8, 64, [8]]
    elif form == "two": hand([memfd(7), memfd(7)]); form = [2, 0, 8, 64, [8]]
    elif form == "short": hand([memfd(7)], b"x"); form = [1, 0, 8, 64, [8]]
    return _backend.Tagged(27, ["ipcctl.Shared", form])

@ipcctl.expose
def hoard(count):
    """As many segments as it likes."""
    global hoarded
    hoarded = []
    for _ in range(count):
        memory = ipcctl.shared(4096)
        hoarded.append(memory.obj)
        yield memory

@ipcctl.expose
def half():
    """Publishes a frame that was never written, and dies."""
    m = segment()
    tail = struct.unpack_from("<I", m, 576)[0]
    struct.pack_into("<I", m, 4096 + (1 << 20) + tail % (1 << 20), 4000)
    struct.pack_into("<I", m, 576, (tail + 16) % (1 << 32))
    os.kill(os.getpid(), signal.SIGKILL)

ipcctl.serve()
`;

/** For what ends by itself, however slow the machine is. */
const PATIENCE_MS = 60_000;
const SEGMENTS_MAX = limit("segments");

let home: Home;
let ipc: Ipcctl;
beforeAll(async () => {
  home = new Home();
  ipc = new Ipcctl(await home.connect());
  await home.start("hostile", home.script("hostile.py", WORKER), {
    restart_policy: "always",
    backoff: { base_delay_ms: 1 },
  });
});
afterAll(async () => {
  ipc[Symbol.dispose]();
  await home[Symbol.asyncDispose]();
});

/** How it ended: an answer, or one of the errors that are allowed. */
async function outcome(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => "answered",
    (error: unknown) => {
      if (error instanceof IpcError) return error.code;
      throw error;
    },
  );
}

/** Worker and client must work as before with a new channel. */
async function stillServes(): Promise<void> {
  using fresh = await ipc.worker("hostile");
  expect(await fresh.call("add", 1, 2)).toBe(3);
}

/** The worker reads nothing from here on. */
async function freeze(): Promise<void> {
  const pid = (await home.status("hostile")).pid!;
  process.kill(pid, "SIGSTOP");
  await waitUntil(() => /^State:\s+T/m.test(readFileSync(`/proc/${pid}/status`, "utf8")), "the worker is stopped");
}

async function withWorker(attack: (py: PythonWorker) => Promise<void>): Promise<void> {
  using py = await ipc.worker("hostile");
  await attack(py);
}

test("random words in positions, lengths and sleep words, over and over", async () => {
  const seen = new Set<string>();
  for (let round = 0; round < 40; round++)
    await withWorker(async (py) => {
      const calls = Array.from({ length: 50 }, (_, index) => outcome(py.callWith("add", [index, 1], { timeout: 300 })));
      calls.push(outcome(py.callWith("scribble", [seed + round, 1 + (round % 7)], { timeout: 300 })));
      calls.push(
        ...Array.from({ length: 50 }, (_, index) => outcome(py.callWith("add", [index, 1], { timeout: 300 }))),
      );
      for (const end of await Promise.all(calls)) seen.add(end);
    });
  for (const end of seen) expect(["answered", "CONNECTION_LOST", "DEADLINE"]).toContain(end);
  await stillServes();
}, 120_000);

test.each([
  ["a tail far ahead", 576, [0xff, 0xff, 0xff, 0x7f]],
  ["a tail behind", 576, [0, 0, 0, 0xf0]],
])("%s breaks the channel by name", async (_, offset, bytes) => {
  await withWorker(async (py) => {
    const ends = [outcome(py.callWith("write", [offset, bytes], { timeout: PATIENCE_MS }))];
    ends.push(outcome(py.callWith("add", [1, 1], { timeout: PATIENCE_MS })));
    expect((await Promise.all(ends)).some((end) => end !== "answered")).toBe(true);
    expect(["CONNECTION_LOST", "DEADLINE"]).toContain(await outcome(py.callWith("add", [1, 1], { timeout: 500 })));
  });
  await stillServes();
});

test.each([
  ["bytes that are no CBOR", [0xff, 0xff]],
  ["a message that is no array", [0x20]],
  ["a kind that is none", [0x82, 0x18, 0x63, 0x00]],
  ["a number that is none", [0x83, 0x01, 0x61, 0x61, 0x00]],
  ["a length that lies", [0x83, 0x01, 0x01, 0x9a, 0xff, 0xff, 0xff, 0xff]],
])("%s breaks the channel and nothing else", async (_, bytes) => {
  await withWorker(async (py) => {
    await outcome(py.callWith("send", [bytes], { timeout: PATIENCE_MS }));
    expect(await outcome(py.callWith("add", [1, 1], { timeout: PATIENCE_MS }))).toBe("CONNECTION_LOST");
  });
  await stillServes();
});

test("answers to calls that were never made are passed over", async () => {
  await withWorker(async (py) => {
    for (const bytes of [
      [0x83, 0x01, 0x19, 0x27, 0x0f, 0x00],
      [0x82, 0x06, 0x19, 0x27, 0x0f],
      [0x83, 0x05, 0x19, 0x27, 0x0f, 0x00],
    ])
      await py.call("send", bytes);
    expect(await py.call("add", 1, 1)).toBe(2);
  });
});

test.each([
  ["a descriptor that was not handed over", [9, 0, 8, 64, [8]]],
  ["a descriptor that is a pipe", "socket"],
  ["no descriptor", "none"],
  ["another number than it came with", "two"],
  ["a packet that is none", "short"],
  ["more than there is", "big"],
  ["memory that is not sealed", "unsealed"],
  ["memory that may be shrunk", "growable"],
  ["memory of no bytes", "empty"],
  ["a shape that does not fit", "shape"],
  ["an address that is not aligned", "askew"],
  ["nonsense", [1, "x", null, 3, {}]],
  ["numbers below zero", [1, -8, 8, 64, [8]]],
])("shared memory with %s breaks the channel", async (_, form) => {
  await withWorker(async (py) => {
    expect(await outcome(py.callWith("claim", [form], { timeout: PATIENCE_MS }))).toBe("CONNECTION_LOST");
  });
  await stillServes();
});

test("a worker that hoards segments is stopped at the limit", async () => {
  await withWorker(async (py) => {
    const held: unknown[] = [];
    const error = await (async () => {
      for await (const memory of py.stream("hoard", SEGMENTS_MAX + 1)) held.push(memory);
    })().catch((error: unknown) => error as IpcError);
    // What had come is taken in order, up to the one too many.
    expect(held.length).toBeGreaterThanOrEqual(SEGMENTS_MAX - 64);
    expect((error as IpcError).message).toContain(`more than ${SEGMENTS_MAX} segments`);
  });
  await stillServes();
  await withWorker(async (py) => {
    let count = 0;
    for await (const memory of py.stream("hoard", SEGMENTS_MAX))
      count += (memory as Uint8Array).length === 4096 ? 1 : 0;
    expect(count).toBe(SEGMENTS_MAX);
  });
});

test("the segment can be neither shrunk nor grown", async () => {
  await withWorker(async (py) => {
    const errors: number[] = [];
    for await (const error of py.stream<number>("truncate")) errors.push(error);
    expect(errors.every((error) => error === 1 || error === 22)).toBe(true); // EPERM
    expect(await py.call("add", 1, 1)).toBe(2);
  });
});

test("a worker that dies in the middle of a write, and one that stops reading", async () => {
  await withWorker(async (py) => {
    expect(["CONNECTION_LOST", "WORKER_CRASHED"]).toContain(
      await outcome(py.callWith("half", [], { timeout: PATIENCE_MS })),
    );
  });
  await stillServes();
  await withWorker(async (py) => {
    await freeze();
    const big = new Uint8Array(200_000);
    const waiting = Array.from({ length: 50 }, () => outcome(py.callWith("add", [big, big], { timeout: 300 })));
    for (const end of await Promise.all(waiting)) expect(["DEADLINE", "CONNECTION_LOST"]).toContain(end);
    const { pid } = await home.status("hostile");
    process.kill(pid!, "SIGKILL");
  });
  await stillServes();
}, 30_000);

test("what waits for a worker that does not read has a limit", async () => {
  await withWorker(async (py) => {
    await freeze();
    const part = new Uint8Array(limit("unreadBytes") / 8);
    const waiting = Array.from({ length: 5 }, () => outcome(py.call("add", part, part)));
    expect(py.isOpen).toBe(true); // at the limit
    const last = await py.call("add", 1, 1).catch((error: Error) => error);
    expect((last as Error).message).toContain(`left more than ${limit("unreadBytes")} bytes unread`);
    for (const end of await Promise.all(waiting)) expect(end).toBe("CONNECTION_LOST");
    process.kill((await home.status("hostile")).pid!, "SIGKILL");
  });
  await stillServes();
}, 30_000);

test("a ring refuses what its other side cannot have written, whatever it is", () => {
  const capacity = 4096;
  for (let seed = 1; seed <= 3000; seed++) {
    const segment = new Uint8Array(4096 + capacity);
    const words = new Uint32Array(segment.buffer);
    let state = seed;
    const random = (): number => (state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0);
    for (let index = 0; index < words.length; index++) words[index] = random() % 3 === 0 ? random() % 5000 : random();
    words[0] = 0;
    const ring = new SharedRingBuffer(segment, 0, 4096, capacity, false);
    try {
      for (let turn = 0; turn < 50 && ring.tryReceive() !== undefined; turn++);
    } catch (error) {
      expect((error as Error).name).toBe("BrokenChannel");
    }
  }
});

test("a client that writes whatever it likes costs the worker its channel, and nobody else anything", async () => {
  using honest = await ipc.worker("hostile");
  expect(await honest.call("add", 1, 1)).toBe(2);
  const { pid, log_dir } = await home.status("hostile");
  const socket = reachablePath(join(log_dir, "..", "sock"));
  const client = Bun.spawn(["python3", join(import.meta.dir, "hostile_client.py"), socket.path, `${seed}`], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  const calls = setInterval(() => void honest.call("add", 1, 1).catch(() => undefined), 5);
  const [stdout, stderr] = await Promise.all([new Response(client.stdout).text(), new Response(client.stderr).text()]);
  clearInterval(calls);
  socket.close();
  expect({ seed, stderr, last: stdout.trim().split("\n").at(-1) }).toEqual({ seed, stderr: "", last: "done" });
  expect((await home.status("hostile")).pid).toBe(pid);
  expect(await honest.call("add", 2, 2)).toBe(4);
  await stillServes();
}, 60_000);
