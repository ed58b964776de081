/** Commands that change workers: stop, restart, reload, delete, flush, signal and scale. */
import { ERROR_CODES, IpcError, isErrorCode } from "../base/errors.ts";
import { type ActResult, type WorkerStatus } from "../protocol/status.ts";
import type { Connection } from "../sdk/connection.ts";
import type { ActOptions, ActVerb } from "../sdk/verbs.ts";
import { printable, type Context } from "./context.ts";
import { isGlob, matches, pick, select } from "./select.ts";

/** One verb on everything that the patterns match. The exit status is that of the first failure. */
export async function act(
  context: Context,
  verb: ActVerb,
  patterns: readonly string[],
  options: Omit<ActOptions, "apps"> = {},
): Promise<number> {
  using connection = await context.connect();
  const all = await connection.status();
  const isStray = verb === "delete" && (await deleteStray(connection, all, patterns));
  if (isStray) return report(context, [{ name: patterns[0]!, ok: true, message: "deleted" }]);
  const chosen = pick(all, patterns);
  const names = chosen.map((worker) => worker.name);
  if (names.length === 0) {
    if (context.isJson) context.print("[]");
    else context.note("there are no workers");
    return 0;
  }
  const results = await connection.act(verb, names, { ...options, apps: wholeApps(all, chosen) });
  return report(context, results);
}

/** Apps whose instances were all chosen: the number of their instances may change until the verb's turn comes. */
function wholeApps(all: readonly WorkerStatus[], chosen: readonly WorkerStatus[]): string[] {
  const isWhole = ({ app }: WorkerStatus): boolean =>
    all.filter((one) => one.app === app).every((one) => chosen.includes(one));
  return chosen.filter((worker) => worker.instance === 0 && isWhole(worker)).map((worker) => worker.name);
}

/** A worker that the daemon does not know may still run in its folder. */
async function deleteStray(
  connection: Connection,
  all: readonly WorkerStatus[],
  patterns: readonly string[],
): Promise<boolean> {
  const [name] = patterns;
  if (name === undefined || patterns.length > 1 || isGlob(name) || name === "all" || name.startsWith("@")) return false;
  if (all.some((worker) => matches(worker, name))) return false;
  try {
    await connection.delete(name);
    return true;
  } catch (error) {
    if (error instanceof IpcError && error.code === "NOT_FOUND") return false; // the usual case: a typo
    throw error;
  }
}

/** Prints a result for each worker. The exit status is that of the first failure. */
export function report(context: Context, results: readonly ActResult[]): number {
  if (context.isJson) context.print(JSON.stringify(results, null, 2));
  const failed = results.filter((result) => !result.ok);
  for (const result of context.isJson ? [] : results)
    if (result.ok) context.print(`${printable(result.name)}: ${printable(result.message)}`);
  for (const { name, code = "FAILED", message, hint, output = [] } of failed) {
    const error = { code, message: `${name}: ${message}`, output, ...(hint === undefined ? {} : { hint }) };
    context.fail(error);
  }
  const code = failed[0]?.code;
  return failed.length === 0 ? 0 : isErrorCode(code) ? ERROR_CODES[code].exit : 1;
}

/** Sets the number of instances of each app that the pattern matches. */
export async function scale(context: Context, pattern: string, instances: number): Promise<number> {
  using connection = await context.connect();
  const apps = new Set((await select(connection, [pattern])).map((worker) => worker.app));
  for (const name of apps) {
    const response = await connection.request({ Scale: { name, instances } });
    if (!("Success" in response)) continue;
    context.print(context.isJson ? JSON.stringify(response.Success) : printable(response.Success.message));
  }
  return 0;
}
