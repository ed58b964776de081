/** Ends of runs as tests of the store make them up. */
import type { ExitInfo } from "../src/protocol/status.ts";

export function exitOf(run: number): ExitInfo {
  return {
    run,
    pid: 1,
    kind: "exit",
    status: 0,
    signal: null,
    step: null,
    started_at: null,
    ended_at: "2026-01-01T00:00:00.000Z",
    stop_requested: false,
    kill_method: "none",
    tree_killed: 0,
    max_rss_bytes: 0,
    cpu_seconds: 0,
    outcome: "stopped",
  };
}
