/**
 * `run` with tools of the host, or with runtimes of JavaScript: an ephemeral worker of the daemon whose stdio is ours.
 * The daemon prepares it, and we start its shim, so that no byte of the stdio passes through anybody else, and it ends
 * with us.
 */
import { rmSync } from "node:fs";
import { basename, extname, join } from "node:path";
import { SHIM_BINARY } from "../base/install.ts";
import { findWorkerId } from "../base/names.ts";
import { STDIN } from "../launch/languages.ts";
import { settle } from "../launch/settle.ts";
import type { Snapshot } from "../launch/snapshot.ts";
import { requireGroup } from "../launch/specification.ts";
import { normalizeApp } from "../protocol/app-config.ts";
import { spawnShimHere } from "../shim/link.ts";
import { asDaemon } from "./as-daemon.ts";
import { isTerminal, printable, type Context } from "./context.ts";
import { passSignalsTo, tellEnd } from "./foreground.ts";
import { splitWords } from "../base/shell-words.ts";
import { fromFlags, type StartFlags } from "./start.ts";
import { tellWeaker } from "./weaker.ts";

type Asked = {
  readonly script: string | undefined;
  readonly code: string | undefined;
  readonly args: readonly string[];
  readonly flags: StartFlags;
};

type Chosen = {
  readonly snapshot: Snapshot | undefined;
  /** The policy, if the user chose one. */
  readonly chosen: string | undefined;
  readonly timeoutMs: number;
};

export async function runByDaemon(
  context: Context,
  { script, code, args, flags }: Asked,
  { snapshot, chosen, timeoutMs }: Chosen,
): Promise<number> {
  const name = flags.name ?? nameOf(script, flags);
  const definition = {
    ...fromFlags(context, script, args, { ...flags, name }, code),
    life: "ephemeral",
    stdio: "caller",
    policy: chosen ?? "auto",
    ...(timeoutMs === Infinity ? {} : { timeout: timeoutMs }),
  };
  const app = normalizeApp(definition, "/");
  const wanted = asDaemon(context, name, { app: { ...app, snapshot }, base: app.base_env ?? {} });
  const settled = settle(wanted); // a refusal needs no daemon
  const { plan } = settled;
  requireGroup(plan.policy, undefined);
  using connection = await context.connect();
  const { name: id } = await connection.startApp(definition);
  const { log_dir } = await connection.status(id);
  connection.close();
  const folder = join(log_dir, "..");
  const isChosen = chosen !== undefined;
  tellWeaker(context, plan.degraded, isChosen || isTerminal(2));
  let status: number;
  try {
    const shim = spawnShimHere(SHIM_BINARY, folder);
    passSignalsTo(shim, ["SIGWINCH"]); // it has a session of its own
    status = await shim.exited;
    if (shim.signalCode !== null)
      process.stderr.write(`ipcctl: the shim of ${printable(id)} was killed by ${shim.signalCode}\n`);
  } finally {
    rmSync(join(folder, "spec"), { force: true }); // of a shim that took none: the daemon waits no longer
  }
  await tellEnd(context, { status, folder, wanted: { ...wanted, name: id }, settled, timeoutMs, isChosen });
  return status;
}

function nameOf(script: string | undefined, { command }: StartFlags): string {
  const program = script === undefined || script === STDIN ? splitWords(command ?? "")[0] : script;
  const name = program === undefined ? "" : basename(program, extname(program));
  return findWorkerId(name) === undefined ? "run" : name;
}
