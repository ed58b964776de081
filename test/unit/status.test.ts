/** What a daemon of an earlier protocol answers, which knows less. */
import { expect, test } from "bun:test";
import { Context } from "../../src/cli/context.ts";
import { SHIM_VERSION } from "../../contract/shim.ts";
import { VERSION } from "../../src/base/version.ts";
import { renderTable, versionsThatDiffer } from "../../src/cli/status.ts";
import { readDaemon, readDescription, readWorker, readWorkers } from "../../src/protocol/status.ts";

/** The keys of bunctl, which every daemon sends. */
const OLD = {
  name: "web-1",
  state: "Running",
  pid: 7,
  restarts: 2,
  auto_start: true,
  command: "python3",
  args: ["web.py"],
  cwd: "/srv",
  restart_policy: "No",
  last_exit_code: null,
  uptime_seconds: 3,
  max_memory: null,
  max_cpu_percent: null,
  max_restart_attempts: null,
  backoff_exhausted: false,
  env: {},
  memory_bytes: 1024,
  cpu_percent: 1,
};

test("a worker of a daemon that sends less is read, and shown", () => {
  const worker = readWorker(OLD);
  expect(worker).toMatchObject({ ...OLD, app: "web-1", denied: [], calls: null, log_dir: "", health: null });
  expect(renderTable(new Context({ color: "never" }), readWorkers([OLD]), 80)).toContain("web-1");
});

test("calls that were counted by less are completed", () => {
  const calls = { channels: 1, waiting: 0, total: 9, errors: 0, bytes_in: 1, bytes_out: 2 };
  expect(readWorker({ ...OLD, calls }).calls).toEqual({
    ...calls,
    seconds: null,
    latency_us: { p50: null, p90: null, p99: null, histogram: [] },
  });
});

test("a description and a daemon likewise; what is not known is left in", () => {
  expect(readDescription({ ...OLD, later: 1 })).toMatchObject({
    exits: [],
    log_files: [],
    limits: [],
    tree: [],
    later: 1,
  });
  expect(readDaemon({ version: "0.1.0", pid: 5 })).toMatchObject({
    version: "0.1.0",
    pid: 5,
    protocol: 1,
    cgroup: null,
  });
});

test("what runs from another version is named, with the command that changes it", () => {
  const worker = (name: string, shim_version: number | null) => readWorker({ ...OLD, name, shim_version });
  expect(
    versionsThatDiffer(VERSION, [worker("a", SHIM_VERSION), worker("b", null), worker("c", SHIM_VERSION + 1)]),
  ).toEqual([]);
  expect(versionsThatDiffer("0.0.9", [])).toEqual([
    { what: `the daemon is version 0.0.9, this command is ${VERSION}`, remedy: "ipcctl daemon restart" },
  ]);
  expect(
    versionsThatDiffer(VERSION, [worker("a", SHIM_VERSION - 1), worker("b c", 1), worker("d", SHIM_VERSION)]),
  ).toEqual([{ what: "started by an older version: a, b c", remedy: "ipcctl restart a 'b c'" }]);
});
