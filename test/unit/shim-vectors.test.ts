/**
 * What the daemon and the shim tell each other, by cases that both sides' own code is held to: C writes or reads here
 * what TypeScript reads or writes.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import { SPEC } from "../../contract/shim.ts";
import { parseRecord } from "../../src/logs/cri.ts";
import { REPLY, REQUEST, SCOPE } from "../../contract/shim.ts";
import { replyOf, request, type Reply } from "../../src/shim/exchange.ts";
import { takeFrames } from "../../src/shim/frame-stream.ts";
import { encodeSpec, type Spec } from "../../src/shim/spec.ts";
import { ROOT } from "../home.ts";
import logs from "../vectors/log.json" with { type: "json" };
import exchange from "../vectors/shim.json" with { type: "json" };
import specs from "../vectors/spec.json" with { type: "json" };

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "ipcctl-vectors-"));
  const parts = [
    "fuzz/vectors",
    "shim/spec",
    "shim/log",
    "shim/record",
    "shim/proc",
    "shim/clients",
    "shim/channels",
  ].map((part) => `${part}.c`);
  const flags = ["-std=c11", "-D_GNU_SOURCE", "-g", "-fsanitize=address,undefined"];
  const { exitCode, stderr } = Bun.spawnSync([process.env.CC ?? "cc", ...flags, "-o", join(dir, "vectors"), ...parts], {
    cwd: join(ROOT, "native"),
  });
  if (exitCode !== 0) throw new Error(`native/fuzz/vectors.c was not built: ${stderr.toString()}`);
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** Leaks are no matter: a shim allocates once and lives as long as its worker. */
function vectors(input: Uint8Array, ...args: string[]): string {
  const env = { ...process.env, ASAN_OPTIONS: "detect_leaks=0" };
  const { exitCode, stdout, stderr } = Bun.spawnSync([join(dir, "vectors"), ...args], { stdin: input, env });
  if (exitCode !== 0) throw new Error(`vectors ${args.join(" ")} exited with ${exitCode}: ${stderr.toString()}`);
  return stdout.toString().trimEnd();
}

/** A specification as JSON has it: rights are texts, since they may have 64 bits, and programs are in hexadecimal. */
type Written = {
  says: string;
  bytes: string;
  reads: string[];
  spec?: Record<string, unknown> & { confinement?: Record<string, never> };
};

function revive(spec: NonNullable<Written["spec"]>): Spec {
  const text = JSON.stringify(spec);
  return JSON.parse(text, (key, value: unknown) => {
    if (typeof value === "string" && value.startsWith("0x")) return BigInt(value);
    return key === "steps" ? new Uint8Array(Buffer.from(value as string, "hex")) : value;
  }) as Spec;
}

describe("a specification", () => {
  test.each((specs as Written[]).map((one) => [one.says, one] as const))("%s", (_, { spec, bytes, reads }) => {
    if (spec !== undefined) expect(Buffer.from(encodeSpec(revive(spec))).toString("hex")).toBe(bytes);
    expect(vectors(Buffer.from(bytes, "hex"), "spec").split("\n")).toEqual(reads);
  });
});

test("specBytes: a specification as large as the limit is read, and a larger one is not", () => {
  const { bytes, reads } = (specs as Written[]).find(({ reads: [first] }) => first === "run 1")!;
  const [head, end] = [Buffer.from(bytes, "hex").subarray(0, -5), Buffer.from(bytes, "hex").subarray(-5)];
  const padded = (size: number): Buffer => {
    const variable = Buffer.alloc(size - head.length - end.length, "v");
    variable.writeUInt32LE(variable.length - 4, 0);
    variable.writeUInt8(SPEC.env, 4);
    variable.write("A=", 5);
    return Buffer.concat([head, variable, end]);
  };
  expect(vectors(padded(LIMITS.specBytes.value), "spec")).toContain(reads[0]!);
  expect(vectors(padded(LIMITS.specBytes.value + 1), "spec")).not.toContain(reads[0]!);
});

/** Hexadecimal, and how often it comes. */
type Bytes = readonly [hex: string, times: number];
const bytesOf = ([hex, times]: Bytes): Buffer => Buffer.from(hex.repeat(times), "hex");

type Output = { says: string; pieces: Bytes[][]; records: ["F" | "P", Bytes][] };

