/**
 * Verbs at random, many at once, on a daemon of their own; after each round what is listed must be what lives.
 * As a command: `bun test/soak/verbs.ts [MINUTES] [SEED]`.
 */
import { mkdirSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { IpcError } from "../../src/base/errors.ts";
import type { WorkerStatus } from "../../src/protocol/status.ts";
import { Home, isAlive, waitUntil, within } from "../home.ts";
import { soak } from "./soak.ts";
import { sleep } from "../../src/base/patience.ts";

const SLEEP = "import time\ntime.sleep(600)\n";
const DEAF = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nwhile True: time.sleep(600)\n";
const BRIEF = "import sys\nsys.exit(3)\n";
const READY = `
import os, socket, time
time.sleep(0.05)
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.connect(os.environ["NOTIFY_SOCKET"]); s.send(b"READY=1")
time.sleep(600)
`;
const TREE = `
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: time.sleep(600)
    os._exit(0)
os.wait()
time.sleep(600)
`;

/** A folder whose changes restart a worker. */
const WATCHED = "watched-files";

/** Each kind of worker that a verb may meet. */
const APPS: Readonly<Record<string, { readonly text: string; readonly more: object }>> = {
  one: { text: SLEEP, more: {} },
  three: { text: SLEEP, more: { instances: 3 } },
  deaf: { text: DEAF, more: { stop_timeout: 200 } },
  brief: { text: BRIEF, more: { restart_policy: "always", backoff: { base_delay_ms: 20, max_delay_ms: 40 } } },
  told: { text: READY, more: { ready: "notify", ready_timeout: 20_000 } },
  tree: { text: TREE, more: { instances: 2, stop_timeout: 500 } },
  watched: { text: SLEEP, more: { instances: 2, watch: [WATCHED] } },
};
const NAMES = Object.keys(APPS);
const VERBS = ["start", "stop", "restart", "reload", "scale", "delete", "define"] as const;

/** How a verb may end beside well; anything else is a fault. */
const EXPECTED = new Set(["SUPERSEDED", "NOT_FOUND", "NOT_RUNNING", "START_FAILED"]);
const VERB_MS = 30_000;

/** What happens besides. A shim that is frozen goes on again after some seconds, unless it was ended for it. */
export type Chaos = {
  readonly killsDaemon?: boolean;
  readonly killsShims?: boolean;
  readonly freezesShims?: boolean;
};

export class VerbFuzz {
  readonly #home: Home;
  readonly #random: () => number;
  readonly #scripts = new Map<string, string>();
  readonly outcomes = new Map<string, number>();

  constructor(home: Home, random: () => number) {
    this.#home = home;
    this.#random = random;
    mkdirSync(join(home.dir, WATCHED));
    for (const [name, { text }] of Object.entries(APPS)) this.#scripts.set(name, home.script(`${name}.py`, text));
  }

  #pick<T>(all: readonly T[]): T {
    return all[Math.floor(this.#random() * all.length)]!;
  }

  /** So that there is something for each verb to meet. */
  async #defineAll(): Promise<void> {
    for (const name of NAMES) await this.#define(name);
  }

  async #define(name: string): Promise<void> {
    await this.#home.start(name, this.#scripts.get(name)!, APPS[name]!.more);
  }

  /** So many verbs at once, then a look at what is left. @throws Error with what does not agree */
  async round(
    count: number,
    { killsDaemon = false, killsShims = false, freezesShims = false }: Chaos = {},
  ): Promise<void> {
    await this.#defineAll();
    const began = performance.now();
    const work = Array.from({ length: count }, () => this.#verb(killsDaemon));
    work.push(this.#touch());
    if (killsShims) work.push(this.#signalShims("SIGKILL"));
    if (freezesShims) work.push(this.#signalShims("SIGSTOP"));
    if (killsDaemon) {
      await sleep(this.#random() * 150); // how far the verbs get is what is random here
      await this.#home.killDaemon();
    }
    await Promise.all(work);
    await this.agree(`after ${count} verbs in ${Math.round(performance.now() - began)} ms`);
  }

  /** One verb on one app, on some, or on all; its own connection, as each command has. */
  async #verb(mayLose: boolean): Promise<void> {
    const verb = this.#pick(VERBS);
    const name = this.#pick(NAMES);
    const instances = 1 + Math.floor(this.#random() * 4);
    const isAll = this.#random() < 0.1;
    const graceMs = this.#random() < 0.3 ? 100 : null;
    const isParallel = this.#random() < 0.5;
    await sleep(this.#random() * 50);
    const what = `${verb} ${isAll ? "all" : name}`;
    const ask = (): Promise<void> =>
      verb === "define" ? this.#define(name) : this.#ask(verb, name, { isAll, instances, graceMs, isParallel });
    try {
      await within(VERB_MS, what, ask());
      this.#note(`${verb} ok`);
    } catch (error) {
      const { code, message } = IpcError.from(error, what);
      const isLost = mayLose && (code === "CONNECTION_LOST" || code === "NO_DAEMON");
      if (!isLost && !EXPECTED.has(code)) throw new Error(`${what}: ${code} ${message}`, { cause: error });
      this.#note(`${verb} ${code}`);
    }
  }

  async #ask(
    verb: Exclude<(typeof VERBS)[number], "define">,
    name: string,
    how: { isAll: boolean; instances: number; graceMs: number | null; isParallel: boolean },
  ): Promise<void> {
    using connection = await this.#home.connect();
    if (verb === "scale") return await connection.scale(name, how.instances);
    const all = await connection.status();
    const names = all.filter((worker) => how.isAll || worker.app === name).map((worker) => worker.name);
    if (names.length === 0) throw new IpcError("NOT_FOUND", name);
    const apps = [...new Set(all.filter((one) => names.includes(one.name)).map((one) => one.app))];
    const results = await connection.act(verb, names, {
      apps,
      graceMs: how.graceMs ?? undefined,
      isParallel: how.isParallel,
    });
    for (const { ok, code, message, name: which } of results) {
      if (!ok && !EXPECTED.has(code ?? "")) throw new IpcError("FAILED", `${which}: ${code}: ${message}`);
      if (!ok) this.#note(`${verb} ${code}`);
    }
  }

  /** The daemon restarts by itself what watches them. */
  async #touch(): Promise<void> {
    for (let count = 0; count < 3; count++) {
      await sleep(this.#random() * 300);
      writeFileSync(join(this.#home.dir, WATCHED, "settings"), String(this.#random()));
    }
  }

  async #signalShims(signal: "SIGKILL" | "SIGSTOP"): Promise<void> {
    const frozen: number[] = [];
    for (let count = 0; count < 5; count++) {
      await sleep(this.#random() * 100);
      const shims = [...this.#living().shims];
      if (shims.length === 0) continue;
      const pid = this.#pick(shims);
      send(pid, signal);
      if (signal === "SIGSTOP") frozen.push(pid);
    }
    if (frozen.length > 0) await sleep(this.#random() * 8000);
    for (const pid of frozen) send(pid, "SIGCONT");
  }

  #note(what: string): void {
    this.outcomes.set(what, (this.outcomes.get(what) ?? 0) + 1);
  }

  /** Processes below this home: shims by their folder, workers and what they forked by their environment. */
  #living(): { shims: Set<number>; workers: Map<number, string> } {
    const { workersDir } = this.#home.paths;
    const shims = new Set<number>();
    const workers = new Map<number, string>();
    for (const pid of readdirSync("/proc").map(Number).filter(Number.isInteger)) {
      try {
        const isShim = readlinkSync(`/proc/${pid}/exe`).endsWith("/ipcctl-shim");
        if (isShim && readlinkSync(`/proc/${pid}/cwd`).startsWith(`${workersDir}/`) && isAlive(pid)) shims.add(pid);
        const plane = new RegExp(`IPCCTL_PLANE=${workersDir}/([^/\\0]*)/plane`).exec(
          readFileSync(`/proc/${pid}/environ`, "latin1"),
        );
        if (plane && !isShim && isAlive(pid)) workers.set(pid, plane[1]!);
      } catch {
        // It has just ended.
      }
    }
    return { shims, workers };
  }

  /** What is listed is what lives, and each app has as many instances as it is defined to have. */
  async agree(when: string): Promise<void> {
    let found = "";
    const isSettled = async (): Promise<boolean> => {
      using connection = await this.#home.connect();
      const listed = await connection.status();
      const { shims, workers } = this.#living();
      const again = await connection.status();
      const upOf = (all: readonly WorkerStatus[]): number[] =>
        all.flatMap(({ pid, shim_pid }) => [pid ?? 0, shim_pid ?? 0]).filter((pid) => pid > 0);
      const faults: string[] = [];
      if (!Bun.deepEquals(upOf(listed), upOf(again))) faults.push("it changes");
      const pids = new Set(upOf(listed));
      const names = new Set(listed.map(({ name }) => name));
      for (const shim of shims) if (!pids.has(shim)) faults.push(`shim ${shim} is not listed`);
      for (const [pid, name] of workers) {
        const worker = listed.find((one) => one.name === name);
        if (!worker?.pid) faults.push(`process ${pid} of ${name} lives, which is ${worker?.state ?? "not listed"}`);
      }
      for (const { name, pid, shim_pid, state } of listed) {
        if (state === "Stopping" || state === "Starting") faults.push(`${name} is ${state}`);
        if (pid !== null && !workers.has(pid)) faults.push(`${name} has pid ${pid}, which is not alive`);
        if (shim_pid !== null && !shims.has(shim_pid)) faults.push(`${name} has shim ${shim_pid}, which is not alive`);
      }
      for (const folder of readdirSync(this.#home.paths.workersDir))
        if (!names.has(folder)) faults.push(`the folder ${folder} is left`);
      for (const { name, app, instance } of listed)
        if (name !== (instance === 0 ? app : `${app}-${instance}`)) faults.push(`${name} is instance ${instance}`);
      for (const name of NAMES) {
        const instances = listed.filter((one) => one.app === name).map(({ instance }) => instance);
        if (instances.some((instance, index) => instance !== index)) faults.push(`${name} has ${instances.join()}`);
      }
      found = faults.join("; ");
      return faults.length === 0;
    };
    await waitUntil(isSettled, `listed = live, ${when}`).catch((error: Error) => {
      throw new Error(found, { cause: error });
    });
  }

  /** Nothing may be left. */
  async end(): Promise<void> {
    using connection = await this.#home.connect();
    const all = await connection.status();
    const names = all.map(({ name }) => name);
    if (names.length > 0) await connection.act("delete", names, { apps: [...new Set(all.map(({ app }) => app))] });
    await this.agree("after deleting all");
    const { shims, workers } = this.#living();
    if (shims.size + workers.size > 0)
      throw new Error(`left: shims ${[...shims].join()}, workers ${[...workers.keys()].join()}`);
  }
}

function send(pid: number, signal: "SIGKILL" | "SIGSTOP" | "SIGCONT"): void {
  try {
    process.kill(pid, signal);
  } catch {
    // It has just ended by itself.
  }
}

if (import.meta.main)
  await soak("verbs", 5, async ({ home, random, goesOn }) => {
    const fuzz = new VerbFuzz(home, random);
    let rounds = 0;
    for (; goesOn(); rounds++)
      await fuzz.round(40, {
        killsDaemon: rounds % 4 === 3,
        killsShims: rounds % 3 === 2,
        freezesShims: rounds % 5 === 4,
      });
    await fuzz.end();
    const outcomes = [...fuzz.outcomes].toSorted(([a], [b]) => (a < b ? -1 : 1)).map(([what, n]) => `  ${what}: ${n}`);
    return [`${rounds} rounds of 40, nothing left`, ...outcomes].join("\n");
  });
