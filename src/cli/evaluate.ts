/** `eval`, `call` and `repl`: into a worker, also one that never imported ipcctl. */
import { createInterface } from "node:readline";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { IpcError } from "../base/errors.ts";
import { PYTHON_PACKAGES } from "../base/install.ts";
import { atMost } from "../base/patience.ts";
import { splitWords } from "../base/shell-words.ts";
import { parseDurationMs } from "../base/units.ts";
import type { PythonWorker } from "../runtime/python-worker.ts";
import { workingProcess } from "./again.ts";
import { isTerminal, jsonText, type Context } from "./context.ts";
import { put } from "./output.ts";
import { pick } from "./select.ts";
import { visible } from "./visible.ts";

const OPEN_MS = 10_000;
const INTERRUPTED = 130;
/**
 * How long interrupted code may take to end before we report that it still runs, and how long we wait for its output to
 * be read.
 */
const STOP_MS = 500;
const FLUSH_MS = 1000;

export type EvalFlags = { timeout?: string; namespace?: string; stream?: boolean };

/** Prints the value as Python's `repr`, or as JSON; shows what the code prints as it comes. */
export async function evaluate(context: Context, name: string, code: string, flags: EvalFlags): Promise<number> {
  const left = timeLeft(flags);
  using worker = await open(context, name, left());
  return await ending(context, worker, flags, async () => {
    const value = await worker.eval(code, {
      mode: context.isJson ? "value" : "repr",
      onOutput: echo,
      timeout: left(),
      ...(flags.namespace === undefined ? {} : { namespace: flags.namespace }),
    });
    await flushed();
    if (context.isJson) context.print(toJson(value));
    else if (typeof value === "string") context.print(shown(value, 1));
  });
}

/** Arguments are JSON, or else text. */
export async function call(
  context: Context,
  name: string,
  fn: string,
  args: readonly string[],
  flags: EvalFlags,
): Promise<number> {
  const left = timeLeft(flags);
  using worker = await open(context, name, left());
  return await ending(context, worker, flags, async () => {
    const value = await worker.callWith(fn, args.map(parseArgument), { timeout: left() });
    if (value !== null && typeof value === "object" && Symbol.asyncIterator in value) {
      const items: unknown[] = [];
      for await (const item of value as AsyncIterable<unknown>)
        if (flags.stream) context.print(toJson(item));
        else items.push(item);
      if (!flags.stream) context.print(toJson(items));
    } else context.print(toJson(value));
  });
}

export type TypesFlags = {
  readonly interpreter?: string;
  readonly tools?: boolean;
  readonly for?: string;
  readonly toolGroup?: string;
};

/** Of a script, or of the tools of plugins. */
export async function types(context: Context, script: string | undefined, flags: TypesFlags): Promise<number> {
  const { interpreter, tools = false, for: language, toolGroup } = flags;
  if (tools === (script !== undefined) || (!tools && (language ?? toolGroup) !== undefined) || (tools && interpreter))
    throw new IpcError("USAGE", "types: give either a script, or --tools with --for and --tool-group", {
      hint: "ipcctl types --tools --for python > tools.py",
    });
  if (script !== undefined) return await scriptTypes(context, script, interpreter);
  const { toolTypes } = await import("./tool-types.ts");
  return await toolTypes(context, language ?? "ts", toolGroup);
}

