/**
 * The contents of answers, as schemas: the daemon answers with exactly these keys. The types that programs see are in
 * status.ts.
 */
import { z } from "zod";
import { PLUGIN_STATES, type PluginLeftOut, type PluginShown, type PluginStatus } from "./status.ts";
import type {
  ActResult,
  AuditAnchor,
  CallStatus,
  CredentialCheck,
  CredentialStatus,
  DaemonStatus,
  ExitInfo,
  Greeting,
  LogAnswer,
  LogLines,
  WorkerDescription,
  WorkerStatus,
} from "./status.ts";
import type { ApprovalPage, ApprovalStatus, GrantStatus } from "./approval-answers.ts";
import { KIND_NAMES, LIVES } from "./kinds.ts";
import {
  ENTRY_STATES,
  OVERLAPS,
  RUN_STATES,
  type EntryInfo,
  type EntryList,
  type EventInfo,
  type PublishedInfo,
  type TaskInfo,
  type TaskRunInfo,
} from "./happenings.ts";
import {
  SESSION_MODES,
  SESSION_STATES,
  type EntrySession,
  type PromptInfo,
  type SessionCall,
  type SessionDescription,
  type SessionInfo,
  type SessionLine,
  type SessionList,
} from "./session-answers.ts";
import {
  ROLES,
  type Conversation,
  type ConversationList,
  type FileList,
  type FilePiece,
  type FilePut,
  type Message,
  type MessageList,
  type Project,
  type StoredFile,
} from "./stored.ts";

/** An object with exactly the keys of the type: a key that is added there, or misspelt here, does not compile. */
type ShapeOf<T> = { [K in keyof T]-?: z.ZodType<T[K]> };

const text = z.string();
const count = z.int().min(0);
const orNull = <S extends z.ZodType>(schema: S): z.ZodNullable<S> => z.nullable(schema);

const callStatus: z.ZodType<CallStatus> = z
  .strictObject({
    channels: count,
    waiting: count,
    total: count,
    errors: count,
    bytes_in: count,
    bytes_out: count,
    seconds: orNull(z.number()),
    latency_us: z.strictObject({
      p50: orNull(z.number()),
      p90: orNull(z.number()),
      p99: orNull(z.number()),
      histogram: z.array(count),
    } satisfies ShapeOf<CallStatus["latency_us"]>),
  } satisfies ShapeOf<CallStatus>)
  .meta({ id: "CallStatus" });

const workerShape = {
  name: text,
  state: z.enum(["Starting", "Running", "Stopping", "Stopped", "Crashed", "Backoff"]),
  pid: orNull(z.int()),
  restarts: count,
  auto_start: z.boolean(),
  command: text,
  args: z.array(text),
  cwd: orNull(text),
  restart_policy: z.enum(["No", "Always", "OnFailure", "UnlessStopped"]),
  last_exit_code: orNull(z.int()),
  uptime_seconds: orNull(z.number()),
  max_memory: orNull(z.number()),
  max_cpu_percent: orNull(z.number()),
  max_restart_attempts: orNull(count),
  backoff_exhausted: z.boolean(),
  env: z.record(text, text),
  memory_bytes: orNull(z.number()),
  cpu_percent: orNull(z.number()),
  app: text,
  instance: count,
  group: orNull(text),
  kind: z.enum(KIND_NAMES),
  life: z.enum(LIVES),
  stdio: orNull(z.literal("caller")),
  owner: orNull(text),
  policy: text,
  denied: z.array(text),
  ready: orNull(z.boolean()),
  health: orNull(z.enum(["healthy", "unhealthy", "starting"])),
  shim_pid: orNull(z.int()),
  shim_version: orNull(count),
  log_bytes: count,
  log_dropped_lines: count,
  log_blocked: z.boolean(),
  log_dir: text,
  degraded: z.array(text),
  last_exit_signal: orNull(text),
  started_at: orNull(text),
  status_text: orNull(text),
  calls: orNull(callStatus),
  reason: orNull(text),
} satisfies ShapeOf<WorkerStatus>;

