/** What each request does. One function per tag; the table is total by type. */
import { SCOPE } from "../../contract/shim.ts";
import { IpcError, never } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { toWorkerId } from "../base/names.ts";
import { VERSION } from "../base/version.ts";
import { emptyLogs } from "../logs/empty.ts";
import { readLastLines } from "../logs/tail.ts";
import { parseAppConfig, type AppConfig } from "../protocol/app-config.ts";
import type { Request, RequestOf } from "../protocol/requests.ts";
import { data, PROTOCOL, success, type Response } from "../protocol/responses.ts";
import type { ActResult, DaemonStatus } from "../protocol/status.ts";
import { thisMachine } from "../sandbox/machine.ts";
import { compilePlan } from "../sandbox/plan.ts";
import { DEFAULT_POLICY, loadPolicy } from "../sandbox/policy.ts";
import { inDependencyOrder } from "../protocol/dependencies.ts";
import type { App, Registry } from "../workers/registry.ts";
import { signalNumber } from "../workers/signals.ts";
import { describeWorker, statusOf, type Sources } from "../workers/status.ts";
import type { Worker } from "../workers/worker.ts";

export type HandlerWorld = {
  readonly registry: Registry;
  readonly sources: Sources;
  readonly daemonStatus: () => DaemonStatus;
  /** Ends the daemon after the answer is out. */
  readonly shutdown: (keepWorkers: boolean) => void;
};

type Handled = Exclude<Request["tag"], "Subscribe" | "Unsubscribe">;
type Handler<T extends Request["tag"]> = (request: RequestOf<T>, world: HandlerWorld) => Promise<Response> | Response;

const HANDLERS: { readonly [T in Handled]: Handler<T> } = {
  Start: start,
  Stop: stop,
  Restart: restart,
  Delete: remove,
  Status: async ({ name }, { registry, sources }) => {
    const workers = name === null ? registry.workers : [registry.get(name)];
    await Promise.all(workers.map((worker) => worker.lookAtCalls()));
    const all = workers.map((worker) => statusOf(worker, sources));
    return data(name === null ? all : all[0]);
  },
  List: (_, { registry }) => data(registry.workers.map((worker) => worker.id)),
  Logs: logs,
  Hello: hello,
  Describe: async ({ name }, { registry, sources }) => {
    const worker = registry.get(name);
    await worker.lookAtCalls();
    return data(describeWorker(worker, sources));
  },
  Act: act,
  Scale: scale,
  WaitReady: waitReady,
  DaemonStatus: (_, { daemonStatus }) => data(daemonStatus()),
  Shutdown: ({ keep_workers }, { shutdown }) => {
    shutdown(keep_workers);
    return success("Shutting down");
  },
};

/** Carries out one request. @throws IpcError for what is answered with `Error`. */
export async function handle(request: Request, world: HandlerWorld): Promise<Response> {
  if (request.tag === "Subscribe" || request.tag === "Unsubscribe")
    throw new Error("subscriptions belong to the session");
  const handler = HANDLERS[request.tag] as Handler<typeof request.tag>; // the table pairs tag and handler
  return handler(request as never, world);
}

async function start({ config: text }: RequestOf<"Start">, world: HandlerWorld): Promise<Response> {
  const { registry } = world;
  let config;
  try {
    config = parseAppConfig(text, "/");
    const policy = config.policy ?? DEFAULT_POLICY;
    const { cwd } = config;
    // Refused here and now, not at the first start.
    compilePlan(loadPolicy(policy, { project: cwd, home: "/" }), thisMachine(), { scratch: "/", program: [], cwd });
    config = { ...config, policy, name: config.name.trim() };
    toWorkerId(config.name);
  } catch (error) {
    if (error instanceof IpcError && error.code === "POLICY_REFUSED") throw error;
    const cause = IpcError.from(error, "reading the definition");
    throw new IpcError("BAD_CONFIG", `Invalid config: ${cause.message}`, {
      hint: cause.hint ?? "see: ipcctl start --help",
      cause,
    });
  }
  requireRights(config.uid, config.gid);
  const isNew = registry.find(config.name) === undefined;
  const app = defined(() => registry.define(config), config.name);
  if (!app) {
    const worker = registry.get(config.name);
    return withFields(`App ${config.name} is already running`, {
      name: worker.id,
      pid: worker.live?.pid ?? null,
      already_running: true,
      is_other_definition: !isSameDefinition(worker.config, config),
    });
  }
  try {
    await startChecked(app, registry);
  } catch (error) {
    if (isNew) await registry.deleteApp(app);
    const cause = IpcError.from(error, "starting");
    throw new IpcError(
      cause.code === "FAILED" ? "START_FAILED" : cause.code,
      `Failed to start app ${config.name}: ${cause.message}`,
      {
        cause,
        ...(cause.hint === undefined ? {} : { hint: cause.hint }),
      },
    );
  }
  return withFields(`Started app ${config.name}`, {
    name: app.id,
    pid: app.workers[0]?.lastPid ?? null,
    instances: app.workers.map((worker) => ({ name: worker.id, pid: worker.lastPid })),
  });
}

