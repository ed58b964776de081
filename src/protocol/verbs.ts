/**
 * The verbs: for each tag the fields that a client sends, the answer, what it does and how much it can change. Requests
 * are parsed with this table, answers are typed by it, and the tables of docs/protocol.md are generated from it. The
 * first nine are bunctl's, accepted as serde accepts them; the rest are ours in the same style.
 */
import { z } from "zod";
import { limit } from "../base/limits.ts";
import {
  actResult,
  approvalPage,
  approvalStatus,
  auditAnchor,
  conversationList,
  credentialCheck,
  credentialStatus,
  daemonStatus,
  entry,
  entryList,
  entrySession,
  fileList,
  filePiece,
  filePut,
  grantStatus,
  greeting,
  logAnswer,
  message,
  messageList,
  pluginList,
  pluginShown,
  prompted,
  published,
  publishedEvent,
  sessionDescription,
  sessionList,
  shownProject,
  toolAnswer,
  task,
  taskRun,
  workerDescription,
  workerStatus,
} from "./answers.ts";
import { OVERLAPS } from "./happenings.ts";
import { ROLES } from "./stored.ts";

/**
 * What a verb can do to the machine: only read; start what its definition says; change or end what runs; decide in the
 * place of a person, which no program is to do by itself.
 */
export type Risk = "read" | "run" | "operate" | "approve";

export type Verb = {
  /** Null for a verb that is a bare string. The order of the fields is that of serde's array form. */
  readonly fields: z.ZodObject | null;
  readonly answer: z.ZodType;
  readonly says: string;
  readonly risk: Risk;
  /** Fields that bunctl does not have: serde's array form may omit them. */
  readonly added?: readonly string[];
};

const name = z.string();
const optionalName = z
  .string()
  .nullish()
  .transform((value) => value ?? null);
const promptText = z
  .string()
  .min(1)
  .refine((text) => !text.includes("\0"), "must not contain a NUL byte");
const names = z.array(z.string()).min(1).max(limit("workers"));
const graceMs = z
  .int()
  .min(0)
  .max(limit("graceMs"))
  .nullish()
  .transform((value) => value ?? null);
const filter = z.union([
  z.object({ app_name: optionalName }),
  z.tuple([optionalName]).transform(([app_name]) => ({ app_name })),
]);

const subscription = z.union([
  z
    .strictObject({ StatusEvents: filter })
    .transform((s) => ({ kind: "status" as const, app: s.StatusEvents.app_name })),
  z.strictObject({ LogEvents: filter }).transform((s) => ({ kind: "logs" as const, app: s.LogEvents.app_name })),
  z.strictObject({ AllEvents: filter }).transform((s) => ({ kind: "all" as const, app: s.AllEvents.app_name })),
  z
    .strictObject({ PublishedEvents: z.object({ topic: optionalName }) })
    .transform((s) => ({ kind: "events" as const, app: null, topic: s.PublishedEvents.topic })),
]);

/** The number of an event, to get those after it; `now` for future events with their numbers. */
const since = z.union([z.int().min(0), z.literal("now")]).nullish();

/** What a connection is subscribed to. */
export type Subscription = z.output<typeof subscription>;

/** `Success`, with fields beside the message that a bunctl client ignores. */
function success<S extends z.ZodRawShape>(
  more: S,
): z.ZodObject<{ Success: z.ZodObject<{ message: z.ZodString } & S, z.core.$strict> }, z.core.$strict> {
  return z.strictObject({ Success: z.strictObject({ message: z.string(), ...more }) });
}

function data<S extends z.ZodType>(
  schema: S,
): z.ZodObject<{ Data: z.ZodObject<{ data: S }, z.core.$strict> }, z.core.$strict> {
  return z.strictObject({ Data: z.strictObject({ data: schema }) });
}

const pid = z.int().nullable();

