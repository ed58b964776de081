/** A line without an end: every form of `logs`, and the daemon, take no more memory for it than for another. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { limit } from "../../src/base/limits.ts";
import { Home, ROOT, waitUntil, within } from "../home.ts";

/** Of a line that is in memory whole there are several copies at a time: far more than the room that is granted. */
const PART = "äx€y".repeat(100_000);
const PARTS = 120;
const LINE_BYTES = PARTS * Buffer.byteLength(PART);
/** Beside what a log of one short line takes: blocks and pieces that wait for the garbage collector. */
const ROOM_KB = 200 * 1024;
const DEADLINE_MS = 240_000;

let home: Home;
let plainKb: number;
let daemonKb: number;
const subscribed: string[] = [];
let followers: Reading[];

const lineHash = createHash("sha256");
for (let part = 0; part < PARTS; part++) lineHash.update(PART);
const HASH = lineHash.copy().update("\nend\n").digest("hex");
const LINE_HASH = lineHash.digest("hex");

/** The most it had in memory so far. */
function peakKb(pid: number): number {
  return Number(/^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? Number.NaN);
}

/** Of what is printed from the long line on, whatever came before it. */
class LineHash {
  readonly #hash = createHash("sha256");
  #hasBegun = false;

  update(chunk: Uint8Array): void {
    const begin = this.#hasBegun ? 0 : chunk.indexOf(Buffer.from(PART)[0]!);
    this.#hasBegun ||= begin >= 0;
    if (this.#hasBegun) this.#hash.update(chunk.subarray(begin));
  }

  digest(): string {
    return this.#hash.digest("hex");
  }
}

/** One command line whose output is read slowly enough to look at its memory meanwhile: it waits for its reader. */
class Reading {
  readonly #child: Bun.Subprocess<"ignore", "pipe", "pipe">;
  readonly #isOver: (chunk: Uint8Array) => boolean;
  peakKb = 0;
  hasBegun = false;
  readonly #onChunk: (chunk: Uint8Array) => void;
  readonly #done: Promise<void>;

  constructor(
    args: readonly string[],
    onChunk: (chunk: Uint8Array) => void,
    isOver: (chunk: Uint8Array) => boolean = () => false,
  ) {
    this.#onChunk = onChunk;
    this.#isOver = isOver;
    this.#child = Bun.spawn([join(ROOT, "bin/ipcctl"), "logs", ...args], {
      env: home.env,
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#done = this.#read();
  }