/** Apart from the caller's environment and from what only says when to start. */
function isSameDefinition(a: AppConfig, b: AppConfig): boolean {
  const essence = (config: AppConfig): object => ({ ...config, base_env: null, base_nofile: null, auto_start: null });
  return Bun.deepEquals(essence(a), essence(b));
}

function defined(define: () => App | undefined, name: string): App | undefined {
  try {
    return define();
  } catch (error) {
    const cause = IpcError.from(error, "registering");
    throw new IpcError(cause.code, `Failed to start app ${name}: ${cause.message}`, {
      cause,
      ...(cause.hint === undefined ? {} : { hint: cause.hint }),
    });
  }
}

/** Another user's identity can be given by root only; better said now than as a failed start. */
function requireRights(uid: number | null, gid: number | null): void {
  const own = process.getuid!();
  if (own === 0 || (uid === null && gid === null) || (uid === own && gid === null)) return;
  throw new IpcError("NO_PERMISSION", "Invalid config: uid and gid need a daemon that runs as root");
}

async function startChecked(app: App, registry: Registry): Promise<void> {
  await registry.startApp(app);
  for (const worker of app.workers) {
    if (worker.launchFailure) throw worker.launchFailure;
  }
}

async function stop({ name }: RequestOf<"Stop">, { registry }: HandlerWorld): Promise<Response> {
  const workers = instancesOf(registry, name);
  if (!workers.some(isWanted)) throw new IpcError("NOT_RUNNING", `App ${name} is not running`);
  await Promise.all(workers.map((worker) => registry.stopWorker(worker, null)));
  return success(`Stopped app ${name}`);
}

async function restart({ name }: RequestOf<"Restart">, { registry }: HandlerWorld): Promise<Response> {
  const workers = instancesOf(registry, name);
  const wasUp = workers.some((worker) => worker.isUp);
  await Promise.all(workers.map((worker) => registry.restartWorker(worker, null)));
  const pid = workers[0]?.live?.pid ?? null;
  return withFields(`${wasUp ? "Restarted" : "Started"} app ${name} with PID ${pid}`, { pid });
}

async function remove({ name }: RequestOf<"Delete">, { registry }: HandlerWorld): Promise<Response> {
  await registry.deleteApp(registry.appOf(registry.get(name)));
  return success(`Deleted app ${name}`);
}

/** A process lives, or is to live again after its delay. */
function isWanted(worker: Worker): boolean {
  return worker.isUp || worker.state === "backoff";
}

/** The name of an app means all its instances; `web-0` is its first alone. */
function instancesOf(registry: Registry, name: string): Worker[] {
  const first = /^(.*)-0$/.exec(name)?.[1];
  if (first !== undefined && registry.find(name) === undefined) return [registry.get(first)];
  const worker = registry.get(name);
  const app = registry.appOf(worker);
  return worker.id === app.id ? [...app.workers] : [worker];
}

