/** Where the socket of the daemon is, by the cases that test/python/test_paths.py reads too. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { IpcError } from "../../src/base/errors.ts";
import { resolvePaths } from "../../src/base/paths.ts";
import vectors from "../vectors/paths.json" with { type: "json" };

type Case = { uid: number; env: Record<string, string>; config?: string; socket?: string; error?: string };

let parent: string;
let dir: string;
beforeAll(() => {
  parent = mkdtempSync(join(tmpdir(), "ipcctl-paths-"));
  dir = join(parent, "ipcctl");
  mkdirSync(dir);
});
afterAll(() => rmSync(parent, { recursive: true, force: true }));

test.each((vectors as Case[]).map((one) => [JSON.stringify(one), one] as const))("%s", (_, one) => {
  const placed = (text: string): string => text.replaceAll("$DIR", dir).replaceAll("$PARENT", parent);
  const env = Object.fromEntries(Object.entries(one.env).map(([name, value]) => [name, placed(value)]));
  const config = join(dir, "config.json");
  if (one.config === undefined) rmSync(config, { force: true });
  else writeFileSync(config, one.config);
  let found: string;
  try {
    found = resolvePaths(env, one.uid).socket;
  } catch (error) {
    found = error instanceof IpcError ? `error ${error.code}` : String(error);
  }
  expect(found).toBe(one.error === undefined ? placed(one.socket!) : `error ${one.error}`);
});
