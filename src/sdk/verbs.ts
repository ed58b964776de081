/** The verbs of the daemon as methods, for every client: one that holds a connection, and one that reconnects. */
import { IpcError, isErrorCode } from "../base/errors.ts";
import { findWorkerId } from "../base/names.ts";
import type { EntryInfo, PublishedInfo } from "../protocol/happenings.ts";
import type { Response } from "../protocol/responses.ts";
import {
  readDaemon,
  readDescription,
  readWorker,
  readWorkers,
  type ActResult,
  type AuditAnchor,
  type CredentialCheck,
  type ToolAnswer,
  type CredentialStatus,
  type DaemonStatus,
  type LogLines,
  type PluginLeftOut,
  type PluginShown,
  type PluginStatus,
  type Started,
  type WorkerDescription,
  type WorkerStatus,
} from "../protocol/status.ts";
import type { ApprovalStatus, GrantStatus } from "../protocol/approval-answers.ts";
import { ask, query, unexpected } from "./ask.ts";
import { GroupFiles, GroupProject } from "./group-stores.ts";
import { Sessions } from "./session-access.ts";
import { jsonOf, Queue, Tasks } from "./tasks-and-queue.ts";

/** What {@link Verbs.act} can do to several workers at once. */
export type ActVerb = "start" | "stop" | "restart" | "reload" | "delete" | "flush" | "signal";

export type ActOptions = {
  /** Apps whose instances are all meant, however many there are when their turn comes. */
  readonly apps?: readonly string[];
  /** Between the request to end and SIGKILL; the default is the definition's. */
  readonly graceMs?: number | undefined;
  /** All at once instead of one after the other. */
  readonly isParallel?: boolean | undefined;
  /** Between two instances. */
  readonly waitMs?: number | undefined;
  /** By name or number; only for `signal`. */
  readonly signal?: string | number | undefined;
};

/** What an OAuth login gave, and where it is renewed. */
export type Login = {
  readonly tokenUrl: string;
  readonly clientId: string;
  /** Where a person was asked for, with which scope: for the command that logs in again. */
  readonly deviceUrl?: string | null;
  readonly scope?: string | null;
  readonly access: string;
  readonly refresh: string | null;
  readonly expiresInSeconds: number | null;
};

/** A call that waits for a person, as a person must see it. */
export type ShownApproval = ApprovalStatus & {
  /** All of it, harmless to whatever shows them. */
  readonly lines: readonly string[];
};

export type AllowOptions = {
  /** The SHA-256 of the call that was shown, or its first digits, 12 at least. */
  readonly sha256: string;
  /** For the rest of its session, with exactly these argument values, instead of once. */
  readonly forSession?: boolean | undefined;
};

const ENOUGH_LINES = 20;
const READY_MS = 60_000;

/**
 * Each method throws an IpcError with the daemon's code. A name means an app with all its instances, or one instance
 * (`web-1`).
 */
export abstract class Verbs {
  /**
   * Sends one request in the form of docs/protocol.md, and returns the answer.
   * @throws IpcError with the daemon's code
   */
  abstract request(message: unknown): Promise<Response>;

  /** Names of all workers. */
  list(): Promise<string[]> {
    return query(this, "List", null);
  }

  /** What `ipcctl status --json` shows, of all workers or of one. @throws IpcError NOT_FOUND */
  status(): Promise<WorkerStatus[]>;
  status(name: string): Promise<WorkerStatus>;
  async status(name?: string): Promise<WorkerStatus | WorkerStatus[]> {
    const answer = await query(this, "Status", { name: name ?? null });
    return name === undefined ? readWorkers(answer) : readWorker(answer);
  }

  /** Everything that is known of one worker: definition, ended runs, log files, limits, processes. */
  async describe(name: string): Promise<WorkerDescription> {
    return readDescription(await query(this, "Describe", { name }));
  }

  /** The newest lines of one worker, each stream by itself, oldest first. */
  async lastLines(name: string, lines = ENOUGH_LINES): Promise<LogLines> {
    const answer = await query(this, "Logs", { name, lines });
    if (answer.type === "single") return answer.logs;
    throw unexpected(answer);
  }

