/** `subscribe`: events as they happen, until interrupted or until the daemon goes. */
import { IpcError } from "../base/errors.ts";
import type { Context } from "./context.ts";

const KINDS: Record<string, string> = { status: "StatusEvents", logs: "LogEvents", all: "AllEvents" };

export async function subscribe(context: Context, what: string, name: string | undefined): Promise<number> {
  const kind = KINDS[what];
  if (kind === undefined)
    throw new IpcError("USAGE", `subscribe: ${JSON.stringify(what)} is not one of ${Object.keys(KINDS).join(", ")}`);
  using connection = await context.connect();
  const ended = Promise.withResolvers<number>();
  connection.onEvents(
    (event) => context.print(JSON.stringify({ event: event.event_type, ...event.data })),
    (error) => ended.reject(error),
  );
  process.once("SIGINT", () => ended.resolve(0));
  process.once("SIGTERM", () => ended.resolve(0));
  await connection.request({ Subscribe: { subscription: { [kind]: { app_name: name ?? null } } } });
  return await ended.promise;
}
