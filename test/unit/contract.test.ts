/**
 * The tables that two languages share: sound in themselves, raised in number when they change, and typed nowhere else.
 */
import { expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import { CLONE, ERRNO, RLIMIT, SIGTERM } from "../../contract/linux.ts";
import * as messages from "../../contract/messages.ts";
import * as segment from "../../contract/segment.ts";
import * as shim from "../../contract/shim.ts";

const root = join(import.meta.dir, "..", "..");
type Table = Readonly<Record<string, number>>;

/** What a contract says, without the prose: numbers, and the payload that stands first beside a number. */
function hashOf(...modules: object[]): string {
  const bare = (value: unknown): unknown =>
    Array.isArray(value)
      ? value[0]
      : typeof value === "object" && value !== null
        ? Object.fromEntries(Object.entries(value).map(([key, one]) => [key, bare(one)]))
        : value;
  const said = modules.flatMap((module) => Object.entries(module)).toSorted(([a], [b]) => (a < b ? -1 : 1));
  return createHash("sha256")
    .update(JSON.stringify(said.map(([name, value]) => [name, bare(value)])))
    .digest("hex")
    .slice(0, 16);
}

test.each([
  ["contract/shim.ts", "SHIM_VERSION", shim.SHIM_VERSION, hashOf(shim), [2, "37b349af1b4a92df"]],
  [
    "contract/segment.ts or contract/messages.ts",
    "SEGMENT_VERSION",
    segment.SEGMENT_VERSION,
    hashOf(segment, messages),
    [3, "89b5c1242eda20f1"],
  ],
] as const)("%s did not change without %s", (files, name, version, hash, [recorded, known]) => {
  if (version !== recorded)
    throw new Error(`${name} is ${version}: record [${version}, "${hash}"] here, and keep version ${recorded} spoken`);
  if (hash !== known)
    throw new Error(
      `${files} changed, and ${name} is still ${version}. Older sides would misunderstand: raise ${name}, and let the newer side ` +
        `speak ${version} as well. Only if ${version} was never released, record [${version}, "${hash}"] here.`,
    );
});

test("nothing in the segment, in a control block or in STATE overlaps", () => {
  const size = (field: string): number => (field === "2 × capacity" ? 0 : Number(field));
  const places = Object.entries(segment.SEGMENT).map(
    ([key, at]) => [key, at, size(segment.SEGMENT_FIELDS[key as keyof typeof segment.SEGMENT][0])] as const,
  );
  const words = Object.entries(segment.RING).map(([key, at]) => [key, at, key === "controlBytes" ? 0 : 4] as const);
  for (const table of [places, words]) {
    const sorted = table.toSorted(([, a], [, b]) => a - b);
    for (const [index, [key, at, bytes]] of sorted.entries()) {
      const next = sorted[index + 1];
      if (next !== undefined && at + bytes > next[1]) throw new Error(`${key} reaches into ${next[0]}`);
    }
  }
  expect(segment.SEGMENT_FIELDS.ringA[0]).toBe(`${segment.RING.controlBytes}`);
  expect(segment.SEGMENT_FIELDS.statistics[0]).toBe(`${8 * segment.STATISTICS.words}`);
  expect(segment.SEGMENT_FIELDS.slots[0]).toBe(`${8 * segment.SLOTS}`);
  expect(segment.STATISTICS.latencies + segment.LATENCY_CLASSES).toBe(segment.STATISTICS.nanoseconds);
  const offsets = Object.values(shim.STATE);
  expect(offsets).toEqual(offsets.toSorted((a, b) => a - b));
  for (const numbers of [shim.SPEC, shim.REQUEST, shim.REPLY, messages.TO_WORKER, messages.TO_CLIENT])
    expect(new Set(Object.values(numbers)).size).toBe(Object.keys(numbers).length);
});

test("the numbers of Linux are those of its headers", () => {
  const names: Record<keyof typeof RLIMIT, string> = {
    cpu: "CPU",
    fileSize: "FSIZE",
    data: "DATA",
    stack: "STACK",
    core: "CORE",
    threads: "NPROC",
    openFiles: "NOFILE",
    locked: "MEMLOCK",
    space: "AS",
    signals: "SIGPENDING",
    queues: "MSGQUEUE",
  };
  const { stdout } = Bun.spawnSync([
    "python3",
    "-c",
    `import json, resource, signal, sys
print(json.dumps([{key: getattr(resource, "RLIMIT_" + name) for key, name in json.loads(sys.argv[1]).items()}, signal.SIGTERM]))`,
    JSON.stringify(names),
  ]);
  expect(JSON.parse(stdout.toString())).toEqual([RLIMIT, SIGTERM]);
});

test("the bits of clone and the numbers of errors are those of the C headers", () => {
  const { stdout, exitCode } = Bun.spawnSync(
    [process.env.CC ?? "cc", "-D_GNU_SOURCE", "-E", "-dM", "-include", "sched.h", "-include", "errno.h", "-"],
    { stdin: Buffer.of() },
  );
  expect(exitCode).toBe(0);
  const defined = new Map(
    [...stdout.toString().matchAll(/^#define (\w+) (0x[\da-f]+|\d+)$/gim)].map(([, name, value]) => [
      name!,
      Number(value),
    ]),
  );
  const theirs = (names: string[], prefix = ""): object =>
    Object.fromEntries(names.map((name) => [name, defined.get(prefix + name)]));
  expect(theirs(Object.keys(CLONE), "CLONE_")).toEqual(CLONE);
  expect(theirs(Object.keys(ERRNO))).toEqual(ERRNO);
});

test("every message of the shim is of use to both sides", () => {
  const textOf = (pattern: string): string =>
    [...new Bun.Glob(pattern).scanSync(root)].map((file) => readFileSync(join(root, file), "utf8")).join("\n");
  const [ours, shims] = [textOf("src/**/*.ts"), textOf("native/{shim,net}/*.c")];
  const unused = Object.entries({ SPEC: shim.SPEC, REQUEST: shim.REQUEST, REPLY: shim.REPLY }).flatMap(
    ([table, numbers]) =>
      Object.keys(numbers).filter(
        (key) =>
          !new RegExp(`\\b${table}\\.${key}\\b`).test(ours) ||
          !new RegExp(`\\bIPC_${table}_${wordsOf(key).join("_")}\\b`, "i").test(shims),
      ),
  );
  expect(unused).toEqual([]);
});

/**
 * Independent on purpose: what they know of the contract they know by themselves, so that a slip in the tables does not
 * go unseen.
 */
const PEERS = [
  "test/protocol/client.py",
  "test/runtime/hostile_client.py",
  "native/fuzz/fuzz.c",
  "native/fuzz/net_fuzz.c",
  "native/fuzz/net_peer.c",
  "native/fuzz/ring_peer.c",
];
/** Lines that look like one of the numbers and are not. */
const OTHERWISE: Readonly<Record<string, string>> = {
  "mount.path = take_string(arena, payload + 16, length);": "the offset of the path in a payload, not its frame",
  '{ .kind = IPC_MOUNT_SCRATCH, .path = "/tmp", .bytes = 65536, .files = 16 },': "a number of files",
};

const isTable = (value: unknown): value is Table =>
  typeof value === "object" && value !== null && Object.values(value).every((one) => typeof one === "number");
const wordsOf = (name: string): string[] =>
  name
    .replaceAll(/[A-Z]+/g, (letters) => `_${letters.toLowerCase()}`)
    .split(/[^a-z0-9]+/)
    .filter((word) => word !== "");

/** A line that has a number of the contract beside a name that has all the words of its name in the contract. */
function retyped(line: string, isPython = false): string | undefined {
  const comment = isPython ? /#.*/ : /\/\/.*|\/\*.*?(?:\*\/|$)|^\s*\*.*/g;
  const code = line.replaceAll(/"(?:[^"\\]|\\.)*"/g, "").replace(comment, "");
  if (/IPCCTL\\x0|\bSHIM_VERSION(?:_MIN)?\s*=?\s*\d|\bSEGMENT_VERSION(?:_MIN)?\s*=?\s*\d/.test(line))
    return "a version";
  const numbers = new Set(
    [...code.matchAll(/(?<![\w.])(?:0x[\da-f_]+|\d[\d_]*)(?=u?\b)(?! %)/gi)].map(([text]) =>
      Number(text.replaceAll("_", "")),
    ),
  );
  if (numbers.size === 0) return undefined;
  const names = [...code.matchAll(/[a-z_]\w*/gi)].map(([name]) => wordsOf(name));
  const tables = Object.entries({ ...shim, ...segment }).filter(([, value]) => isTable(value)) as [string, Table][];
  tables.push(["LIMITS", Object.fromEntries(Object.entries(LIMITS).map(([key, { value }]) => [key, value]))]);
  for (const [table, entries] of tables)
    for (const [key, value] of Object.entries(entries))
      // Smaller ones mean anything, anywhere.
      if (value >= 16 && numbers.has(value) && names.some((name) => wordsOf(key).every((word) => name.includes(word))))
        return `${table}.${key}`;
  return undefined;
}

