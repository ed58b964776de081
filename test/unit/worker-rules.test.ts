import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import {
  hostSchemaDocument,
  limitsDocument,
  manualPage,
  pluginSchemaDocument,
  policySchemaDocument,
  schemaDocument,
  statesDocument,
} from "../../scripts/generate.ts";
import { contractHeader, contractModule, DOCUMENTS, editionModule, withTables } from "../../scripts/contract.ts";
import { pluginDeclarations } from "../../scripts/declarations.ts";
import { pythonTypes } from "../../scripts/verbs.ts";
import { toWorkerId } from "../../src/base/names.ts";
import { parseDurationMs, parseMomentMs, parseSizeBytes } from "../../src/base/units.ts";
import { VERSION } from "../../src/base/version.ts";
import { parseAppConfig } from "../../src/protocol/app-config.ts";
import { inDependencyOrder, requireNoCycle } from "../../src/protocol/dependencies.ts";
import { TABLE, type Event, type State } from "../../src/workers/states.ts";
import { decide, delayMs } from "../../src/workers/restart-policy.ts";
import { maskArgs, maskEnv, MASK } from "../../src/workers/secrets.ts";

const root = join(import.meta.dir, "..", "..");
const config = (fields: object) => parseAppConfig(JSON.stringify({ name: "a", command: "true", ...fields }), "/");

test("the documents drawn from tables are what the tables say", () => {
  expect(readFileSync(join(root, "docs/internals/worker-states.md"), "utf8")).toBe(statesDocument());
  expect(readFileSync(join(root, "contract/edition.ts"), "utf8")).toBe(editionModule());
  expect(readFileSync(join(root, "native/contract.h"), "utf8")).toBe(contractHeader());
  expect(readFileSync(join(root, "python/ipcctl/_contract.py"), "utf8")).toBe(contractModule());
  expect(readFileSync(join(root, "python/ipcctl/_verbs.py"), "utf8")).toBe(pythonTypes());
  expect(readFileSync(join(root, "src/cli/plugin-declarations.ts"), "utf8")).toBe(pluginDeclarations());
  for (const [file, tables] of Object.entries(DOCUMENTS)) {
    const text = readFileSync(join(root, "docs", file), "utf8");
    expect(text).toBe(withTables(file, text));
    expect(text.split("<!-- table: ").length - 1).toBe(tables);
  }
  expect(readFileSync(join(root, "docs/internals/limits.md"), "utf8")).toBe(limitsDocument());
  expect(readFileSync(join(root, "docs/ipcctl.1"), "utf8")).toBe(manualPage());
  expect(readFileSync(join(root, "docs/ipcctl.schema.json"), "utf8")).toBe(schemaDocument());
  expect(readFileSync(join(root, "docs/policy.schema.json"), "utf8")).toBe(policySchemaDocument());
  expect(readFileSync(join(root, "docs/plugin.schema.json"), "utf8")).toBe(pluginSchemaDocument());
  expect(readFileSync(join(root, "docs/host.schema.json"), "utf8")).toBe(hostSchemaDocument());
});

test("the version is that of the package", () => {
  expect(JSON.parse(readFileSync(join(root, "package.json"), "utf8")).version).toBe(VERSION);
});

test.each([
  ["My App", "my-app"],
  ["app/path", "app-path"],
  ["app!@#$%", "app"],
  ["  A.b_C-1 ", "a.b_c-1"],
])("the name %p maps to %p", (name, id) => {
  expect(toWorkerId(name)).toBe(id);
});

test.each([
  ["", "no usable"],
  ["!!!", "no usable"],
  ["..", "a path"],
  ["x".repeat(65), "too long"],
])("the name %p is refused", (name, why) => {
  expect(() => toWorkerId(name)).toThrow(why);
});

test("a name of exactly the limit passes", () => {
  expect(toWorkerId("x".repeat(64))).toBe("x".repeat(64));
});

test("a stopped worker stays stopped, whatever happens, unless it is asked to run", () => {
  for (const event of Object.keys(TABLE.stopped) as Event[]) {
    if (event !== "start" && event !== "restart")
      expect(TABLE.stopped[event]).toEqual({ next: "stopped", effects: [] });
  }
});

test("a stop leads out of every state to stopped or stopping", () => {
  for (const state of Object.keys(TABLE) as State[]) expect(["stopped", "stopping"]).toContain(TABLE[state].stop.next);
});

test("no state launches a second run while one may be alive", () => {
  for (const state of ["starting", "running", "stopping"] as const) {
    for (const event of Object.keys(TABLE[state]) as Event[])
      expect(TABLE[state][event].effects).not.toContain("launch");
  }
});

test("a delay never exceeds the maximum and never goes below zero", () => {
  const backoff = config({}).backoff;
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 2000 }),
      fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
      (attempt, random) => {
        const ms = delayMs(backoff, attempt, random);
        expect(ms).toBeGreaterThanOrEqual(0);
        expect(ms).toBeLessThanOrEqual(backoff.max_delay_ms);
      },
    ),
  );
});

test.each([
  ["no", false, "ended"],
  ["on-failure", true, "ended"],
  ["on-failure", false, "ended_retry"],
  ["always", true, "ended_retry"],
  ["unless-stopped", true, "ended_retry"],
] as const)("policy %s after success=%p gives %s", (policy, isSuccess, event) => {
  expect(decide(policy, config({}).backoff, { isSuccess, ranMs: 0 }, 0, 0.5).event).toBe(event);
});