  async #read(): Promise<void> {
    for await (const chunk of this.#child.stdout) {
      this.hasBegun = true;
      this.#look();
      this.#onChunk(chunk);
      if (this.#isOver(chunk)) this.#child.kill("SIGINT");
    }
    expect(await new Response(this.#child.stderr).text()).toBe("");
    expect(await this.#child.exited).toBe(0);
  }

  /** Also where nothing is printed. */
  async lookOn(): Promise<void> {
    const timer = setInterval(() => this.#look(), 10);
    await within(DEADLINE_MS, "it has read the log", this.#done).finally(() => {
      clearInterval(timer);
      this.#child.kill("SIGKILL");
    });
  }

  #look(): void {
    try {
      this.peakKb = Math.max(this.peakKb, peakKb(this.#child.pid) || 0);
    } catch {
      // It has ended.
    }
  }
}

async function read(...args: string[]): Promise<{ hash: string; peakKb: number }> {
  const hash = new LineHash();
  const reading = new Reading(args, (chunk) => hash.update(chunk));
  await reading.lookOn();
  return { hash: hash.digest(), peakKb: reading.peakKb };
}

const ends = (chunk: Uint8Array): boolean => Buffer.from(chunk.subarray(-4)).toString() === "end\n";
const followed = [new LineHash(), new LineHash()];

beforeAll(async () => {
  home = new Home();
  const log = { max_size: "8M", max_files: 0 };
  await home.start("brief", home.script("brief.py", "print('end')\n"), { restart_policy: "no" });
  const script = [
    "import os, sys, time",
    "while not os.path.exists('go'): print('tick'), time.sleep(.05)",
    `for _ in range(${PARTS}): sys.stdout.write("${PART.slice(0, 4)}" * ${PART.length / 4})`,
    "print('\\nend')",
  ].join("\n");
  await home.start("endless", home.script("endless.py", script), { restart_policy: "no", log });
  await waitUntil(async () => (await home.lines("brief")).length === 1, "it has spoken");
  plainKb = (await read("brief")).peakKb;
  followers = [
    ["-f", "endless"],
    ["-f", "-n", "0", "endless"],
  ].map((args, index) => new Reading(args, (chunk) => followed[index]!.update(chunk), ends));
  const connection = await home.connect();
  connection.onEvents(
    ({ event_type, data }) => {
      if (event_type === "log_line") subscribed.push(String(data.line));
    },
    () => undefined,
  );
  await connection.request({ Subscribe: { subscription: { LogEvents: { app_name: "endless" } } } });
  await waitUntil(() => subscribed.length > 0 && followers.every(({ hasBegun }) => hasBegun), "they follow");
  daemonKb = peakKb(await home.daemonPid());
  writeFileSync(join(home.dir, "go"), "");
  await Promise.all(followers.map((follower) => follower.lookOn()));
}, DEADLINE_MS + 60_000);
afterAll(() => home[Symbol.asyncDispose]());

test("a follower gives every byte of it, in bounded memory", () => {
  for (const [index, { peakKb: peak }] of followers.entries()) {
    expect(followed[index]!.digest()).toBe(HASH);
    expect(peak).toBeWithin(1, plainKb + ROOM_KB);
  }
});

test("the daemon cuts it for those who are subscribed, and for those who ask", async () => {
  await waitUntil(() => subscribed.at(-1) === "end", "the events have come");
  for (const lines of [subscribed, await home.lines("endless")]) {
    const [line, end] = lines.slice(-2);
    expect(end).toBe("end");
    expect(`${PART}${PART}`.startsWith(line!)).toBe(true);
    expect(Buffer.byteLength(line!)).toBeWithin(limit("lineChars") - 3, limit("lineChars") + 1);
  }
  expect(peakKb(await home.daemonPid())).toBeWithin(1, daemonKb + ROOM_KB);
});

for (const args of [[], ["-n", "2"], ["-n", "all"], ["--grep", "y|end"], ["-n", "all", "--grep", "y|end"]]) {
  test(
    `logs ${args.join(" ")} gives every byte of it, in bounded memory`,
    async () => {
      const { hash, peakKb: peak } = await read("endless", ...args);
      expect(hash).toBe(HASH);
      expect(peak).toBeWithin(1, plainKb + ROOM_KB);
    },
    DEADLINE_MS,
  );
}

for (const count of ["20", "all"]) {
  test(
    `logs -n ${count} --grep of what is not in it looks through all of it, in bounded memory`,
    async () => {
      const { hash, peakKb: peak } = await read("endless", "-n", count, "--grep", "absent");
      expect(hash).toBe(createHash("sha256").digest("hex"));
      expect(peak).toBeWithin(1, plainKb + ROOM_KB);
    },
    DEADLINE_MS,
  );

  test(
    `logs -n ${count} --json gives it in pieces of one time, in bounded memory`,
    async () => {
      const hash = createHash("sha256");
      const times = new Set<string>();
      const kinds: string[] = [];
      let bytes = 0;
      let rest = "";
      const decoder = new TextDecoder();
      const reading = new Reading(["-n", count, "--json", "endless"], (chunk) => {
        const objects = `${rest}${decoder.decode(chunk, { stream: true })}`.split("\n");
        rest = objects.pop()!;
        for (const object of objects) {
          const { line, partial, timestamp } = JSON.parse(object) as {
            line: string;
            partial?: true;
            timestamp: string;
          };
          if (line === "tick") continue;
          kinds.push(partial ? "piece" : line === "end" ? "end" : "last piece");
          if (line === "end") continue;
          hash.update(line);
          bytes += Buffer.byteLength(line);
          times.add(timestamp);
        }
      });
      await reading.lookOn();
      expect(bytes).toBe(LINE_BYTES);
      expect(hash.digest("hex")).toBe(LINE_HASH);
      expect(times.size).toBe(1);
      const pieces = Math.floor(LINE_BYTES / 1_048_576); // each may be some bytes shorter, for the sake of a character
      expect(kinds).toEqual([...Array.from({ length: pieces }, () => "piece"), "last piece", "end"]);
      expect(reading.peakKb).toBeWithin(1, plainKb + ROOM_KB);
    },
    DEADLINE_MS,
  );
}
