/** The package: what a TypeScript program imports. */
export { IpcError, type ErrorCode } from "./base/errors.ts";
export { ArrowTable, CodecError, NdArray, type TypedArray } from "./plane/values.ts";
export { PythonError } from "./plane/python-error.ts";
export { BrokenChannel, SharedRingBuffer } from "./plane/ring.ts";
export {
  closeDefaultRuntime,
  defaultRuntime,
  evaluate,
  evaluate as eval,
  execute,
  execute as exec,
  isolated,
} from "./runtime/default.ts";
export { Pipe } from "./plane/pipe.ts";
export { shared } from "./plane/sharing.ts";
export { connect, Ipcctl, type ConnectOptions, type StartOptions } from "./runtime/connect.ts";
export { PythonWorker, type CallOptions, type EvalOptions } from "./runtime/python-worker.ts";
export {
  host,
  HostError,
  type HostArguments,
  type HostCallOptions,
  type HostCalls,
  type HostCode,
  type HostFacade,
  type HostPlugin,
  type HostPlugins,
  type HostTool,
  type Stage as HostStage,
} from "./runtime/host.ts";
export {
  ProgramHost,
  ToolError,
  type Provided,
  type ToolRequest,
  type ProvidedTool,
  type ProvideOptions,
} from "./runtime/provide.ts";
export type { ArgumentsOf, ToolSchema } from "./runtime/tool-schema.ts";
export { serve, type Serving } from "./runtime/serve.ts";
export { spawnPython, type SpawnOptions } from "./runtime/spawn.ts";
export { frames, lines } from "./calls/byte-transport.ts";
export { CallClient, type CallClientOptions } from "./calls/client.ts";
export { callContext, CallServer, type CallContext, type Exposed } from "./calls/server.ts";
export type { Transport } from "./calls/transport.ts";
export { Feed } from "./runtime/feed.ts";
export type { EventOptions, IpcEvent, LogEntry, LogOptions } from "./runtime/watch.ts";
export type { ActOptions, ActVerb } from "./sdk/verbs.ts";
export type { Content, GroupFiles, GroupProject, PutOptions } from "./sdk/group-stores.ts";
export type { NewTask, Queue, Tasks } from "./sdk/tasks-and-queue.ts";
export type { PromptOptions, Sessions } from "./sdk/session-access.ts";
export type {
  EntrySession,
  PromptInfo,
  SessionCall,
  SessionDescription,
  SessionInfo,
  SessionLine,
  SessionMode,
  SessionState,
} from "./protocol/session-answers.ts";
export type {
  EntryInfo,
  EntryState,
  EventInfo,
  Overlap,
  PublishedInfo,
  RunState,
  TaskInfo,
  TaskRunInfo,
} from "./protocol/happenings.ts";
export type { ApprovalStatus, GrantStatus } from "./protocol/approval-answers.ts";
export type { Conversation, Message, Project, Role, StoredFile, Values } from "./protocol/stored.ts";
export type {
  ActResult,
  AuditAnchor,
  CredentialCheck,
  CredentialStatus,
  DaemonStatus,
  ExitInfo,
  LogLines,
  Started,
  WorkerDescription,
  WorkerStatus,
} from "./protocol/status.ts";
export type { Response as IpcResponse } from "./protocol/responses.ts";
