/** One verb on several workers at once: app by app, each in its turn, with a result for every worker. */
import { SCOPE } from "../../contract/shim.ts";
import { IpcError, never } from "../base/errors.ts";
import { emptyLogs } from "../logs/empty.ts";
import { inDependencyOrder } from "../protocol/dependencies.ts";
import type { RequestOf } from "../protocol/verbs.ts";
import type { ActResult } from "../protocol/status.ts";
import type { Turn } from "../workers/queue.ts";
import type { App, Registry } from "../workers/registry.ts";
import { signalNumber } from "../base/signals.ts";
import type { Worker } from "../workers/worker.ts";
import { sleep } from "../base/patience.ts";

/** Starts in the order of dependencies, stops in the reverse order. */
export async function act(request: RequestOf<"Act">, registry: Registry): Promise<ActResult[]> {
  const results: ActResult[] = [];
  const apps = new Map<string, Chosen>();
  for (const name of [...request.names, ...request.apps]) {
    const worker = registry.workers.find(({ id }) => id === name);
    if (!worker) {
      if (!request.apps.includes(name))
        results.push(failed(name, new IpcError("NOT_FOUND", `App ${name} not found`, { hint: "see: ipcctl status" })));
      continue;
    }
    const { id } = registry.appOf(worker);
    const chosen = apps.get(id) ?? { names: new Set(), isWhole: request.apps.includes(id) };
    apps.set(id, { ...chosen, names: chosen.names.add(name) });
  }
  const order = inDependencyOrder(registry.apps).filter((app) => apps.has(app.id));
  const isDownward = request.verb === "stop" || request.verb === "delete";
  const inOrder = isDownward ? order.toReversed() : order;
  const doApp = async (app: App): Promise<void> => {
    results.push(...(await actOnApp(request, app.id, apps.get(app.id)!, registry))); // of these apps only
  };
  if (request.is_parallel) await Promise.all(inOrder.map(doApp));
  else if (isDownward && !inOrder.some((app) => app.config.depends_on.length > 0))
    await Promise.all(inOrder.map(doApp)); // nothing to order
  else for (const app of inOrder) await doApp(app);
  const rank = new Map(request.names.map((name, index) => [name, index]));
  return results.toSorted((a, b) => (rank.get(a.name) ?? 0) - (rank.get(b.name) ?? 0));
}

/** Instances by name, or all that the app has when its turn comes. */
type Chosen = { readonly names: Set<string>; readonly isWhole: boolean };

/** In its turn. Each worker gets a result, even if the turn never comes. */
async function actOnApp(
  request: RequestOf<"Act">,
  id: string,
  { names, isWhole }: Chosen,
  registry: Registry,
): Promise<ActResult[]> {
  const { verb, grace_ms, wait_ms } = request;
  const all = [...names];
  if (verb === "signal" || verb === "flush") return actAtOnce(request, all, registry);
  if (verb === "delete") {
    const app = registry.apps.find((one) => one.id === id);
    if (app && !isWhole && all.length < app.workers.length) return refusePartOf(app, all);
    return [
      await attempt(id, async () => {
        await registry.deleteApp(id, grace_ms);
        return "deleted";
      }),
    ];
  }
  const isStop = verb === "stop";
  const wasWanted = new Set(all.filter((name) => registry.find(name)?.isWanted));
  const asked = {
    what: `${verb} ${isWhole ? id : all.join(" ")}`,
    workers: isWhole ? ("all" as const) : all,
    isFinal: isStop,
    detail: { grace_ms, wait_ms, isParallel: request.is_parallel },
  };
  if (isStop)
    registry.hurry(
      registry.workers.filter((worker) => names.has(worker.id)),
      grace_ms,
    );
  const work = registry.inTurn(id, asked, async (turn): Promise<ActResult[]> => {
    const app = registry.apps.find((one) => one.id === id);
    const workers = (app?.workers ?? []).filter((worker) => isWhole || names.has(worker.id));
    const missing = all
      .filter((name) => (app === undefined || !isWhole) && !workers.some((worker) => worker.id === name))
      .map((name) => failed(name, new IpcError("NOT_FOUND", `App ${name} not found: it was deleted meanwhile`)));
    return app ? [...(await actOnWorkers(request, turn, app, workers, wasWanted, registry)), ...missing] : missing;
  });
  return work.catch((error: unknown) => all.map((name) => failed(name, IpcError.from(error))));
}

