/** Commands that change workers: stop, restart, reload, delete, flush, scale, signal. */
import { ERROR_CODES, isErrorCode } from "../base/errors.ts";
import type { Response } from "../protocol/responses.ts";
import type { ActResult } from "../protocol/status.ts";
import { printable, type Context } from "./context.ts";
import { select } from "./select.ts";

export type ActOptions = { readonly graceMs?: number; readonly isParallel?: boolean; readonly waitMs?: number };

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
    context.note("no workers");
    return 0;
  }
  const results = await connection.query<ActResult[]>({
    Act: {
      verb,
      names,
      grace_ms: options.graceMs ?? null,
      is_parallel: options.isParallel ?? false,
      wait_ms: options.waitMs ?? 0,
    },
  });
  if (context.isJson) context.print(JSON.stringify(results, null, 2));
  for (const result of context.isJson ? [] : results) {
    const line = `${printable(result.name)}: ${printable(result.message)}`;
    if (result.ok) context.print(line);
    else context.note(`ipcctl: ${line}${result.hint === undefined ? "" : `\n  ${result.hint}`}`);
  }
  const failed = results.find((result) => !result.ok);
  if (!failed) return 0;
  return isErrorCode(failed.code) ? ERROR_CODES[failed.code].exit : 1;
}

/** A request that is answered with one sentence. */
export async function tell(context: Context, request: unknown): Promise<number> {
  using connection = await context.connect();
  printMessage(context, await connection.request(request));
  return 0;
}

export async function signal(context: Context, patterns: readonly string[], signalName: string): Promise<number> {
  using connection = await context.connect();
  const names = (await select(connection, patterns)).map((worker) => worker.name);
  printMessage(context, await connection.request({ Signal: { names, signal: signalName } }));
  return 0;
}

function printMessage(context: Context, response: Response): void {
  if (!("Success" in response)) return;
  if (context.isJson) context.print(JSON.stringify(response.Success));
  else context.print(printable(response.Success.message));
}
