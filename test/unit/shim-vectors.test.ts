/**
 * What the daemon and the shim tell each other, by cases that both sides' own code is held to: C writes or reads here
 * what TypeScript reads or writes.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import { SPEC } from "../../contract/shim.ts";
import { parseRecord } from "../../src/logs/cri.ts";
import { encodeSpec, type Spec } from "../../src/shim/spec.ts";
import { ROOT } from "../home.ts";
import logs from "../vectors/log.json" with { type: "json" };
import specs from "../vectors/spec.json" with { type: "json" };

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "ipcctl-vectors-"));
  const parts = ["fuzz/vectors", "shim/spec", "shim/log", "shim/record", "shim/proc"].map((part) => `${part}.c`);
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
