/** `subscribe`: events as they happen, until interrupted or until the daemon goes. */
import { IpcError } from "../base/errors.ts";
import { SUBSCRIPTIONS } from "../protocol/responses.ts";
import { jsonText, type Context } from "./context.ts";
import { select } from "./select.ts";

const KINDS = new Map<string, string>(Object.entries(SUBSCRIPTIONS));

export async function subscribe(context: Context, what: string, pattern: string | undefined): Promise<number> {
  const kind = KINDS.get(what);
  if (kind === undefined)
    throw new IpcError("USAGE", `subscribe: ${JSON.stringify(what)} is not one of ${[...KINDS.keys()].join(", ")}`);
  using connection = await context.connect();
  const chosen = pattern === undefined ? [] : await select(connection, [pattern]);
  const names = new Set(chosen.map((worker) => worker.name));
  const later = chosen.map((worker) => `${worker.app.toLowerCase()}-`); // instances that scaling will bring
  const isMeant = (name: unknown): boolean =>
    pattern === undefined ||
    typeof name !== "string" ||
    names.has(name) ||
    later.some((start) => name.startsWith(start) && /^\d+$/.test(name.slice(start.length)));
  const ended = Promise.withResolvers<number>();
  using events = await context.connect();
  events.onEvents(
    ({ event_type, data }) => {
      if (isMeant(data.app)) context.print(jsonText({ time: new Date().toISOString(), event: event_type, ...data }));
    },
    (error) => ended.reject(error),
  );
  process.once("SIGINT", () => ended.resolve(0));
  process.once("SIGTERM", () => ended.resolve(0));
  const only = names.size === 1 && chosen[0]!.name !== chosen[0]!.app.toLowerCase() ? chosen[0]!.name : null;
  await events.request({ Subscribe: { subscription: { [kind]: { app_name: only } } } });
  return await ended.promise;
}
