/** Every wait for a worker ends: with what it waits for, with its deletion, cut short, or at its deadline. */
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AuditSpool } from "../../src/audit/spool.ts";
import { IpcError } from "../../src/base/errors.ts";
import { parseAppConfig } from "../../src/protocol/app-config.ts";
import { SHIM_BINARY } from "../../src/base/install.ts";
import { shellWord } from "../../src/base/shell-words.ts";
import { readExitRecord } from "../../src/shim/records.ts";
import { Store } from "../../src/workers/store.ts";
import { Worker, type WorkerDeps } from "../../src/workers/worker.ts";

const dir = mkdtempSync(join(tmpdir(), "ipcctl-waits-"));
const store = new Store(join(dir, "db"), { onTrouble: () => undefined, onHealed: () => undefined });
afterAll(() => {
  store[Symbol.dispose]();
  rmSync(dir, { recursive: true });
});

const deps: WorkerDeps = {
  store,
  audit: new AuditSpool(dir, "daemon"),
  shimBinary: "/bin/false",
  workersDir: dir,
  environmentsDir: dir,
  config: join(dir, "config.json"),
  cgroups: undefined,
  daemonEnv: {},
  credential: () => Promise.reject(new Error("there is none")),
  daemonUmask: 0o022,
  listenerUrl: () => "",
  emit: () => undefined,
  log: () => undefined,
  random: () => 0,
  nowMs: Date.now,
  onRotated: () => undefined,
  onRemove: () => undefined,
  watchRun: () => ({ health: null, [Symbol.dispose]: () => undefined }),
};
const config = parseAppConfig(JSON.stringify({ name: "web", command: "true" }), "/");
store.putApp("web", config);
const worker = new Worker(deps, config, store.addInstance("web", "web", 0));

const errorOf = (wait: Promise<void>): Promise<unknown> =>
  wait.then(
    () => "it ended well",
    ({ code, message }: IpcError) => ({ code, message }),
  );
const never = (): boolean => false;

test("it ends at once where nothing is to be waited for", async () => {
  await worker.waitFor(() => true, { else: "was not started", ms: 0 });
});

test("it ends at its deadline, and says what did not happen in which time", async () => {
  expect(await errorOf(worker.waitFor(never, { else: "was not started", ms: 10 }))).toEqual({
    code: "DEADLINE",
    message: "web was not started within 0.01 s",
  });
});

test("it ends with the error of whoever cuts it short, also where that came first", async () => {
  const cut = new AbortController();
  const superseded = new IpcError("SUPERSEDED", "start web was cut short by: stop web");
  const waiting = errorOf(worker.waitFor(never, { else: "was not started", ms: 60_000, signal: cut.signal }));
  cut.abort(superseded);
  const { code, message } = superseded;
  expect(await waiting).toEqual({ code, message });
  const late = worker.waitFor(() => true, { else: "was not started", ms: 60_000, signal: cut.signal });
  expect(await errorOf(late)).toEqual({ code, message });
});

test("it ends when the worker is deleted", async () => {
  const waiting = errorOf(worker.waitFor(never, { else: "was not started", ms: 60_000 }));
  worker.discard();
  worker.dispose();
  expect(await waiting).toEqual({ code: "NOT_FOUND", message: "web was not started: it was deleted meanwhile" });
});

test("one whose shim has ended before anybody reached it has the pid that its record says", async () => {
  const shim = join(dir, "shim.sh"); // which nobody can reach, since it does its work in another folder
  const real = shellWord(SHIM_BINARY);
  writeFileSync(
    shim,
    `#!/bin/sh\nmkdir "$1/x" && mv "$1/spec" "$1/x" && ${real} "$1/x" && cp "$1/x/exit" "$1/exit"\n`,
    {
      mode: 0o755,
    },
  );
  const quick = parseAppConfig(
    JSON.stringify({ name: "quick", command: "true", restart_policy: "no", policy: "trusted" }),
    "/",
  );
  store.putApp("quick", quick);
  const one = new Worker({ ...deps, shimBinary: shim }, quick, store.addInstance("quick", "quick", 0));
  one.start(true);
  await one.waitFor(() => one.state !== "starting", { else: "was not started", ms: 10_000 });
  expect([one.launchFailure, one.state]).toEqual([undefined, "stopped"]);
  expect(one.lastPid).toBe(readExitRecord(join(dir, "quick"))!.pid);
  one.dispose();
});