describe("what a worker prints", () => {
  test.each((logs as unknown as Output[]).map((one) => [one.says, one] as const))("%s", (_, { pieces, records }) => {
    const folder = mkdtempSync(join(dir, "log-"));
    const parts = pieces.map((piece) => Buffer.concat(piece.map(bytesOf)));
    vectors(Buffer.concat(parts), "log", folder, ...parts.map((part) => `${part.length}`));
    const [file, ...others] = readdirSync(folder);
    expect(others).toEqual([]);
    const all = readFileSync(join(folder, file!));
    const read: [string, string][] = [];
    for (let at = 0; at < all.length;) {
      const end = all.indexOf("\n", at);
      const record = parseRecord(all.subarray(at, end), 1, at);
      expect(record).toMatchObject({ stream: "stdout", timestamp: expect.stringMatching(/^\d{4}-.*\.\d{9}Z$/) });
      read.push([record!.isPartial ? "P" : "F", Buffer.from(record!.text).toString("hex")]);
      at = end + 1;
    }
    expect(read).toEqual(records.map(([tag, text]) => [tag, bytesOf(text).toString("hex")]));
  });
});

/** A request, and what it makes the shim do and answer. The daemon does not send all of them. */
type Asked = {
  says: string;
  ask?: [string, ...(string | number)[]];
  bytes: string;
  descriptors?: number;
  does: string[];
};
/** What a shim tells, from numbers in the order in which vectors.c takes them, and as what the daemon reads it. */
type Told = { says: string; tells?: string[]; bytes: string; reads: unknown[] };
const asked = exchange.requests as Asked[];
const told = exchange.replies as Told[];

const typesIn = (bytes: string): number[] => {
  const types: number[] = [];
  takeFrames(
    Buffer.from(bytes, "hex"),
    (type) => types.push(type),
    () => undefined,
  );
  return types;
};

/** The daemon's own way to ask this, if it does. */
function encoded(ask: Asked["ask"]): string | undefined {
  const [name, ...fields] = ask ?? [""];
  const encode: unknown = Object.entries(request).find(([own]) => own === name)?.[1];
  const values = fields.map((one) => (typeof one === "string" ? SCOPE[one as keyof typeof SCOPE] : one));
  return encode === undefined ? undefined : (encode as (...fields: number[]) => Buffer)(...values).toString("hex");
}

describe("a request to a shim", () => {
  test.each(asked.map((one) => [one.says, one] as const))("%s", (_, { ask, bytes, descriptors = 0, does }) => {
    expect(encoded(ask) ?? bytes).toBe(bytes);
    const folder = mkdtempSync(join(dir, "log-"));
    const done = vectors(Buffer.from(bytes, "hex"), "ask", folder, `${descriptors}`);
    expect(done.split("\n").filter(Boolean)).toEqual(does);
  });

  test("is written by the daemon in at least one case of each that it knows", () => {
    const written = new Set(asked.filter(({ ask }) => encoded(ask) !== undefined).map(({ ask }) => ask![0]));
    expect([...written].toSorted()).toEqual(Object.keys(request).toSorted());
  });
});

describe("what a shim tells", () => {
  test.each(told.map((one) => [one.says, one] as const))("%s", (_, { tells, bytes, reads }) => {
    if (tells) expect(vectors(Buffer.alloc(0), "tell", ...tells)).toBe(bytes);
    const replies: (Reply | null)[] = [];
    const all = Buffer.from(bytes, "hex");
    const rest = takeFrames(
      all,
      (type, payload) => replies.push(replyOf(type, payload) ?? null),
      () => expect.unreachable("the frame is broken"),
    );
    expect(rest.length).toBe(0);
    const plain = JSON.stringify(replies, (_key, value: unknown) => (typeof value === "bigint" ? `${value}` : value));
    expect(JSON.parse(plain)).toEqual(reads);
  });
});

test("each request and each reply of the contract has a case", () => {
  const types = (all: string[]): Set<number> => new Set(all.flatMap(typesIn));
  const requests = types(asked.map(({ bytes }) => bytes));
  const answers = asked.flatMap(({ does }) => does.filter((line) => /^[\da-f]{10,}$/.test(line)));
  const replies = types([...answers, ...told.map(({ bytes }) => bytes)]);
  expect(Object.entries(REQUEST).filter(([, type]) => !requests.has(type))).toEqual([]);
  expect(Object.entries(REPLY).filter(([, type]) => !replies.has(type))).toEqual([]);
});

test("what a shim answers is read by the daemon: done, or an error", () => {
  const errors = asked.flatMap(({ does }) => {
    const found: unknown[] = [];
    const take = (type: number, payload: Buffer) => found.push(replyOf(type, payload));
    for (const line of does)
      if (/^[\da-f]{10,}$/.test(line)) takeFrames(Buffer.from(line, "hex"), take, () => undefined);
    return found.filter((reply) => (reply as Reply | undefined)?.kind === "answer");
  });
  const { EINVAL, EPROTO } = constants.errno;
  const numbers = errors.map((reply) => (reply as { errno: number }).errno);
  expect(new Set(numbers)).toEqual(new Set([0, EINVAL, EPROTO]));
});
