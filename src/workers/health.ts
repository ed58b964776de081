/** Health checks: http, tcp, exec. After a start period, a number of failures in a row ends the run. */
import { statSync } from "node:fs";
import type { HealthCheck } from "../protocol/app-config.ts";
import { cleanWorkerEnv } from "../launch/command.ts";
import type { Run, RunMonitor } from "./run.ts";
import type { Worker } from "./worker.ts";

/** The output of an exec check is not kept, and no more than this is read of a failing http answer. */
type Verdict = { readonly isHealthy: true } | { readonly isHealthy: false; readonly reason: string };

/** Checks one run of a worker, from its readiness to its end. */
export class HealthMonitor implements RunMonitor {
  readonly #worker: Worker;
  readonly #run: Run;
  readonly #onFailure: (reason: string) => void;
  readonly #unwatch: () => void;
  readonly #abort = new AbortController();
  #state: RunMonitor["health"] = null;

  constructor(worker: Worker, run: Run, onFailure: (reason: string) => void) {
    this.#worker = worker;
    this.#run = run;
    this.#onFailure = onFailure;
    this.#unwatch = worker.watch(() => this.#begin());
  }

  get health(): RunMonitor["health"] {
    return this.#state;
  }

  [Symbol.dispose](): void {
    this.#unwatch();
    this.#abort.abort();
  }

  #begin(): void {
    const check = this.#worker.config.health;
    if (check === null || this.#state !== null || this.#worker.state !== "running") return;
    this.#state = "starting";
    void this.#loop(check, this.#abort.signal);
  }

  async #loop(check: HealthCheck, signal: AbortSignal): Promise<void> {
    const startedMs = performance.now();
    for (let failures = 0; !signal.aborted;) {
      await pause(Math.max(check.interval, 10), signal);
      if (signal.aborted) return;
      const verdict = await probe(check, this.#worker, signal);
      if (signal.aborted) return;
      if (verdict.isHealthy) {
        failures = 0;
        this.#state = "healthy";
        continue;
      }
      // A start may take this long; a worker that was healthy once has started.
      if (this.#state === "starting" && performance.now() - startedMs < check.start_period) continue;
      failures++;
      this.#onFailure(verdict.reason);
      if (failures < check.retries) continue;
      this.#state = "unhealthy";
      this.#run.fail(`unhealthy: ${verdict.reason} (${failures} times in a row)`, this.#worker.config.stop_timeout);
      return;
    }
  }
}

async function probe(check: HealthCheck, worker: Worker, signal: AbortSignal): Promise<Verdict> {
  const deadline = AbortSignal.any([signal, AbortSignal.timeout(Math.max(1, check.timeout))]);
  const late = `no answer within ${check.timeout / 1000} s`;
  try {
    switch (check.check_type.type) {
      case "http":
        return await probeHttp(check.check_type, deadline);
      case "tcp":
        return await probeTcp(check.check_type, deadline, late);
      case "exec":
        return await probeExec(check.check_type, worker, deadline, late);
    }
  } catch (error) {
    return { isHealthy: false, reason: deadline.aborted ? late : (error as Error).message };
  }
}

async function probeHttp(check: { url: string; expected_status: number }, signal: AbortSignal): Promise<Verdict> {
  const response = await fetch(check.url, {
    signal,
    redirect: "manual",
    keepalive: false,
    proxy: false, // the answer of a proxy says nothing about the worker
    headers: { "user-agent": "ipcctl-health" },
  });
  await response.body?.cancel();
  if (response.status === check.expected_status) return { isHealthy: true };
  return { isHealthy: false, reason: `${check.url} answered ${response.status}, not ${check.expected_status}` };
}

async function probeTcp(check: { host: string; port: number }, signal: AbortSignal, late: string): Promise<Verdict> {
  const { promise, resolve } = Promise.withResolvers<Verdict>();
  signal.addEventListener("abort", () => resolve({ isHealthy: false, reason: late }));
  Bun.connect({
    hostname: check.host,
    port: check.port,
    socket: {
      open: (socket) => {
        resolve({ isHealthy: true });
        socket.end();
      },
      data: () => undefined,
      connectError: (_, error) =>
        resolve({ isHealthy: false, reason: `${check.host}:${check.port}: ${error.message}` }),
    },
  }).catch((error: Error) => resolve({ isHealthy: false, reason: `${check.host}:${check.port}: ${error.message}` }));
  return promise;
}

/** Runs in the worker's folder, with its environment and as its user. */
async function probeExec(
  check: { command: string; args: readonly string[] },
  worker: Worker,
  signal: AbortSignal,
  late: string,
): Promise<Verdict> {
  const { config } = worker;
  const child = Bun.spawn([check.command, ...check.args], {
    cwd: config.cwd,
    env: { ...cleanWorkerEnv(config.base_env ?? process.env), ...config.env },
    stdio: ["ignore", "ignore", "ignore"],
    detached: true,
    ...idsOf(worker),
  });
  const onAbort = (): void => {
    try {
      process.kill(-child.pid, "SIGKILL"); // its own group, because a check may start other programs
    } catch {
      // It has just ended.
    }
  };
  signal.addEventListener("abort", onAbort);
  const status = await child.exited;
  signal.removeEventListener("abort", onAbort);
  if (signal.aborted) return { isHealthy: false, reason: late };
  return status === 0
    ? { isHealthy: true }
    : { isHealthy: false, reason: `${check.command} exited with status ${status}` };
}

/** Of the process, which may have its own user id; only root can switch to another. */
function idsOf({ live, config }: Worker): { uid?: number; gid?: number } {
  if (process.getuid!() !== 0) return {};
  const status = live ? statSync(`/proc/${live.pid}`, { throwIfNoEntry: false }) : undefined;
  const uid = status?.uid ?? config.uid;
  const gid = status?.gid ?? config.gid;
  return { ...(uid === null ? {} : { uid }), ...(gid === null ? {} : { gid }) };
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener(
      "abort",
      () => {
        clearTimeout(timer);
        resolve();
      },
      { once: true },
    );
  });
}
