/** `subscribe`: prints events as they happen, until interrupted or until the daemon ends. */
import { IpcError } from "../base/errors.ts";
import { shellWord } from "../base/shell-words.ts";
import { parseCount, parseMomentMs } from "../base/units.ts";
import { SUBSCRIPTIONS } from "../protocol/responses.ts";
import { jsonText, type Context } from "./context.ts";
import { select } from "./select.ts";

export type SubscribeFlags = { since?: string; topic?: string };

type Topic = keyof typeof SUBSCRIPTIONS;

const isTopic = (text: string): text is Topic => Object.hasOwn(SUBSCRIPTIONS, text);

export async function subscribe(
  context: Context,
  asked: string | undefined,
  pattern: string | undefined,
  flags: SubscribeFlags,
): Promise<number> {
  const what = asked ?? (flags.topic === undefined ? "all" : "events");
  if (!isTopic(what))
    throw new IpcError(
      "USAGE",
      `subscribe: ${JSON.stringify(what)} is not one of ${Object.keys(SUBSCRIPTIONS).join(", ")}`,
    );
  if (flags.topic !== undefined && what !== "events")
    throw new IpcError("USAGE", `subscribe: --topic chooses published events, and not ${what}`, {
      hint: `ipcctl subscribe events --topic ${shellWord(flags.topic)}`,
    });
  if (pattern !== undefined && what === "events")
    throw new IpcError("USAGE", `subscribe: published events are of no worker, and not of ${JSON.stringify(pattern)}`, {
      hint: "--topic chooses among them",
    });
  const { since, fromMs } = parseSince(flags.since);
  using connection = await context.connect();
  const chosen = pattern === undefined ? [] : await select(connection, [pattern]);
  const names = new Set(chosen.map((worker) => worker.name));
  const later = chosen.map((worker) => `${worker.app.toLowerCase()}-`); // instances that a later scale adds
  const isMeant = (name: unknown): boolean =>
    pattern === undefined ||
    typeof name !== "string" ||
    names.has(name) ||
    later.some((start) => name.startsWith(start) && /^\d+$/.test(name.slice(start.length)));
  const ended = Promise.withResolvers<number>();
  using events = await context.connect();
  events.onEvents(
    ({ event_type, data, seq, time = new Date().toISOString() }) => {
      if (!isMeant(data.app) || Date.parse(time) < fromMs) return;
      context.print(jsonText({ ...(seq === undefined ? {} : { seq }), time, event: event_type, ...data }));
    },
    (error) => ended.reject(error),
  );
  process.once("SIGINT", () => ended.resolve(0));
  process.once("SIGTERM", () => ended.resolve(0));
  const only = names.size === 1 && chosen[0]!.name !== chosen[0]!.app.toLowerCase() ? chosen[0]!.name : null;
  await events.subscribe(what, flags.topic ?? only, since);
  return await ended.promise;
}

/** A number is that of an event, anything else a time: of all that are held, those since then are printed. */
function parseSince(text: string | undefined): { readonly since: number | "now"; readonly fromMs: number } {
  if (text === undefined) return { since: "now", fromMs: 0 };
  if (/^\d+$/.test(text)) return { since: parseCount(text, "--since"), fromMs: 0 };
  return { since: 0, fromMs: parseMomentMs(text, "--since", Date.now()) };
}