async function actOnWorkers(
  request: RequestOf<"Act">,
  turn: Turn,
  app: App,
  workers: readonly Worker[],
  wasWanted: ReadonlySet<string>,
  registry: Registry,
): Promise<ActResult[]> {
  const { verb, grace_ms, wait_ms } = request;
  const each = (act: (worker: Worker) => Promise<string>): Promise<ActResult[]> =>
    Promise.all(workers.map((worker) => attempt(worker.id, () => act(worker))));
  switch (verb) {
    case "start":
      return each(async (worker) => {
        if (worker.isStarted) return "already running";
        await registry.startWorker(turn, worker);
        return `started (pid ${worker.lastPid})`;
      });
    case "stop":
      return each(async (worker) => {
        const was = worker.isWanted || wasWanted.has(worker.id);
        await registry.stopWorker(worker, grace_ms);
        if (!was) return "not running";
        return worker.row.reason === null ? "stopped" : `stopped (${worker.row.reason})`;
      });
    case "restart": {
      const results: ActResult[] = [];
      const restartOne = async (worker: Worker): Promise<string> => {
        await registry.restartWorker(turn, worker, grace_ms);
        return `restarted (pid ${worker.lastPid})`;
      };
      if (request.is_parallel) return each(restartOne);
      for (const [index, worker] of workers.entries()) {
        results.push(
          await attempt(worker.id, async () => {
            if (index > 0 && wait_ms > 0) await turn.unlessCut(sleep(wait_ms));
            return restartOne(worker);
          }),
        );
      }
      return results;
    }
    case "reload":
      return [
        await attempt(app.id, async () => {
          const count = await registry.reloadApp(turn, app, workers, grace_ms, wait_ms);
          return `reloaded ${count} instance${count === 1 ? "" : "s"}`;
        }),
      ];
    case "delete":
    case "signal":
    case "flush":
      throw new Error(`${verb} is not done in turn`); // the caller handles it elsewhere
    default:
      return never(verb);
  }
}

function refusePartOf(app: App, names: readonly string[]): ActResult[] {
  const error = new IpcError(
    "FAILED",
    `${names.join(", ")} is not all of ${app.id}, which has ${app.workers.length} instances`,
    {
      hint: `fewer of them: ipcctl scale ${app.id} ${app.workers.length - names.length}; all of it: ipcctl delete ${app.id}`,
    },
  );
  return names.map((name) => failed(name, error));
}

/** A verb that changes nothing others wait for needs no turn. */
function actAtOnce(request: RequestOf<"Act">, names: readonly string[], registry: Registry): Promise<ActResult[]> {
  const number = request.verb === "signal" ? signalNumber(request.signal) : 0;
  return Promise.all(
    names.map((name) =>
      attempt(name, async () => {
        const worker = registry.get(name);
        if (request.verb === "signal") {
          await worker.link.signal(number, SCOPE.worker);
          return `sent signal ${number}`;
        }
        if (worker.live) await worker.link.flushLogs();
        else emptyLogs(worker.logDir);
        return "logs emptied";
      }),
    ),
  );
}

async function attempt(name: string, act: () => Promise<string>): Promise<ActResult> {
  try {
    return { name, ok: true, message: await act() };
  } catch (error) {
    return failed(name, IpcError.from(error));
  }
}

function failed(name: string, error: IpcError): ActResult {
  return {
    name,
    ok: false,
    message: error.message,
    code: error.code,
    ...(error.hint === undefined ? {} : { hint: error.hint }),
    ...(error.output.length === 0 ? {} : { output: error.output }),
  };
}
