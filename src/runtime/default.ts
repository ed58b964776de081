/** `ipcctl.eval("2 + 2")` without starting a worker: one Python per program, one namespace per task. */
import { AsyncLocalStorage } from "node:async_hooks";
import { join } from "node:path";
import { ROOT } from "../base/install.ts";
import { connect, type Ipcctl } from "./connect.ts";
import type { EvalOptions, PythonWorker } from "./python-worker.ts";

/** Named after the program, so that leftovers of a killed program can be recognised. */
const NAME = `eval-${process.pid}`;
const LEFT = /^eval-(\d+)$/;
const HOME = "main";

const tasks = new AsyncLocalStorage<{ readonly namespace: string }>();
let opening: Promise<PythonWorker> | undefined;
let ipc: Ipcctl | undefined;
let count = 0;

/**
 * The Python of this program, started on first use. It ends with the program, and does not keep it alive.
 * @throws IpcError START_FAILED, NO_DAEMON
 */
export async function defaultRuntime(): Promise<PythonWorker> {
  const worker = await (opening ??= open());
  if (worker.isOpen) return worker;
  opening = undefined; // it crashed or was stopped: the next one starts empty
  return await defaultRuntime();
}

async function open(): Promise<PythonWorker> {
  try {
    ipc = await connect();
    for (const { name, state } of await ipc.status())
      // Another program may be quicker.
      if (LEFT.test(name) && name !== NAME && state === "Stopped") await ipc.delete(name).catch(() => undefined);
    const worker = await ipc.start(join(ROOT, "python/run/evaluate.py"), { name: NAME, restart_policy: "no" });
    process.once("beforeExit", closeDefaultRuntimeQuietly);
    return worker;
  } catch (error) {
    opening = undefined;
    throw error;
  }
}

/** Ends it; the next use starts a new, empty one. */
export async function closeDefaultRuntime(): Promise<void> {
  const ending = ipc;
  opening = ipc = undefined;
  process.removeListener("beforeExit", closeDefaultRuntimeQuietly);
  await ending?.delete(NAME);
  ending?.[Symbol.dispose]();
}

function closeDefaultRuntimeQuietly(): void {
  void closeDefaultRuntime().catch(() => undefined); // the daemon may be gone, but Python ends with our channel anyway
}

/**
 * Evaluates Python code in the namespace of this task: `await ipcctl.eval("2 + 2")`. Names that it defines are
 * available to the next call of the same task; see {@link isolated}.
 * @throws PythonError what the code raised; IpcError
 */
export async function evaluate(code: string, options: Omit<EvalOptions, "namespace"> = {}): Promise<unknown> {
  const worker = await defaultRuntime();
  return await worker.eval(code, { ...options, namespace: tasks.getStore()?.namespace ?? HOME });
}

/** Runs statements there. */
export async function execute(code: string, options: Omit<EvalOptions, "namespace" | "mode"> = {}): Promise<void> {
  await evaluate(code, { ...options, mode: "exec" });
}

/**
 * Runs a task with its own empty namespace: nobody else sees what it defines with {@link evaluate}, also in whatever it
 * awaits, and it is gone when the task ends.
 */
export async function isolated<T>(task: () => Promise<T>): Promise<T> {
  const namespace = `task-${++count}`;
  try {
    return await tasks.run({ namespace }, task);
  } finally {
    const worker = await opening?.catch(() => undefined);
    if (worker?.isOpen) await worker.forgetNamespace(namespace).catch(() => undefined); // gone with its Python then
  }
}