async function logs({ name, lines }: RequestOf<"Logs">, { registry }: HandlerWorld): Promise<Response> {
  if (lines > limit("logLines"))
    throw new IpcError("LIMIT", `lines: at most ${limit("logLines")} in one answer, not ${lines}`, {
      hint: "ipcctl logs -n reads the files themselves",
    });
  if (name !== null) {
    const worker = registry.get(name);
    return data({ type: "single", app: name, logs: await linesOf(worker, lines, limit("logAnswerBytes")) });
  }
  const { workers } = registry;
  const share = Math.floor(limit("logAnswerBytes") / Math.max(1, workers.length));
  const apps: [string, LogLines][] = [];
  for (const worker of workers) apps.push([worker.id, await linesOf(worker, lines, share)]); // one after the other: each holds what it reads
  return data({ type: "all", apps });
}

type LogLines = { errors: string[]; output: string[]; lost?: string[] };

/** The newest `count` lines of each stream, oldest first, as many as fit; and what of them could not be read. */
async function linesOf(worker: Worker, count: number, bytesMax: number): Promise<LogLines> {
  const decode = new TextDecoder();
  const missing = new Set<string>();
  const pick = async (stream: "stdout" | "stderr"): Promise<string[]> => {
    const { lines, lost } = await readLastLines(worker.logDir, count, {
      stream,
      lineBytesMax: limit("lineChars"),
      scanBytesMax: limit("logScanBytes"),
    });
    for (const sentence of lost) missing.add(sentence);
    const texts: string[] = [];
    let bytes = 0;
    for (const { text } of lines.toReversed()) {
      bytes += text.length * 2 + 8; // JSON may escape; a line of control characters is cut rather than the frame refused
      if (bytes > bytesMax / 2) break;
      texts.push(decode.decode(text));
    }
    return texts.toReversed();
  };
  const found = { errors: await pick("stderr"), output: await pick("stdout") };
  return missing.size === 0 ? found : { ...found, lost: [...missing] };
}

function hello({ protocol }: RequestOf<"Hello">): Response {
  if (protocol < PROTOCOL - 1) {
    throw new IpcError(
      "BAD_REQUEST",
      `protocol ${protocol} is too old, this daemon speaks ${PROTOCOL - 1} and ${PROTOCOL}`,
      { hint: "update the client" },
    );
  }
  return data({ protocol: Math.min(protocol, PROTOCOL), version: VERSION, pid: process.pid });
}

async function scale({ name, instances }: RequestOf<"Scale">, { registry }: HandlerWorld): Promise<Response> {
  const app = registry.appOf(registry.get(name));
  const before = app.config.instances;
  await registry.scale(app, instances);
  return success(`Scaled app ${app.id} from ${before} to ${instances}`);
}

/** Until each is running (ready, where told), one has failed, or the time is up. */
async function waitReady({ names, timeout_ms }: RequestOf<"WaitReady">, { registry }: HandlerWorld): Promise<Response> {
  const signal = AbortSignal.timeout(timeout_ms);
  for (const worker of names.flatMap((name) => instancesOf(registry, name))) {
    const isDone = (): boolean =>
      worker.state === "running" || worker.state === "crashed" || worker.state === "stopped";
    if (!(await worker.waitFor(isDone, signal))) {
      throw new IpcError("DEADLINE", `${worker.id} was not ready within ${timeout_ms / 1000} s`, {
        hint: `see: ipcctl logs ${worker.id}`,
      });
    }
    if (worker.state !== "running") {
      throw new IpcError(
        "START_FAILED",
        `${worker.id} ended before it was ready: ${worker.row.reason ?? worker.word}`,
        { hint: `see: ipcctl logs ${worker.id}` },
      );
    }
  }
  return success(`Ready: ${names.join(", ")}`);
}