  /**
   * Starts an app from a definition with the fields of `ipcctl.json`; changes nothing if it already runs.
   * @throws IpcError BAD_CONFIG, START_FAILED
   */
  async startApp(definition: { readonly name: string; readonly [field: string]: unknown }): Promise<Started> {
    const { name } = definition;
    return { ...{ name, pid: null }, ...(await ask(this, "Start", { name, config: JSON.stringify(definition) })) };
  }

  /** @throws IpcError NOT_FOUND, NOT_RUNNING */
  async stop(name: string): Promise<void> {
    await ask(this, "Stop", { name });
  }

  /** Restarts it, or starts it if it is down. Returns the pid; for an app that of its first instance. */
  async restart(name: string): Promise<number | null> {
    return (await ask(this, "Restart", { name })).pid;
  }

  /** Replaces the instances one after the other, each once the new one is ready. */
  async reload(name: string, options: Pick<ActOptions, "graceMs" | "waitMs"> = {}): Promise<void> {
    await this.#actOn("reload", name, options);
  }

  /** Stops it and forgets it, with its logs. */
  async delete(name: string): Promise<void> {
    await ask(this, "Delete", { name });
  }

  /** @param signal by name (`"HUP"`, `"SIGHUP"`) or number */
  async signal(name: string, signal: string | number): Promise<void> {
    await this.#actOn("signal", name, { signal });
  }

  /** Empties its logs. */
  async flush(name: string): Promise<void> {
    await this.#actOn("flush", name);
  }

  async scale(name: string, instances: number): Promise<void> {
    await ask(this, "Scale", { name, instances });
  }

  /** Waits until each runs, and is ready if it reports that. @throws IpcError START_FAILED, DEADLINE */
  async waitReady(names: string | readonly string[], timeoutMs = READY_MS): Promise<void> {
    await ask(this, "WaitReady", { names: typeof names === "string" ? [names] : [...names], timeout_ms: timeoutMs });
  }

  /**
   * One verb on several workers in the order of their dependencies, with a result for each.
   * @param names of instances, exactly
   */
  act(verb: ActVerb, names: readonly string[], options: ActOptions = {}): Promise<ActResult[]> {
    return query(this, "Act", {
      verb,
      names: [...names],
      apps: [...(options.apps ?? [])],
      grace_ms: options.graceMs ?? null,
      is_parallel: options.isParallel ?? false,
      wait_ms: options.waitMs ?? 0,
      signal: String(options.signal ?? ""),
    });
  }

  /** Of each credential when it was set and used, and nothing of its value. */
  credentials(): Promise<CredentialStatus[]> {
    return query(this, "AuthList", null);
  }

  /** Stores a credential of a plugin, or of the host. @throws IpcError USAGE, LIMIT, or FAILED if it exists */
  async addCredential(name: string, value: string, { plugin }: { readonly plugin?: string } = {}): Promise<void> {
    await ask(this, "AuthAdd", { name, plugin: plugin ?? null, value });
  }

  /** Stores what an OAuth login gave, in the place of an earlier one. It is renewed at the URL when it is used. */
  async storeLogin(name: string, login: Login, { plugin }: { readonly plugin?: string } = {}): Promise<void> {
    await ask(this, "AuthLogin", {
      ...{ name, plugin: plugin ?? null, token_url: login.tokenUrl, client_id: login.clientId },
      ...{ device_url: login.deviceUrl ?? null, scope: login.scope ?? null },
      ...{ access_token: login.access, refresh_token: login.refresh, expires_in: login.expiresInSeconds },
    });
  }

  /** Tries whether credentials can be used, without names all: each is opened, and a login is renewed. */
  verifyCredentials(names: readonly string[] = []): Promise<CredentialCheck[]> {
    return query(this, "AuthVerify", { names: [...names] });
  }

