/** `daemon status|stop|restart`. Plain `daemon` serves and never comes here. */
import { IpcError } from "../base/errors.ts";
import { formatBytes, formatUptime } from "../base/units.ts";
import { readDaemon } from "../protocol/status.ts";
import { Connection } from "../sdk/connection.ts";
import type { Context } from "./context.ts";

export async function daemonStatus(context: Context): Promise<number> {
  using connection = await context.connect(false);
  const status = await connection.query("DaemonStatus", readDaemon);
  if (context.isJson) context.print(JSON.stringify(status, null, 2));
  else {
    context.print(
      `running (pid ${status.pid}), version ${status.version}, up ${formatUptime(status.uptime_seconds)}, ${formatBytes(status.memory_bytes)}`,
    );
    context.print(`${status.running} of ${status.workers} workers run`);
    context.print(`socket ${status.socket}\nstate  ${status.state_dir}\nlog    ${status.daemon_log}`);
  }
  return 0;
}

/** Returns when the daemon has gone. */
export async function stopDaemon(context: Context, keepWorkers: boolean): Promise<number> {
  try {
    await end(context, keepWorkers);
  } catch (error) {
    if (!(error instanceof IpcError) || error.code !== "NO_DAEMON") throw error;
    if (context.isJson) context.print(JSON.stringify({ stopped: false }));
    else context.note("no daemon runs");
    return 0;
  }
  if (context.isJson) context.print(JSON.stringify({ stopped: true, workers_kept: keepWorkers }));
  else context.print(keepWorkers ? "daemon stopped, workers run on" : "daemon and workers stopped");
  return 0;
}

/** A new daemon in place of the old one; workers do not notice. */
export async function restartDaemon(context: Context): Promise<number> {
  await end(context, true).catch((error: unknown) => {
    if (!(error instanceof IpcError) || error.code !== "NO_DAEMON") throw error;
  });
  using connection = await context.connect();
  const status = await connection.query("DaemonStatus", readDaemon);
  if (!context.isJson)
    context.print(`daemon restarted (pid ${status.pid}), ${status.running} of ${status.workers} workers run`);
  else context.print(JSON.stringify(status, null, 2));
  return 0;
}

async function end(context: Context, keepWorkers: boolean): Promise<void> {
  const connection = await context.connect(false);
  const gone = Promise.withResolvers<void>();
  connection.onEvents(
    () => undefined,
    () => gone.resolve(),
  );
  await connection.request({ Shutdown: { keep_workers: keepWorkers } });
  await gone.promise;
  while (
    await Connection.open(context.paths.socket).then(
      (open) => (open.close(), true),
      () => false,
    )
  )
    await Bun.sleep(10);
}