export const workerStatus: z.ZodType<WorkerStatus> = z.strictObject(workerShape).meta({ id: "WorkerStatus" });

const exitInfo: z.ZodType<ExitInfo> = z
  .strictObject({
    run: count,
    pid: orNull(z.int()),
    kind: z.enum(["exit", "signal", "exec", "lost"]),
    status: z.int(),
    signal: orNull(text),
    step: orNull(text),
    started_at: orNull(text),
    ended_at: text,
    stop_requested: z.boolean(),
    kill_method: text,
    tree_killed: count,
    max_rss_bytes: count,
    cpu_seconds: z.number(),
    outcome: text,
  } satisfies ShapeOf<ExitInfo>)
  .meta({ id: "ExitInfo" });

export const workerDescription: z.ZodType<WorkerDescription> = z
  .strictObject({
    ...workerShape,
    definition: z.record(text, z.unknown()),
    exits: z.array(exitInfo),
    log_files: z.array(z.strictObject({ path: text, bytes: count })),
    limits: z.array(
      z.strictObject({ name: text, value: z.number(), mechanism: text, is_approximate: z.boolean() } satisfies ShapeOf<
        WorkerDescription["limits"][number]
      >),
    ),
    tree: z.array(z.strictObject({ pid: z.int(), command: text })),
  } satisfies ShapeOf<WorkerDescription>)
  .meta({ id: "WorkerDescription" });

export const daemonStatus: z.ZodType<DaemonStatus> = z
  .strictObject({
    version: text,
    protocol: count,
    pid: z.int(),
    uptime_seconds: z.number(),
    socket: text,
    state_dir: text,
    daemon_log: text,
    workers: count,
    running: count,
    connections: count,
    subscribers: count,
    memory_bytes: z.number(),
    cgroup: orNull(text),
    degraded: z.array(text),
  } satisfies ShapeOf<DaemonStatus>)
  .meta({ id: "DaemonStatus" });

export const auditAnchor: z.ZodType<AuditAnchor> = z
  .strictObject({ line: count, digest: text, time: text } satisfies ShapeOf<AuditAnchor>)
  .meta({ id: "AuditAnchor" });

export const credentialStatus: z.ZodType<CredentialStatus> = z
  .strictObject({
    name: text,
    plugin: orNull(text),
    kind: z.enum(["key", "login"]),
    set_at: orNull(text),
    used_at: orNull(text),
    expires_at: orNull(text),
    trouble: orNull(text),
  } satisfies ShapeOf<CredentialStatus>)
  .meta({ id: "CredentialStatus" });

export const credentialCheck: z.ZodType<CredentialCheck> = z
  .strictObject({ name: text, ok: z.boolean(), message: text } satisfies ShapeOf<CredentialCheck>)
  .meta({ id: "CredentialCheck" });

const pluginStatus: z.ZodType<PluginStatus> = z
  .strictObject({
    name: text,
    version: orNull(text),
    description: orNull(text),
    tools: z.array(z.strictObject({ name: text, risk_level: z.enum(["low", "high"]), description: text })),
    risk: orNull(z.enum(["low", "high"])),
    state: z.enum(PLUGIN_STATES),
    credential: orNull(z.enum(["set", "missing", "invalid"])),
    folder: orNull(text),
    digest: orNull(text),
    accepted: orNull(text),
    troubles: z.array(text),
  } satisfies ShapeOf<PluginStatus>)
  .meta({ id: "PluginStatus" });

export const pluginList = z.strictObject({
  plugins: z.array(pluginStatus),
  left_out: z.array(z.strictObject({ folder: text, why: text } satisfies ShapeOf<PluginLeftOut>)),
});

export const pluginShown: z.ZodType<PluginShown> = z.strictObject({
  plugin: pluginStatus,
  config: z.record(text, z.unknown()),
  changes: z.array(z.strictObject({ what: text, before: orNull(text), after: orNull(text) })),
} satisfies ShapeOf<PluginShown>);