  /** @param name PLUGIN/NAME, or the name alone if it is one of the host. @throws IpcError NOT_FOUND */
  async removeCredential(name: string): Promise<void> {
    await ask(this, "AuthRemove", { name });
  }

  /** Replaces its value. The old one is taken out of what plugins say for a day more. @throws IpcError NOT_FOUND */
  async rotateCredential(name: string, value: string): Promise<void> {
    await ask(this, "AuthRotate", { name, value });
  }

  /** Seals all credentials with a new key. Returns how many. */
  async rotateKey(): Promise<number> {
    return (await ask(this, "AuthRotateKey", null)).count;
  }

  /** Of each plugin what it provides, its state and what is wrong with it; and which folders are no plugin. */
  async plugins(): Promise<{ plugins: PluginStatus[]; leftOut: PluginLeftOut[] }> {
    const { plugins, left_out: leftOut } = await query(this, "PluginList", null);
    return { plugins, leftOut };
  }

  /** Also what is new in its folder since it was accepted. @throws IpcError NOT_FOUND */
  plugin(name: string): Promise<PluginShown> {
    return query(this, "PluginShow", { name });
  }

  /**
   * Lets a plugin run as its folder is now. To be called only once a person has seen that.
   * @param digest of what they have seen. @throws IpcError FAILED if the folder is something else
   */
  async acceptPlugin(name: string, digest: string): Promise<void> {
    await ask(this, "PluginAccept", { name, digest });
  }

  /** Calls a tool as this user, through all stages. @param group whose data it works on */
  callTool(tool: string, args: Readonly<Record<string, unknown>> = {}, group?: string): Promise<ToolAnswer> {
    return query(this, "PluginCall", { tool, arguments: args as never, group: group ?? null });
  }

  /**
   * For what serves them: where it opens the channel, and the label that it gives that.
   * @param groups null for the workers that this process owns
   */
  async provide(
    name: string,
    tools: readonly object[],
    groups: readonly string[] | null,
    skill: string | null = null,
  ): Promise<{ readonly label: string; readonly socket: string }> {
    return await ask(this, "PluginProvide", { name, tools: tools as never, skill, groups: groups as string[] | null });
  }

  /** Ends its process once nothing is under way in it; the next call starts what is accepted then. */
  async reloadPlugin(name: string): Promise<void> {
    await ask(this, "PluginReload", { name });
  }

  /** Has plugins try their credentials and services; all of them if there is no name. */
  verifyPlugins(...names: readonly string[]): Promise<CredentialCheck[]> {
    return query(this, "PluginVerify", { names: [...names] });
  }

  /** Writes to host.json whether it may run. */
  async switchPlugin(name: string, isEnabled: boolean): Promise<void> {
    await ask(this, "PluginSwitch", { name, enabled: isEnabled });
  }

  /** Forgets it. Returns its folder if that lies elsewhere than in `plugins/`, and so is still there. */
  async removePlugin(name: string, { data = false }: { readonly data?: boolean } = {}): Promise<string | undefined> {
    return (await ask(this, "PluginRemove", { name, data })).left ?? undefined;
  }

  /** The calls of high risk that wait for a person, oldest first. */
  approvals(): Promise<ApprovalStatus[]> {
    return query(this, "ListApprovals", null);
  }

  /** All that a person must see of one before allowing it. @throws IpcError NOT_FOUND */
  async showApproval(id: string): Promise<ShownApproval> {
    const lines: string[] = [];
    for (let page = 0; ; page++) {
      const { approval, pages, lines: more } = await query(this, "ShowApproval", { id, page });
      lines.push(...more);
      if (page + 1 >= pages) return { ...approval, lines };
    }
  }

  /** Says yes in the place of a person. @throws IpcError NOT_FOUND; FAILED if it is another call, or over meanwhile */
  async allow(id: string, { sha256, forSession = false }: AllowOptions): Promise<void> {
    const choice = forSession ? "allow_session" : "allow";
    await ask(this, "DecideApproval", { id, choice, hash: sha256, reason: null });
  }