test("a number of the contract is told from others", () => {
  expect(retyped("#define ASKED 128")).toBe("SEGMENT.asked");
  expect(retyped("const REQUEST = { hello: 32 };")).toBe("REQUEST.hello");
  expect(retyped("_RING_A, _RING_B = 256, 512  # bytes", true)).toBe("SEGMENT.ringA");
  expect(retyped("	state[40] = shim.is_ready;")).toBe("STATE.ready");
  expect(retyped('MAGIC = b"IPCCTL\\x02\\x00"')).toBe("a version");
  expect(retyped("export const SHIM_VERSION = 7;")).toBe("a version");
  expect(retyped("const PERIOD_MS = 128; // asked once")).toBeUndefined();
  expect(retyped("74 % of the calls")).toBeUndefined();
});

test("no number of the contract is typed again", () => {
  const written = new Set(["native/contract.h", "python/ipcctl/_contract.py", ...PEERS]);
  const found: string[] = [];
  for (const file of new Bun.Glob("{src,native,python}/**/*.{ts,c,h,py}").scanSync(root)) {
    if (file.startsWith("native/build/") || written.has(file)) continue;
    for (const [index, line] of readFileSync(join(root, file), "utf8").split("\n").entries()) {
      const what = Object.hasOwn(OTHERWISE, line.trim()) ? undefined : retyped(line, file.endsWith(".py"));
      if (what !== undefined) found.push(`${file}:${index + 1}: take ${what} from contract/: ${line.trim()}`);
    }
  }
  expect(found).toEqual([]);
});

test("no document types a number of the contract beside its name, but in a table that is generated", () => {
  const found: string[] = [];
  for (const file of new Bun.Glob("docs/**/*.md").scanSync(root)) {
    const text = readFileSync(join(root, file), "utf8");
    if (text.includes("<!-- Written by scripts/generate.ts")) continue;
    const printed = /<!-- table: [^]*?<!-- end of table -->|<!-- (\w+) -->[^]*?<!-- \/\1 -->/g; // by a script
    const own = text.replaceAll(printed, (all) => all.replaceAll(/[^\n]/g, ""));
    for (const [index, line] of own.split("\n").entries()) {
      const what = retyped(line);
      if (what !== undefined)
        found.push(`${file}:${index + 1}: let scripts/contract.ts write ${what} into a table: ${line}`);
    }
  }
  expect(found).toEqual([]);
});