export const VERBS = {
  Start: {
    fields: z.object({ name, config: z.string() }),
    answer: success({
      name: z.string(),
      pid,
      already_running: z.exactOptional(z.boolean()),
      is_other_definition: z.exactOptional(z.boolean()),
      instances: z.exactOptional(z.array(z.strictObject({ name: z.string(), pid }))),
    }),
    says: "starts an app; an app that runs already is not changed. `config` is a JSON string; the name of the app is the one in it",
    risk: "run",
  },
  Stop: { fields: z.object({ name }), answer: success({}), says: "stops an app, or one instance", risk: "operate" },
  Restart: {
    fields: z.object({ name }),
    answer: success({ pid }),
    says: "restarts an app, or one instance; starts it if it is not running",
    risk: "operate",
  },
  Delete: {
    fields: z.object({ name }),
    answer: success({}),
    says: "stops an app and removes it, with its logs",
    risk: "operate",
  },
  Status: {
    fields: z.object({ name: optionalName }),
    answer: data(z.union([workerStatus, z.array(workerStatus)])),
    says: "returns the state of one worker, or of all if there is no name",
    risk: "read",
  },
  Logs: {
    fields: z.object({ name: optionalName, lines: z.int().min(0) }),
    answer: data(logAnswer),
    says: "returns the newest lines, oldest first; the last one may be text that waits for its newline",
    risk: "read",
  },
  Subscribe: {
    fields: z.object({ subscription, since }),
    answer: success({ seq: z.exactOptional(z.int().min(0)) }),
    says: "`Event`s follow the answer; another Subscribe replaces this one. `since` asks for their numbers, and for the stored events after a number",
    risk: "read",
    added: ["since"],
  },
  List: { fields: null, answer: data(z.array(z.string())), says: "returns the names of all workers", risk: "read" },
  Unsubscribe: {
    fields: null,
    answer: success({}),
    says: "ends a subscription: no event follows the answer",
    risk: "read",
  },
  Hello: {
    fields: z.object({ protocol: z.int().min(0), client: z.string().max(128) }),
    answer: data(greeting),
    says: "greets, and agrees on the protocol",
    risk: "read",
  },
  Describe: {
    fields: z.object({ name }),
    answer: data(workerDescription),
    says: "returns everything known about one worker",
    risk: "read",
  },
  Act: {
    fields: z.object({
      verb: z.enum(["start", "stop", "restart", "reload", "delete", "flush", "signal"]),
      names,
      /**
       * Apps whose instances are all meant, however many there are when the turn comes; the present ones are among the
       * names.
       */
      apps: z.array(z.string()).max(limit("workers")).default([]),
      grace_ms: graceMs,
      is_parallel: z.boolean().default(false),
      wait_ms: z.int().min(0).max(limit("graceMs")).default(0),
      /** By name or number; only for the verb `signal`. */
      signal: z.string().default(""),
    }),
    answer: data(z.array(actResult)),
    says:
      "applies one verb to several workers, in the order of their dependencies. Names are exact: instances, not apps. " +
      "`apps` names apps whose instances are all meant, however many there are when the verb has its turn",
    risk: "operate",
  },
  Scale: {
    fields: z.object({ name, instances: z.int().min(1).max(limit("instances")) }),
    answer: success({}),
    says: "changes the number of instances of an app",
    risk: "operate",
  },
  WaitReady: {
    fields: z.object({ names, timeout_ms: z.int().min(0).max(limit("graceMs")) }),
    answer: success({}),
    says: "waits until each is running, and ready if it reports that",
    risk: "read",
  },
  DaemonStatus: {
    fields: null,
    answer: data(daemonStatus),
    says: "returns the state of the daemon itself",
    risk: "read",
  },
  AuditAnchors: {
    fields: null,
    answer: data(z.array(auditAnchor)),
    says: "returns lines of the chained audit that must be there as they were: the first of each file, and the newest one",
    risk: "read",
  },
  AuthAdd: {
    fields: z.object({ name, plugin: optionalName, value: z.string() }),
    answer: success({ name: z.string() }),
    says: "stores a credential. Its name is PLUGIN/NAME, or the name alone if it is one of the host",
    risk: "operate",
  },
  AuthLogin: {
    fields: z.object({
      name,
      plugin: optionalName,
      token_url: z.string(),
      client_id: z.string(),
      device_url: optionalName,
      scope: optionalName,
      access_token: z.string(),
      refresh_token: optionalName,
      expires_in: z.int().min(0).nullable(),
    }),
    answer: success({ name: z.string() }),
    says: "stores the tokens that an OAuth login gave, in the place of earlier ones; they are renewed at `token_url`. Once they cannot be, `device_url` and `scope` are in the command that logs in again",
    risk: "operate",
  },
  AuthVerify: {
    fields: z.object({ names: z.array(z.string()).max(limit("credentials")) }),
    answer: data(z.array(credentialCheck)),
    says: "tries whether credentials can be used, without names all: each is opened, and a login is renewed",
    risk: "operate",
  },
  AuthList: {
    fields: null,
    answer: data(z.array(credentialStatus)),
    says: "tells of each credential when it was set and used, and nothing of its value",
    risk: "operate",
  },
  AuthRemove: { fields: z.object({ name }), answer: success({}), says: "forgets a credential", risk: "operate" },
  AuthRotate: {
    fields: z.object({ name, value: z.string() }),
    answer: success({}),
    says: "replaces the value of a credential; the old one is taken out of what plugins say for a day more",
    risk: "operate",
  },
  AuthRotateKey: {
    fields: null,
    answer: success({ count: z.int().min(0) }),
    says: "makes a new key, and seals all credentials with it",
    risk: "operate",
  },
  PluginList: {
    fields: null,
    answer: data(pluginList),
    says: "tells of each plugin what it provides, its state and what is wrong with it; and which folders are left out",
    risk: "read",
  },
  PluginShow: {
    fields: z.object({ name }),
    answer: data(pluginShown),
    says: "tells of one plugin also its config, and what is new in its folder since it was accepted",
    risk: "read",
  },
  PluginAccept: {
    fields: z.object({ name, digest: z.string().regex(/^[0-9a-f]{64}$/) }),
    answer: success({ digest: z.string() }),
    says: "copies the folder of a plugin, and lets that copy run from then on; an error if its digest is another one",
    risk: "operate",
  },
  PluginCall: {
    fields: z.object({ tool: z.string(), arguments: z.record(z.string(), z.json()), group: optionalName }),
    answer: data(toolAnswer),
    says: "calls a tool as this user, through all stages; `group` is whose data it works on",
    risk: "operate",
  },
  PluginProvide: {
    fields: z.object({
      name,
      tools: z.array(z.record(z.string(), z.json())).max(limit("pluginTools")),
      skill: z
        .string()
        .refine((text) => Buffer.byteLength(text) <= limit("skillBytes"), `at most ${limit("skillBytes")} bytes`)
        .nullish()
        .transform((value) => value ?? null),
      groups: z
        .array(z.string().min(1))
        .min(1)
        .max(limit("provisionGroups"))
        .nullish()
        .transform((value) => value ?? null),
    }),
    answer: success({ label: z.string(), socket: z.string() }),
    says: "lets the caller provide tools as a plugin of this name would, to workers of these tool groups, or to the ephemeral ones that it owns: it serves them on a channel that it opens under the label by this socket of a shim",
    risk: "operate",
  },
  PluginReload: {
    fields: z.object({ name }),
    answer: success({}),
    says: "ends the process of a plugin once nothing is under way in it; the next call starts what is accepted then",
    risk: "operate",
  },
  PluginVerify: {
    fields: z.object({ names: z.array(z.string()) }),
    answer: data(z.array(credentialCheck)),
    says: "has plugins try their credentials and services; all of them if there is no name",
    risk: "run",
  },
  PluginSwitch: {
    fields: z.object({ name, enabled: z.boolean() }),
    answer: success({}),
    says: "switches a plugin on or off, in host.json",
    risk: "operate",
  },
  PluginRemove: {
    fields: z.object({ name, data: z.boolean().default(false) }),
    answer: success({ left: z.string().nullable() }),
    says: "forgets a plugin, with its folder if that lies in `plugins/`, and with `data` also what it stored; `left` is a folder elsewhere, which stays",
    risk: "operate",
  },
  ListFiles: {
    fields: z.object({ group: name, conversation_id: optionalName, name: optionalName, after: optionalName }),
    answer: data(fileList),
    says: "lists project files of a group, oldest first: those of a conversation and of the whole project, or all; `after` is the `next` of the page before",
    risk: "read",
  },
  ReadFile: {
    fields: z.object({ group: name, id: name, offset: z.int().min(0).default(0), version: optionalName }),
    answer: data(filePiece),
    says: "reads a piece of a project file, in base64. With `version` it fails if the content was replaced since the piece before",
    risk: "read",
  },
  PutFile: {
    fields: z.object({
      ...{ group: name, name: optionalName, id: optionalName, conversation_id: optionalName, media_type: optionalName },
      ...{
        content: z.base64(),
        upload: optionalName,
        offset: z.int().min(0).default(0),
        more: z.boolean().default(false),
      },
    }),
    answer: data(filePut),
    says: "writes a project file, as a whole or in pieces: with `more` it answers the `upload` for the next one, and the file is seen when the last one has come",
    risk: "operate",
  },
  DeleteFile: {
    fields: z.object({ group: name, id: name }),
    answer: success({}),
    says: "deletes a project file",
    risk: "operate",
  },
  ShowProject: {
    fields: z.object({ group: name, conversation_id: optionalName }),
    answer: data(shownProject),
    says: "tells what was set for a project, and for one of its conversations",
    risk: "read",
  },
  SetProject: {
    fields: z.object({ group: name, conversation_id: optionalName, values: z.record(z.string(), z.json()) }),
    answer: success({}),
    says: "sets values of a project or of a conversation beside those that are there; null removes one",
    risk: "operate",
  },
  ListConversations: {
    fields: z.object({ group: name, after: optionalName }),
    answer: data(conversationList),
    says: "lists the conversations of a project by their ids",
    risk: "read",
  },
  ReadMessages: {
    fields: z.object({ group: name, conversation_id: name, before: z.int().min(1).nullish() }),
    answer: data(messageList),
    says: "gives the newest messages of a conversation, oldest first; `before` is the `next` of the page before",
    risk: "read",
  },
  AddMessage: {
    fields: z.object({ group: name, conversation_id: name, role: z.enum(ROLES), text: z.string() }),
    answer: data(message),
    says: "adds a message to a conversation, which begins with its first one",
    risk: "operate",
  },
  Publish: {
    fields: z.object({ topic: name, data: z.json().default(null), key: optionalName }),
    answer: data(published),
    says: "stores an event, which the rules of host.json start sessions for. Within a week an event of the same topic and `key` is the same event, and is not stored again",
    risk: "run",
  },
  WaitEvent: {
    fields: z.object({ id: name, timeout_ms: z.int().min(0).max(limit("graceMs")) }),
    answer: data(z.array(entry)),
    says: "waits until nothing of an event waits or runs any more, and tells what became of it by each rule",
    risk: "read",
  },
  AddTask: {
    fields: z.object({
      ...{ name, cron: z.string(), timezone: optionalName, overlap: z.enum(OVERLAPS).default("skip") },
      ...{
        catch_up: z.boolean().default(false),
        publish: optionalName,
        data: z.json().default(null),
        prompt: promptText.nullish().transform((value) => value ?? null),
      },
    }),
    answer: data(task),
    says: "adds a task, which publishes an event whenever it comes due, or asks by a `prompt`; without `timezone` in the zone of the daemon",
    risk: "operate",
  },
  ListTasks: { fields: null, answer: data(z.array(task)), says: "lists all tasks by name", risk: "read" },
  ReadTaskRuns: {
    fields: z.object({ name, count: z.int().min(1).max(limit("taskRuns")).default(limit("taskRuns")) }),
    answer: data(z.array(taskRun)),
    says: "gives the newest runs of a task, newest first, also those that were missed or skipped",
    risk: "read",
  },
  RunTask: {
    fields: z.object({ name }),
    answer: data(taskRun),
    says: "begins a run of a task now, paused or not",
    risk: "run",
  },
  PauseTask: {
    fields: z.object({ name }),
    answer: data(task),
    says: "keeps a task from coming due; what runs goes on",
    risk: "operate",
  },
  ResumeTask: {
    fields: z.object({ name }),
    answer: data(task),
    says: "lets a task come due again; nothing counts as missed meanwhile",
    risk: "operate",
  },
  RemoveTask: {
    fields: z.object({ name }),
    answer: success({}),
    says: "removes a task with the record of its runs, and ends what runs of it",
    risk: "operate",
  },
  ListQueue: {
    fields: z.object({ dead: z.boolean().default(false), group: optionalName, after: optionalName }),
    answer: data(entryList),
    says: "lists what waits or runs, or the dead letters, oldest first; `after` is the `next` of the page before",
    risk: "read",
  },
  ReadQueue: {
    fields: z.object({ id: name }),
    answer: data(z.strictObject({ entry, event: publishedEvent })),
    says: "tells everything of one entry of the queue",
    risk: "read",
  },
  RetryQueue: {
    fields: z.object({ ids: z.array(z.string()).max(limit("storeRows")) }),
    answer: success({ count: z.int().min(0) }),
    says: "tries again what is dead or has failed, without ids all dead letters",
    risk: "run",
  },
  DropQueue: {
    fields: z.object({ ids: z.array(z.string()).min(1).max(limit("storeRows")) }),
    answer: success({}),
    says: "forgets entries of the queue that do not run",
    risk: "operate",
  },
  Prompt: {
    fields: z.object({
      text: promptText,
      ...{ rule: optionalName, session: optionalName },
    }),
    answer: data(prompted),
    says: "publishes `message.inbound` for the rule of prompts, or for the named one: its session is started once, and not tried again. `session` names an earlier one of its group, whose workspace it gets",
    risk: "run",
  },
  WaitSession: {
    fields: z.object({
      entry: name,
      until: z.enum(["started", "ended"]).default("ended"),
      timeout_ms: z.int().min(0).max(limit("graceMs")),
    }),
    answer: data(entrySession),
    says: "tells of an entry of the queue and its newest session: once that has started or ended, or the time is over",
    risk: "read",
  },
  ListSessions: {
    fields: z.object({ group: optionalName, after: optionalName }),
    answer: data(sessionList),
    says: "lists sessions that run or have ended, newest first; `after` is the `next` of the page before",
    risk: "read",
  },
  ReadSession: {
    fields: z.object({ id: name }),
    answer: data(sessionDescription),
    says: "tells what was said in a session: what it was asked, the tools it called, the newest of what it printed; without secrets",
    risk: "read",
  },
  StopSessions: {
    fields: z.object({ ids: z.array(z.string()).min(1).max(limit("storeRows")) }),
    answer: success({ count: z.int().min(0) }),
    says: "ends sessions, which counts as done; an event whose session has not started yet is dropped if its entry of the queue is named",
    risk: "operate",
  },
  ListApprovals: {
    fields: null,
    answer: data(z.array(approvalStatus)),
    says: "lists the calls of high risk that wait for a person, oldest first",
    risk: "read",
  },
  ShowApproval: {
    fields: z.object({ id: name, page: z.int().min(0).default(0) }),
    answer: data(approvalPage),
    says: "shows a call that waits, as a person must see it: in lines that are harmless to a terminal or a page",
    risk: "read",
  },
  DecideApproval: {
    fields: z.object({
      id: name,
      choice: z.enum(["allow", "allow_session", "deny"]),
      /** The first digits of the request's SHA-256, as it was shown. */
      hash: optionalName,
      reason: optionalName,
    }),
    answer: success({}),
    says: "allows or denies a call that waits: once, or for its session with exactly these argument values. `hash` is how the SHA-256 of the call that was shown begins, 12 digits or more; a no needs none",
    risk: "approve",
  },
  ListGrants: {
    fields: null,
    answer: data(z.array(grantStatus)),
    says: "lists what is allowed for sessions that go on",
    risk: "read",
  },
  RevokeGrant: {
    fields: z.object({ id: name }),
    answer: success({}),
    says: "takes a permission for a session back",
    risk: "operate",
  },
  HostListen: {
    fields: z.object({ url: z.string() }),
    answer: success({}),
    says: "makes this connection that of a listener, which passes on what is asked at a URL of loopback; workers with the transport `http` are told that URL, until the connection ends",
    risk: "operate",
  },
  HostAsk: {
    fields: z.object({ token: z.string(), request: z.string(), again: z.boolean().default(false) }),
    answer: data(z.strictObject({ answer: z.string() })),
    says: "passes on what a worker asks of the host, known by its token; the answer is empty for what gives up another request. `again`: an earlier daemon was asked the same, and may have passed it on",
    risk: "run",
  },
  HostDeliver: {
    fields: z.object({ path: z.string(), headers: z.record(z.string(), z.string()), body: z.base64() }),
    answer: data(published),
    says: "passes on what was sent to a webhook of host.json, with its headers by names in small letters; an event is published if it is signed",
    risk: "run",
  },
  Shutdown: {
    fields: z.object({ keep_workers: z.boolean() }),
    answer: success({}),
    says: "ends the daemon after the answer, and its workers unless `keep_workers` is true",
    risk: "operate",
  },
} as const satisfies Record<string, Verb>;

type Verbs = typeof VERBS;

export type Tag = keyof Verbs;

type Parsed<F> = F extends z.ZodObject ? Readonly<z.output<F>> : unknown;

/** A request by tag, with its fields beside it. */
export type Request = { [T in Tag]: { readonly tag: T } & Parsed<Verbs[T]["fields"]> }[Tag];

/** The request with one tag. */
export type RequestOf<T extends Tag> = { readonly tag: T } & Parsed<Verbs[T]["fields"]>;

/** What a client sends with a tag. */
export type FieldsOf<T extends Tag> = Verbs[T]["fields"] extends z.ZodObject ? z.input<Verbs[T]["fields"]> : null;

/** What the daemon answers to it, unless it fails. */
export type AnswerOf<T extends Tag> = z.output<Verbs[T]["answer"]>;
