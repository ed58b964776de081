/** `spawnPython()`: a confined worker that a program owns, without a daemon. */
import { basename, join, resolve } from "node:path";
import { chmodSync, existsSync, mkdirSync } from "node:fs";
import { chosenDefault } from "../base/default-policies.ts";
import { IpcError } from "../base/errors.ts";
import { atMost, sleep } from "../base/patience.ts";
import { requireInstallation, requireShim, SHIM_BINARY } from "../base/install.ts";
import { resolvePaths } from "../base/paths.ts";
import { requirePlatform } from "../base/platform.ts";
import { workingDirectory } from "../base/working-directory.ts";
import { textOf } from "../logs/cri.ts";
import { localLog, LogView } from "../logs/view.ts";
import { requireSystem } from "../plane/system.ts";
import { cleanEnv } from "../sdk/autostart.ts";
import { BEGIN_MS, errorOfEnd, PythonWorker, type AnyFunctions, type Attach } from "./python-worker.ts";

/** Between two looks whether the shim listens. */
const LOOK_MS = 1;
/** How long the end of its channel may come before its own: one that goes on is not waited for. */
const END_MS = 5000;
/** Limit on output of the worker that nobody has taken yet. */
const LOG_BYTES = 4 * 1024 ** 2;

export type SpawnOptions = {
  readonly args?: readonly string[];
  /** Its working directory (default: this one). */
  readonly cwd?: string;
  /** Variables in addition to those of this program. */
  readonly env?: Readonly<Record<string, string>>;
  readonly interpreter?: string;
  /** By name, path or text; the default is `no-network` unless another is chosen. */
  readonly policy?: string;
  readonly name?: string;
  /** Milliseconds within which it must accept the channel (default: 60,000). */
  readonly timeout?: number;
  /**
   * Gets its output, in whole lines or pieces of long ones; without it, the output goes where this program's own goes.
   */
  readonly onOutput?: (stream: "stdout" | "stderr", text: string) => void;
};

/**
 * Starts a Python script under a policy, as `ipcctl run` does, and opens a channel to it. It ends with this program,
 * however that ends, or when it is disposed; `await using` waits until nothing of it runs.
 * @throws IpcError NOT_FOUND, POLICY_REFUSED, BAD_CONFIG, START_FAILED, DEADLINE; FAILED on Node, where it cannot run
 * yet
 */
export async function spawnPython<W extends object = AnyFunctions>(
  script: string,
  options: SpawnOptions = {},
): Promise<PythonWorker<W>> {
  requirePlatform();
  requireInstallation();
  requireSystem();
  requireShim();
  const cwd = options.cwd ?? workingDirectory() ?? "/";
  const path = resolve(cwd, script);
  if (!existsSync(path)) throw new IpcError("NOT_FOUND", `spawnPython: ${script}: no such file`);
  const owned = await Owned.start(path, cwd, options);
  try {
    return await PythonWorker.open<W>(
      (attach, ms) => owned.attach(attach, ms),
      options.timeout ?? BEGIN_MS,
      () => owned.end(),
    );
  } catch (error) {
    await owned.end();
    throw error;
  }
}

/**
 * Attaches once it can be: a shim's socket is there before the shim listens, and a worker that ends is there before its
 * shim's end is seen. Each looks as if nothing ran.
 * @throws IpcError NOT_RUNNING if it is over, or cannot be reached by the deadline; whatever else `attach` throws
 */
export async function whileItBegins(it: {
  readonly isThere: () => boolean;
  readonly attach: () => Promise<void>;
  readonly isOver: () => boolean;
  /** As `performance.now()` counts. */
  readonly deadline: number;
}): Promise<void> {
  for (;;) {
    const isLast = it.isOver() || performance.now() >= it.deadline;
    if (isLast || it.isThere())
      try {
        return await it.attach();
      } catch (error) {
        if (isLast || !(error instanceof IpcError) || error.code !== "NOT_RUNNING") throw error;
      }
    await sleep(LOOK_MS);
  }
}

type Shim = { readonly exited: Promise<number>; errorText(): Promise<string>; release(): void };

/** Its shim, the shim's folder, and what handles its output. */
class Owned {
  readonly #name: string;
  readonly #dir: string;
  readonly #shim: Shim;
  readonly #folder: Disposable;
  readonly #shown: Promise<void>;
  readonly #ending = new AbortController();
  #isOver = false;
  #ended: Promise<void> | undefined;

  private constructor(name: string, dir: string, shim: Shim, folder: Disposable, options: SpawnOptions) {
    this.#name = name;
    this.#dir = dir;
    this.#shim = shim;
    this.#folder = folder;
    this.#shown = this.#show(options.onOutput);
    void shim.exited.then(() => {
      this.#isOver = true;
      this.#ending.abort();
    });
  }