test("attempts are used up at the maximum, and forgotten after a stable run", () => {
  const { backoff } = config({ backoff: { max_attempts: 2 } });
  expect(decide("always", backoff, { isSuccess: false, ranMs: 0 }, 1, 0.5).event).toBe("ended_retry");
  expect(decide("always", backoff, { isSuccess: false, ranMs: 0 }, 2, 0.5).event).toBe("ended_exhausted");
  expect(decide("always", backoff, { isSuccess: false, ranMs: 10_000 }, 2, 0.5)).toMatchObject({
    event: "ended_retry",
    attempt: 1,
  });
});

test.each([
  ["10s", 10_000],
  ["1h30m", 5_400_000],
  ["500ms", 500],
  ["2", 2000],
])("%s is %d ms", (text, ms) => {
  expect(parseDurationMs(text, "--x")).toBe(ms);
});

test.each([
  ["512M", 536_870_912],
  ["1.5GiB", 1_610_612_736],
  ["65536", 65_536],
])("%s is %d bytes", (text, bytes) => {
  expect(parseSizeBytes(text, "--x")).toBe(bytes);
});

test("durations are taken in all the spellings of bunctl", () => {
  for (const spelling of [{ secs: 3, nanos: 0 }, "3s", 3000])
    expect(config({ stop_timeout: spelling }).stop_timeout).toBe(3000);
});

test.each([
  [{ nope: 1 }, "nope"],
  [{ script: "x.py" }, "exactly one of command and script"],
  [{ backoff: { multiplier: 0.5 } }, "backoff.multiplier"],
  [{ backoff: { jitter: 1.1 } }, "backoff.jitter"],
  [{ max_cpu_percent: 0 }, "max_cpu_percent"],
  [{ command: "a 'b" }, "open ' quote"],
  [{ restart_policy: "maybe" }, "on-failure"],
])("the definition with %p is refused by name", (fields, why) => {
  expect(() => config(fields)).toThrow(why);
});

test("a command without arguments is split as a shell would", () => {
  expect(config({ command: `python3 -c 'print("a b")' x\\ y` })).toMatchObject({
    command: "python3",
    args: ["-c", 'print("a b")', "x y"],
  });
});

test("dependencies come first and cycles are refused", () => {
  const app = (id: string, ...depends_on: string[]) => ({ id, config: { depends_on } });
  expect(inDependencyOrder([app("web", "db"), app("db"), app("job", "web")]).map(({ id }) => id)).toEqual([
    "db",
    "web",
    "job",
  ]);
  expect(() => requireNoCycle([app("a", "b"), app("b", "c")], "c", ["a"])).toThrow("cycle");
});

test("secrets are masked by name, by shape, and inside URLs", () => {
  expect(maskEnv({ PORT: "80", API_KEY: "x", DB: "postgres://u:pw@h/d", A: "ghp_abc", MY_PASSWORD: "p" })).toEqual({
    PORT: "80",
    API_KEY: MASK,
    DB: `postgres://u:${MASK}@h/d`,
    A: MASK,
    MY_PASSWORD: MASK,
  });
  expect(maskArgs(["--token", "abc", "--password=x", "http://u:p@h"])).toEqual([
    "--token",
    MASK,
    `--password=${MASK}`,
    `http://u:${MASK}@h`,
  ]);
});

test.each([
  [{ stop_timeout: "soon" }, 'stop_timeout: "soon" is not a duration'],
  [{ stop_timeout: true }, "stop_timeout: expected number or string or object"],
  [{ max_memory: "lots" }, 'max_memory: "lots" is not a size'],
  [{ max_memory: 1_048_575 }, "max_memory: 1048575 bytes are too few for any program, at least 1M is needed"],
  [{ health_check: { check_type: { type: "tcp", host: "h", port: 0 } } }, "health_check.check_type.port: Too small"],
  [{ health: { check_type: { type: "ping" } } }, "health.check_type.type: Invalid"],
  [{ max_memory: "1023K" }, "max_memory: 1047552 bytes are too few"],
  [{ cron: "0 0 30 2 *" }, 'cron: "0 0 30 2 *": never comes due'],
  [{ watch: 3 }, "watch: expected boolean or array"],
])("%j is refused with the field and the reason", (fields, message) => {
  expect(() => config(fields)).toThrow(message);
});

test("a limit of memory that a program can just begin with is taken", () => {
  expect(config({ max_memory: "1M" }).max_memory).toBe(1_048_576);
});

test.each<[text: string, ms: number]>([
  ["10m", 1_800_000_000_000 - 600_000],
  ["2026-11-20T19:20Z", Date.UTC(2026, 10, 20, 19, 20)],
  ["2026-11-20T19:20:01+02:00", Date.UTC(2026, 10, 20, 17, 20, 1)],
  ["2026-11-20T19:20", new Date(2026, 10, 20, 19, 20).getTime()],
  ["2026-11-20", new Date(2026, 10, 20).getTime()],
])("the moment %s", (text, ms) => {
  expect(parseMomentMs(text, "--since", 1_800_000_000_000)).toBe(ms);
});

test.each(["2026-13-40", "2026-11-20T25:00", "yesterday", ""])("%p is no moment", (text) => {
  expect(() => parseMomentMs(text, "--since", 0)).toThrow("--since: ");
});