export const approvalStatus: z.ZodType<ApprovalStatus> = z
  .strictObject({
    id: text,
    worker: text,
    session: text,
    group: text,
    tool: text,
    policy: text,
    asked_at: text,
    expires_at: text,
    bytes: count,
    sha256: text,
  } satisfies ShapeOf<ApprovalStatus>)
  .meta({ id: "ApprovalStatus" });

export const approvalPage: z.ZodType<ApprovalPage> = z
  .strictObject({
    approval: approvalStatus,
    page: count,
    pages: count,
    lines: z.array(text),
  } satisfies ShapeOf<ApprovalPage>)
  .meta({ id: "ApprovalPage" });

export const grantStatus: z.ZodType<GrantStatus> = z
  .strictObject({
    id: text,
    worker: text,
    session: text,
    tool: text,
    granted_at: text,
    uid: count,
    uses: count,
    lines: z.array(text),
    whole: z.boolean(),
  } satisfies ShapeOf<GrantStatus>)
  .meta({ id: "GrantStatus" });

const storedFile: z.ZodType<StoredFile> = z
  .strictObject({
    id: text,
    name: text,
    conversation_id: orNull(text),
    media_type: text,
    bytes: count,
    written_by: text,
    created_at: text,
    modified_at: text,
    version: text,
  } satisfies ShapeOf<StoredFile>)
  .meta({ id: "StoredFile" });

export const fileList: z.ZodType<FileList> = z.strictObject({
  files: z.array(storedFile),
  next: orNull(text),
} satisfies ShapeOf<FileList>);

export const filePiece: z.ZodType<FilePiece> = z.strictObject({
  file: storedFile,
  offset: count,
  content: z.base64(),
  next_offset: orNull(count),
} satisfies ShapeOf<FilePiece>);

export const filePut: z.ZodType<FilePut> = z.strictObject({
  upload: orNull(text),
  file: orNull(storedFile),
} satisfies ShapeOf<FilePut>);

const project: z.ZodType<Project> = z
  .strictObject({ values: z.record(text, z.unknown()), conversations: count } satisfies ShapeOf<Project>)
  .meta({ id: "Project" });

const conversation: z.ZodType<Conversation> = z
  .strictObject({
    conversation_id: text,
    values: z.record(text, z.unknown()),
    messages: count,
    created_at: text,
  } satisfies ShapeOf<Conversation>)
  .meta({ id: "Conversation" });

export const shownProject = z.strictObject({ project, conversation: orNull(conversation) });

export const message: z.ZodType<Message> = z
  .strictObject({
    number: count,
    role: z.enum(ROLES),
    text,
    written_by: text,
    created_at: text,
  } satisfies ShapeOf<Message>)
  .meta({ id: "Message" });

export const conversationList: z.ZodType<ConversationList> = z.strictObject({
  conversations: z.array(conversation),
  next: orNull(text),
} satisfies ShapeOf<ConversationList>);

export const messageList: z.ZodType<MessageList> = z.strictObject({
  messages: z.array(message),
  next: orNull(count),
} satisfies ShapeOf<MessageList>);

export const published: z.ZodType<PublishedInfo> = z.strictObject({
  id: text,
  is_new: z.boolean(),
} satisfies ShapeOf<PublishedInfo>);

export const taskRun: z.ZodType<TaskRunInfo> = z
  .strictObject({
    planned_at: text,
    state: z.enum(RUN_STATES),
    begins: count,
    started_at: orNull(text),
    ended_at: orNull(text),
    outcome: orNull(text),
  } satisfies ShapeOf<TaskRunInfo>)
  .meta({ id: "TaskRun" });

export const task: z.ZodType<TaskInfo> = z
  .strictObject({
    name: text,
    cron: text,
    timezone: text,
    overlap: z.enum(OVERLAPS),
    catch_up: z.boolean(),
    paused: z.boolean(),
    publish: text,
    data: z.unknown(),
    next_at: orNull(text),
    last_run: orNull(taskRun),
  } satisfies ShapeOf<TaskInfo>)
  .meta({ id: "Task" });