/** Several at once. Starts in the order of dependencies, stops in the opposite one; each has its own result. */
async function act(request: RequestOf<"Act">, world: HandlerWorld): Promise<Response> {
  const { registry } = world;
  const results: ActResult[] = [];
  const workers = registry.workers.filter((worker) => request.names.includes(worker.id));
  for (const name of request.names) {
    if (!workers.some((worker) => worker.id === name))
      results.push(failed(name, new IpcError("NOT_FOUND", `App ${name} not found`)));
  }
  const order = inDependencyOrder(registry.apps);
  const isDownward = request.verb === "stop" || request.verb === "delete";
  const apps = (isDownward ? order.toReversed() : order).filter((app) =>
    app.workers.some((worker) => workers.includes(worker)),
  );
  const doApp = async (app: App): Promise<void> => {
    const own = app.workers.filter((worker) => workers.includes(worker));
    results.push(...(await actOnApp(request, app, own, world)));
  };
  if (request.is_parallel) await Promise.all(apps.map(doApp));
  else if (isDownward && !apps.some((app) => app.config.depends_on.length > 0))
    await Promise.all(apps.map(doApp)); // nothing to order
  else for (const app of apps) await doApp(app);
  const rank = new Map(request.names.map((name, index) => [name, index]));
  return data(results.toSorted((a, b) => (rank.get(a.name) ?? 0) - (rank.get(b.name) ?? 0)));
}

async function actOnApp(
  request: RequestOf<"Act">,
  app: App,
  workers: Worker[],
  { registry }: HandlerWorld,
): Promise<ActResult[]> {
  const { verb, grace_ms, wait_ms } = request;
  const each = (act: (worker: Worker) => Promise<string>): Promise<ActResult[]> =>
    Promise.all(workers.map((worker) => attempt(worker.id, () => act(worker))));
  switch (verb) {
    case "start":
      return each(async (worker) => {
        if (worker.isUp) return "already running";
        await registry.startApp({ ...app, workers: [worker] });
        if (worker.launchFailure) throw worker.launchFailure;
        return `started (pid ${worker.lastPid})`;
      });
    case "stop":
      return each(async (worker) => {
        const was = isWanted(worker);
        await registry.stopWorker(worker, grace_ms);
        return was ? "stopped" : "not running";
      });
    case "restart": {
      const results: ActResult[] = [];
      const restartOne = async (worker: Worker): Promise<string> => {
        await registry.restartWorker(worker, null, grace_ms);
        return `restarted (pid ${worker.lastPid})`;
      };
      if (request.is_parallel) return each(restartOne);
      for (const [index, worker] of workers.entries()) {
        if (index > 0 && wait_ms > 0) await Bun.sleep(wait_ms);
        results.push(await attempt(worker.id, () => restartOne(worker)));
      }
      return results;
    }
    case "reload":
      return [
        await attempt(app.id, async () => {
          await registry.reloadApp(app, workers, grace_ms, wait_ms);
          return `reloaded ${workers.length} instance${workers.length === 1 ? "" : "s"}`;
        }),
      ];
    case "delete":
      if (workers.length < app.workers.length) {
        const some = workers.map((worker) => worker.id).join(", ");
        const error = new IpcError(
          "FAILED",
          `${some} is not all of ${app.id}, which has ${app.workers.length} instances`,
          {
            hint: `fewer of them: ipcctl scale ${app.id} ${app.workers.length - workers.length}; all of it: ipcctl delete ${app.id}`,
          },
        );
        return workers.map((worker) => failed(worker.id, error));
      }
      return [
        await attempt(app.id, async () => {
          await registry.deleteApp(app, grace_ms);
          return "deleted";
        }),
      ];
    case "signal": {
      const number = signalNumber(request.signal);
      return each(async (worker) => {
        await worker.link.signal(number, SCOPE.worker);
        return `sent signal ${number}`;
      });
    }
    case "flush":
      return each(async (worker) => {
        if (worker.live) await worker.link.flushLogs();
        else emptyLogs(worker.logDir);
        return "logs emptied";
      });
    default:
      return never(verb);
  }
}

async function attempt(name: string, act: () => Promise<string>): Promise<ActResult> {
  try {
    return { name, ok: true, message: await act() };
  } catch (error) {
    return failed(name, IpcError.from(error, name));
  }
}

function failed(name: string, error: IpcError): ActResult {
  return {
    name,
    ok: false,
    message: error.message,
    code: error.code,
    ...(error.hint === undefined ? {} : { hint: error.hint }),
  };
}

/** Success with more fields beside the message; a bunctl client passes over them. */
function withFields(message: string, fields: Record<string, unknown>): Response {
  return { Success: { message, ...fields } };
}