/** Python's own parser reads the script; nothing of it runs. */
async function scriptTypes(context: Context, script: string, interpreter = "python3"): Promise<number> {
  const path = context.resolve(script);
  if (!existsSync(path)) throw new IpcError("NOT_FOUND", `types: ${script}: no such file`);
  const child = Bun.spawn([...splitWords(interpreter), "-P", "-m", "ipcctl._types_of", path], {
    env: { ...process.env, PYTHONPATH: PYTHON_PACKAGES },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const [text, problem] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  if ((await child.exited) !== 0)
    throw new IpcError("FAILED", `types: ${script} cannot be read: ${problem.trim().split("\n").at(-1)}`);
  context.print(text.trimEnd());
  return 0;
}

/** Evaluates each line from the keyboard; an unfinished statement continues on the next line. Ctrl-D leaves. */
export async function repl(context: Context, name: string): Promise<number> {
  using worker = await open(context, name);
  const { python, pid } = worker.hello;
  const isTyped = process.stdin.isTTY;
  if (isTyped) context.note(`Python ${python} of ${name} (pid ${pid}); Ctrl-C interrupts the code, Ctrl-D leaves`);
  const lines = createInterface({
    input: process.stdin,
    output: isTyped ? process.stdout : undefined,
    terminal: isTyped,
  });
  lines.on("SIGINT", () => worker.interrupt());
  let held = "";
  const prompt = (): void => {
    if (!isTyped) return;
    lines.setPrompt(held === "" ? ">>> " : "... ");
    lines.prompt();
  };
  prompt();
  for await (const line of lines) {
    const code = held === "" ? line : `${held}\n${line}`;
    const isMore = line.trim() !== "" && (held !== "" || (await isUnfinished(worker, code)));
    held = isMore ? code : "";
    if (!isMore && code.trim() !== "") await show(context, worker, code);
    prompt();
  }
  return 0;
}

async function show(context: Context, worker: PythonWorker, code: string): Promise<void> {
  try {
    const text = await worker.eval(code, { mode: "repr", onOutput: echo });
    await flushed();
    if (typeof text === "string") context.print(shown(text, 1));
  } catch (error) {
    const { traceback, message } = error as { traceback?: string; message: string };
    if (error instanceof IpcError) throw error;
    process.stderr.write(`${shown(traceback?.trimEnd() ?? message, 2)}\n`);
  }
}

/** Asks Python's `codeop`, which knows a complete statement. */
async function isUnfinished(worker: PythonWorker, code: string): Promise<boolean> {
  const question = `__import__("codeop").compile_command(${JSON.stringify(code)}, "<repl>", "single") is None`;
  try {
    return (await worker.eval(question, { namespace: "ipcctl-repl" })) === true;
  } catch {
    return false; // a syntax error, or a top-level await: it shows when the code runs
  }
}

async function open(context: Context, name: string, left = OPEN_MS): Promise<PythonWorker> {
  const { PythonWorker } = await import("../runtime/python-worker.ts");
  using connection = await context.connect();
  const chosen = pick(await connection.status(), [name]);
  const exact = chosen.filter((worker) => worker.name === name.toLowerCase());
  const [worker, second] = exact.length > 0 ? exact : chosen;
  if (!worker || second)
    throw new IpcError("USAGE", `${JSON.stringify(name)} means ${chosen.length} workers, but only one can be used`, {
      hint: chosen.map((one) => one.name).join(", "),
    });
  if (worker.pid === null)
    throw new IpcError("NOT_RUNNING", `${worker.name} is not running`, { hint: `ipcctl start ${worker.name}` });
  const run = { name: worker.name, shimSocket: join(worker.log_dir, "..", "sock") };
  let isOpened = false;
  const opened = await PythonWorker.open(
    async (attach, timeoutMs) => {
      // What was typed before was lost with its run, and the new run would be mistaken for it.
      if (isOpened)
        throw new IpcError("NOT_RUNNING", `this run of ${run.name} has ended`, {
          hint: `see: ipcctl describe ${run.name}`,
        });
      isOpened = true;
      await attach(run, timeoutMs);
    },
    Math.min(left, OPEN_MS),
  );
  const pids = [worker.pid, opened.hello.pid].filter((pid) => isOf(worker.name, pid));
  const [working] = pids.flatMap((pid) => workingProcess(pid) ?? []);
  if (working !== undefined)
    context.note(
      `this is process ${opened.hello.pid}, which only supervises and restarts ${worker.name}; the program itself is process ${working}.\n` +
        "  to reach that one, start it without its reloader (--noreload, --no-reload), or without --reload and --workers",
    );
  return opened;
}

/** A process in a PID namespace knows itself under another number. */
function isOf(name: string, pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/environ`, "latin1").split("\0").includes(`IPCCTL_NAME=${name}`);
  } catch {
    return false;
  }
}

/** Ctrl-C interrupts the code, not the worker. An exception of the code is shown as Python shows it, with status 1. */
async function ending(
  context: Context,
  worker: PythonWorker,
  flags: EvalFlags,
  work: () => Promise<void>,
): Promise<number> {
  let isInterrupted = false;
  process.on("SIGINT", () => {
    isInterrupted = true;
    worker.interrupt();
  });
  try {
    await work();
    await flushed();
    return 0;
  } catch (error) {
    await atMost(FLUSH_MS, flushed()); // do not wait for a reader that does not read
    if (error instanceof IpcError && error.code === "DEADLINE") throw await outcome(worker, error, timeoutOf(flags));
    const { traceback, type, message } = error as { traceback?: string; type?: string; message: string };
    if (traceback === undefined) throw error;
    if (context.isJson)
      context.fail({ code: "FAILED", message, ...(type === undefined ? {} : { hint: `a ${type} in Python` }) });
    else process.stderr.write(`${shown(traceback.trimEnd(), 2)}\n`);
    return isInterrupted ? INTERRUPTED : 1;
  }
}

/** What a worker says, as harmless to a terminal as its log. */
function shown(text: string, fd: 1 | 2): string {
  if (!isTerminal(fd)) return text;
  const show = (line: string): string => Buffer.from(visible(Buffer.from(line))).toString();
  return text.split("\n").map(show).join("\n");
}

/** What was printed but is not written yet. */
let writing: Promise<void> = Promise.resolve();

/** The worker waits with us for a slow reader. */
function echo(stream: "stdout" | "stderr", text: string): Promise<void> {
  const fd = stream === "stderr" ? 2 : 1;
  writing = writing.then(() => put(fd, Buffer.from(shown(text, fd))));
  return writing;
}

function flushed(): Promise<void> {
  return writing;
}

/** Whether code that exceeded its deadline has ended since. */
async function outcome(worker: PythonWorker, error: IpcError, timeout: number | undefined): Promise<IpcError> {
  // No code had started.
  if (timeout === undefined || !error.message.endsWith("its code was asked to stop")) return error;
  const head = `${worker.name} did not answer within ${timeout / 1000} s`;
  if (await worker.hasStopped(STOP_MS)) return new IpcError("DEADLINE", `${head}; its code was interrupted`);
  return new IpcError(
    "DEADLINE",
    `${head}; its code was asked to stop, and is still in a call that cannot be interrupted`,
    {
      hint: `if it does not end: ipcctl restart ${worker.name}`,
    },
  );
}

function timeoutOf({ timeout }: EvalFlags): number | undefined {
  return timeout === undefined ? undefined : parseDurationMs(timeout, "--timeout");
}

/** Whole milliseconds until the deadline, counted from when the command was given: waiting for a connection counts. */
function timeLeft(flags: EvalFlags): () => number | undefined {
  const timeout = timeoutOf(flags);
  if (timeout === undefined) return () => undefined;
  const deadline = performance.now() + timeout;
  return () => Math.max(1, Math.ceil(deadline - performance.now()));
}

function parseArgument(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}

/** Values without a JSON form are shown as text: integers beyond 2^53, bytes as base64, sets as arrays. */
function toJson(value: unknown): string {
  const replace = (_: string, one: unknown): unknown => {
    if (typeof one === "bigint") return one.toString();
    if (one instanceof Set) return [...one];
    if (one instanceof Map) return [...one];
    if (one instanceof Uint8Array) return Buffer.from(one).toString("base64");
    if (ArrayBuffer.isView(one) && !(one instanceof DataView)) return Array.from(one as unknown as ArrayLike<number>);
    return one;
  };
  return value === undefined ? "null" : jsonText(value, replace);
}
