/** Whether a delivery is signed, and what host.json may say of webhooks: without a listener and without a daemon. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import fc from "fast-check";
import { createHmac } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import { readHostConfig, type HostConfig } from "../../src/host/host-config.ts";
import { readSigned } from "../../src/host/webhook.ts";
import { seed } from "../seed.ts";

const SECRET = "a secret of sixteen";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "ipcctl-webhooks-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const rulesOf = (webhooks: readonly object[]): HostConfig => {
  const path = join(dir, "host.json");
  writeFileSync(path, JSON.stringify({ webhooks }));
  return readHostConfig(path);
};

test("whatever somebody sends who does not know the secret, it is not signed", () => {
  const names = ["x-hub-signature-256", "webhook-signature", "webhook-id", "webhook-timestamp", "x-github-delivery"];
  const text = fc.oneof(
    fc.string(),
    fc.constantFrom("sha256=", `sha256=${"0".repeat(64)}`, "v1,", `v1,${"A".repeat(43)}=`, "1000", "v1a,x v1,y"),
  );
  const headers = fc.dictionary(fc.constantFrom(...names), text);
  fc.assert(
    fc.property(headers, fc.uint8Array(), (some, body) => {
      expect(readSigned({ headers: some, body }, SECRET, 1_000_000)).toBeUndefined();
    }),
    { seed, numRuns: 3000 },
  );
});

test("webhookAgeMs: as old as the limit it is taken, and a millisecond older it is not", () => {
  const [body, age] = [Buffer.from("{}"), LIMITS.webhookAgeMs.value];
  const signature = createHmac("sha256", SECRET).update("m.1000.{}").digest("base64");
  const headers = { "webhook-id": "m", "webhook-timestamp": "1000", "webhook-signature": `v1,${signature}` };
  const at = (nowMs: number) => readSigned({ headers, body }, SECRET, nowMs);
  for (const nowMs of [1_000_000 - age, 1_000_000, 1_000_000 + age]) expect(at(nowMs)).toEqual({ key: "m" });
  for (const nowMs of [1_000_000 - age - 1, 1_000_000 + age + 1]) expect(at(nowMs)).toBeUndefined();
});

test("webhooks, webhookPathChars: as many as the limit are taken, and one more is not", () => {
  const of = (count: number, chars = 20): HostConfig => {
    const path = (at: number): string => `/hooks/${String(at).padStart(chars - "/hooks/".length, "x")}`;
    return rulesOf(Array.from({ length: count }, (_, at) => ({ path: path(at), topic: "a.b", secret: "git" })));
  };
  const [most, chars] = [LIMITS.webhooks.value, LIMITS.webhookPathChars.value];
  expect(of(most).webhooks.length).toBe(most);
  expect(() => of(most + 1)).toThrow(/webhooks/);
  expect(of(1, chars).webhooks.length).toBe(1);
  expect(() => of(1, chars + 1)).toThrow(/webhooks\[0\]\.path/);
  expect(() => rulesOf([1, 2].map(() => ({ path: "/hooks/a", topic: "a.b", secret: "git" })))).toThrow(
    /webhooks: two have the path \/hooks\/a/,
  );
});