  static async start(script: string, cwd: string, options: SpawnOptions): Promise<Owned> {
    // Loaded on first spawn: policies with their schema, and libc.
    const { prepareSingle } = await import("../launch/prepare.ts");
    const { makeRunSpec } = await import("../launch/specification.ts");
    const { spawnOwnedShim } = await import("../shim/link.ts");
    const name = options.name ?? basename(script).replace(/\.\w+$/, "");
    const dirOf = (folder: string): string => join(folder, "worker");
    const single = await prepareSingle(resolvePaths(process.env, process.getuid!()), {
      by: "spawnPython",
      identity: name,
      app: {
        script,
        command: null,
        args: [...(options.args ?? [])],
        cwd,
        interpreter: options.interpreter ?? null,
        env: { ...options.env },
        env_file: null,
        snapshot: undefined,
        policy: options.policy ?? chosenDefault(process.env, cwd) ?? null,
        allow: null,
        uid: null,
        gid: null,
        max_memory: null,
      },
      base: cleanEnv(process.env),
      own: (folder) => ({ IPCCTL_NAME: name, IPCCTL_PLANE: join(dirOf(folder), "plane"), IPCCTL_CONSOLE: "1" }),
      name,
      hasPlane: true,
    });
    try {
      const dir = dirOf(single.folder);
      mkdirSync(dir, { mode: 0o700 });
      if (single.prepared.ids) chmodSync(dir, 0o711); // a worker with another user id must reach its socket
      const log = { maxFileBytes: LOG_BYTES, maxFiles: 2, maxTotalBytes: 0, maxAgeMs: 0, whenFull: "block" } as const;
      const shim = spawnOwnedShim(SHIM_BINARY, dir, { ...makeRunSpec(single.prepared), log });
      return new Owned(name, dir, shim, single, options);
    } catch (error) {
      single[Symbol.dispose]();
      throw error;
    }
  }

  async attach(attach: Attach, timeoutMs: number): Promise<void> {
    const shimSocket = join(this.#dir, "sock");
    const deadline = performance.now() + timeoutMs;
    const whatHappened = async (): Promise<IpcError | undefined> =>
      (await atMost(END_MS, this.#shim.exited)) === undefined ? undefined : await this.#howItEnded();
    const run = { name: this.#name, shimSocket, whatHappened };
    await whileItBegins({
      isThere: () => existsSync(shimSocket),
      attach: () => attach(run, Math.max(1, deadline - performance.now())),
      isOver: () => this.#isOver,
      deadline,
    }).catch(async (error: unknown) => {
      const isEnd = error instanceof IpcError && (error.code === "CONNECTION_LOST" || error.code === "NOT_RUNNING");
      throw (isEnd ? await whatHappened() : undefined) ?? error;
    });
  }

  async #howItEnded(): Promise<IpcError> {
    const { readExitRecord } = await import("../shim/records.ts");
    const { fromExitRecord } = await import("../shim/ending.ts");
    const record = readExitRecord(this.#dir);
    if (!record) {
      const text = (await this.#shim.errorText()).trim();
      return new IpcError("START_FAILED", `${this.#name}: ${text === "" ? "its shim was killed" : text}`);
    }
    const { kind, status, signal, stop_requested: isAsked, step } = fromExitRecord(record, null);
    if (kind === "exec")
      return new IpcError("START_FAILED", `${this.#name} could not be started: ${step}: errno ${status}`);
    if (isAsked) return new IpcError("WORKER_STOPPED", `${this.#name} was stopped`);
    return errorOfEnd(this.#name, { kind, status, signal });
  }

  async #show(onOutput: SpawnOptions["onOutput"]): Promise<void> {
    const view = new LogView({ lines: 0, sinceMs: 0 });
    const source = localLog(this.#name, join(this.#dir, "logs"), { isNew: true });
    for await (const { pieces } of view.following(source, new AbortController().signal, this.#ending.signal))
      for (const { piece } of pieces) {
        const line = textOf(piece.text) + (piece.isEnd ? "\n" : "");
        if (onOutput) onOutput(piece.stream, line);
        else (piece.stream === "stderr" ? process.stderr : process.stdout).write(line);
      }
  }

  /** Ends the tree. When the promise resolves, nothing of it runs and its folder is removed. */
  end(): Promise<void> {
    this.#ended ??= this.#endOnce();
    return this.#ended;
  }

  /** What a shim that was killed has not ended itself. */
  async #endLeftovers(): Promise<void> {
    const { readExitRecord, readRunRecord } = await import("../shim/records.ts");
    const run = readExitRecord(this.#dir) === undefined ? readRunRecord(this.#dir) : undefined;
    if (run === undefined) return;
    const { killLeftovers } = await import("../shim/leftovers.ts");
    await killLeftovers(this.#dir, run);
  }

  async #endOnce(): Promise<void> {
    this.#shim.release();
    await this.#shim.exited;
    await this.#endLeftovers();
    await this.#shown.catch(() => undefined);
    this.#folder[Symbol.dispose]();
  }
}
