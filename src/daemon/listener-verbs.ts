/** The verbs of listeners: who they are, what a worker asks by them, and what a webhook has delivered. */
import type { AuditSpool } from "../audit/spool.ts";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { parseCredentialName } from "../desk/credential-name.ts";
import type { Credentials } from "../desk/credentials.ts";
import { contentOf, readSigned } from "../host/webhook.ts";
import { data, success } from "../protocol/responses.ts";
import type { AnswerOf, RequestOf, Tag } from "../protocol/verbs.ts";
import type { HostCalls } from "./host-calls.ts";
import type { HostEvents } from "./host-events.ts";
import type { Listeners } from "./listeners.ts";
import type { VerbTable } from "./verb-table.ts";

export type ListenerDeps = {
  readonly listeners: Listeners;
  readonly hostCalls: HostCalls;
  readonly events: () => Promise<HostEvents>;
  readonly credentials: () => Promise<Credentials>;
  readonly audit: AuditSpool;
};

export type ListenerTag = Extract<Tag, `Host${string}`>;

export const LISTENER_HANDLERS: VerbTable<ListenerTag, ListenerDeps, { readonly connection: number }> = {
  HostListen: async ({ url }, { listeners }, { connection }) => {
    listeners.add(connection, url);
    return success(`Workers that ask by http are told ${url}`);
  },
  HostAsk: async ({ token, request, again }, { listeners, hostCalls }) => {
    const answer = await hostCalls.askBy(token, request, again);
    if (answer !== undefined) return data({ answer });
    listeners.refused({ event: "tool", reason: "the token is none of a run that goes on" });
    throw new IpcError("NO_PERMISSION", "this is not the token of a run that goes on");
  },
  HostDeliver: deliver,
};

/** Stands in where there is no secret, so that it takes as long. */
const NO_SECRET = "no webhook has this path";

async function deliver(
  { path, headers, body: encoded }: RequestOf<"HostDeliver">,
  { listeners, events, credentials, audit }: ListenerDeps,
): Promise<AnswerOf<"HostDeliver">> {
  const host = await events();
  const webhook = host.webhooks.find((one) => one.path === path);
  const body = Buffer.from(encoded, "base64");
  const { secret, trouble } =
    webhook === undefined ? { secret: NO_SECRET, trouble: "no webhook has this path" } : await secretOf(webhook.secret);
  const signed = readSigned({ headers, body }, secret, Date.now());
  if (webhook === undefined || trouble !== undefined || signed === undefined) {
    const reason = trouble ?? "it is not signed by the secret of this webhook";
    listeners.refused({ event: "webhook", reason, ...(webhook === undefined ? {} : { path }) });
    throw new IpcError("NO_PERMISSION", "the delivery is refused");
  }
  const { topic } = webhook;
  const content = contentOf(body);
  if (content === undefined) throw new IpcError("USAGE", "the delivery is not UTF-8");
  // The sender's fault, unlike all that may be full here.
  if (Buffer.byteLength(JSON.stringify(content.data)) > limit("eventBytes"))
    throw new IpcError("USAGE", `as JSON the delivery has more than ${limit("eventBytes")} bytes`);
  const { id, isNew } = host
    .open()
    .dispatcher.publish({ topic, ...content, key: signed.key, source: `webhook ${path}` });
  audit.write({
    worker: "",
    event: "webhook",
    verdict: "granted",
    path,
    request: id,
    ...(isNew ? {} : { reason: "it was delivered before" }),
  });
  return data({ id, is_new: isNew });

  async function secretOf(name: string): Promise<{ secret: string; trouble?: string }> {
    try {
      return { secret: await (await credentials()).use(parseCredentialName(name)) };
    } catch (error) {
      return { secret: NO_SECRET, trouble: IpcError.from(error).message };
    }
  }
}