export const entry: z.ZodType<EntryInfo> = z
  .strictObject({
    id: text,
    event: text,
    topic: text,
    rule: text,
    group: text,
    state: z.enum(ENTRY_STATES),
    attempts: count,
    due_at: text,
    outcome: orNull(text),
    created_at: text,
    changed_at: text,
  } satisfies ShapeOf<EntryInfo>)
  .meta({ id: "QueueEntry" });

export const entryList: z.ZodType<EntryList> = z.strictObject({
  entries: z.array(entry),
  next: orNull(text),
} satisfies ShapeOf<EntryList>);

export const publishedEvent: z.ZodType<EventInfo> = z
  .strictObject({
    id: text,
    topic: text,
    key: orNull(text),
    source: text,
    data: z.unknown(),
    created_at: text,
  } satisfies ShapeOf<EventInfo>)
  .meta({ id: "PublishedEvent" });

const sessionShape = {
  id: text,
  worker: text,
  rule: text,
  group: text,
  mode: z.enum(SESSION_MODES),
  event: text,
  entry: text,
  state: z.enum(SESSION_STATES),
  started_at: text,
  ended_at: orNull(text),
  seconds: z.number(),
  requests: count,
  denials: count,
  approvals: count,
  exit_code: orNull(z.int()),
  exit_signal: orNull(text),
  outcome: orNull(text),
  log_dir: orNull(text),
} satisfies ShapeOf<SessionInfo>;

const session: z.ZodType<SessionInfo> = z.strictObject(sessionShape).meta({ id: "Session" });

export const sessionList: z.ZodType<SessionList> = z.strictObject({
  sessions: z.array(session),
  next: orNull(text),
} satisfies ShapeOf<SessionList>);

export const sessionDescription: z.ZodType<SessionDescription> = z
  .strictObject({
    ...sessionShape,
    source: text,
    prompt: orNull(text),
    calls: z.array(
      z.strictObject({ time: text, tool: text, code: orNull(text), ms: z.number() } satisfies ShapeOf<SessionCall>),
    ),
    output: z.array(
      z.strictObject({ time: text, stream: z.enum(["stdout", "stderr"]), text } satisfies ShapeOf<SessionLine>),
    ),
    is_cut: z.boolean(),
    workspace: text,
    workspace_bytes: orNull(count),
    workspace_files: orNull(count),
  } satisfies ShapeOf<SessionDescription>)
  .meta({ id: "SessionDescription" });

export const prompted: z.ZodType<PromptInfo> = z.strictObject({
  event: text,
  entry: text,
} satisfies ShapeOf<PromptInfo>);

export const entrySession: z.ZodType<EntrySession> = z.strictObject({
  entry,
  session: orNull(session),
} satisfies ShapeOf<EntrySession>);

export const actResult: z.ZodType<ActResult> = z
  .strictObject({
    name: text,
    ok: z.boolean(),
    message: text,
    code: z.exactOptional(text),
    hint: z.exactOptional(text),
    output: z.exactOptional(z.array(text)),
    pid: z.exactOptional(orNull(z.int())),
  })
  .meta({ id: "ActResult" });

const logLines: z.ZodType<LogLines> = z
  .strictObject({ errors: z.array(text), output: z.array(text), lost: z.exactOptional(z.array(text)) })
  .meta({ id: "LogLines" });

export const logAnswer: z.ZodType<LogAnswer> = z.union([
  z.strictObject({ type: z.literal("single"), app: text, logs: logLines }),
  z.strictObject({ type: z.literal("all"), apps: z.array(z.tuple([text, logLines])) }),
]);

export const greeting: z.ZodType<Greeting> = z
  .strictObject({ protocol: count, version: text, pid: z.int() } satisfies ShapeOf<Greeting>)
  .meta({ id: "Greeting" });

/** What a tool answered: a result, or why there is none. */
export const toolAnswer = z.strictObject({
  result: z.exactOptional(z.unknown()),
  error: z.exactOptional(
    z.strictObject({
      code: z.string(),
      message: z.string(),
      retriable: z.boolean(),
      stage: z.string(),
      field: z.exactOptional(z.string()),
      retry_after: z.exactOptional(z.number()),
    }),
  ),
});
