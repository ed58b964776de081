/** Commands that change workers: stop, restart, reload, delete, flush, signal, scale. */
import { ERROR_CODES, isErrorCode } from "../base/errors.ts";
import type { ActResult } from "../protocol/status.ts";
import { printable, type Context } from "./context.ts";
import { select } from "./select.ts";

export type ActOptions = {
  readonly graceMs?: number;
  readonly isParallel?: boolean;
  readonly waitMs?: number;
  readonly signal?: string;
};

/** One verb on everything that the patterns mean. The exit status is that of the first failure. */
export async function act(
  context: Context,
  verb: string,
  patterns: readonly string[],
  options: ActOptions = {},
): Promise<number> {
  using connection = await context.connect();
  const names = (await select(connection, patterns)).map((worker) => worker.name);
  if (names.length === 0) {
    if (context.isJson) context.print("[]");
    else context.note("no workers");
    return 0;
  }
  const results = await connection.query<ActResult[]>({
    Act: {
      verb,
      names,
      grace_ms: options.graceMs ?? null,
      is_parallel: options.isParallel ?? false,
      wait_ms: options.waitMs ?? 0,
      signal: options.signal ?? "",
    },
  });
  return report(context, results);
}

function report(context: Context, results: readonly ActResult[]): number {
  if (context.isJson) context.print(JSON.stringify(results, null, 2));
  const failed = results.filter((result) => !result.ok);
  for (const result of context.isJson ? [] : results)
    if (result.ok) context.print(`${printable(result.name)}: ${printable(result.message)}`);
  for (const { name, code = "FAILED", message, hint } of failed) {
    const error = { code, message: `${name}: ${message}`, ...(hint === undefined ? {} : { hint }) };
    context.fail(error);
  }
  const code = failed[0]?.code;
  return failed.length === 0 ? 0 : isErrorCode(code) ? ERROR_CODES[code].exit : 1;
}

/** So many instances of each app that the pattern means. */
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