  /** @param reason for the audit: the worker is not told. @throws IpcError NOT_FOUND */
  async deny(id: string, { reason }: { readonly reason?: string | undefined } = {}): Promise<void> {
    await ask(this, "DecideApproval", { id, choice: "deny", hash: null, reason: reason ?? null });
  }

  /** What is allowed for sessions that go on. */
  grants(): Promise<GrantStatus[]> {
    return query(this, "ListGrants", null);
  }

  /** Takes one of those back. @throws IpcError NOT_FOUND */
  async revokeGrant(id: string): Promise<void> {
    await ask(this, "RevokeGrant", { id });
  }

  /** The project files of a group: what workers of that group get by the plugin `files`. */
  files(group: string): GroupFiles {
    return new GroupFiles(this, group);
  }

  /** What a group works on, and what was said: what its workers get by the plugin `project`. */
  project(group: string): GroupProject {
    return new GroupProject(this, group);
  }

  /**
   * Stores an event, which the rules of host.json start sessions for.
   * @param key within a week an event of the same topic and key is the same event, and is not stored again
   */
  publish(
    topic: string,
    data: unknown = null,
    { key }: { readonly key?: string | undefined } = {},
  ): Promise<PublishedInfo> {
    return query(this, "Publish", { topic, data: jsonOf(data), key: key ?? null });
  }

  /**
   * Waits until nothing of an event waits or runs any more. Returns what became of it, by each rule.
   * @throws IpcError NOT_FOUND, DEADLINE
   */
  waitForEvent(id: string, timeoutMs: number): Promise<EntryInfo[]> {
    return query(this, "WaitEvent", { id, timeout_ms: timeoutMs });
  }

  /** What publishes events by the clock. */
  get tasks(): Tasks {
    return new Tasks(this);
  }

  /** Events that wait for sessions, and dead letters. */
  get queue(): Queue {
    return new Queue(this);
  }

  /** What rules start for events, and prompts. */
  get sessions(): Sessions {
    return new Sessions(this);
  }

  /** The state of the daemon itself. */
  async daemonStatus(): Promise<DaemonStatus> {
    return readDaemon(await query(this, "DaemonStatus", null));
  }

  /** Lines of the chained audit that must be there as they were: the first of each file, and the newest one. */
  auditAnchors(): Promise<AuditAnchor[]> {
    return query(this, "AuditAnchors", null);
  }

  /** Ends the daemon, and its workers unless they are kept. */
  async shutdown({ keepWorkers = false }: { readonly keepWorkers?: boolean } = {}): Promise<void> {
    await ask(this, "Shutdown", { keep_workers: keepWorkers });
  }

  /** @throws IpcError of the first failure */
  async #actOn(verb: ActVerb, name: string, options: ActOptions = {}): Promise<void> {
    const meant = instancesOf(await this.status(), name);
    const apps = meant.filter((worker) => worker.instance === 0 && worker.name === findWorkerId(name));
    const names = meant.map((worker) => worker.name);
    const results = await this.act(verb, names, { ...options, apps: apps.map((worker) => worker.name) });
    const failed = results.find(({ ok }) => !ok);
    if (!failed) return;
    const { code, message, hint, output = [] } = failed;
    throw new IpcError(isErrorCode(code) ? code : "FAILED", `${failed.name}: ${message}`, {
      output,
      ...(hint === undefined ? {} : { hint }),
    });
  }
}

/** The name of an app means all its instances; `web-0` means only its first. @throws IpcError NOT_FOUND */
export function instancesOf(all: readonly WorkerStatus[], name: string): WorkerStatus[] {
  const find = (wanted: string): WorkerStatus | undefined => {
    const id = findWorkerId(wanted);
    return all.find((worker) => worker.name === id);
  };
  const worker = find(name);
  if (worker) return worker.instance === 0 ? all.filter(({ app }) => app === worker.app) : [worker];
  const first = name.endsWith("-0") ? find(name.slice(0, -2)) : undefined;
  if (first) return [first];
  throw new IpcError("NOT_FOUND", `App ${name} not found`, { hint: "see: ipcctl status" });
}
