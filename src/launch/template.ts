/**
 * A start that is settled once and used many times: the frames of a specification, with holes for what differs from run
 * to run. With it a program starts confined processes with just the shim, without a daemon and without asking anything
 * again. `docs/launching.md` has the format.
 */
import { readFileSync, readlinkSync, statSync } from "node:fs";
import { constants } from "node:os";
import { MOUNT, SHIM_VERSION, SPEC } from "../../contract/shim.ts";
import { IpcError } from "../base/errors.ts";
import { SHIM_BINARY } from "../base/install.ts";
import { VERSION } from "../base/version.ts";
import { policyFiles } from "../sandbox/policy.ts";
import { encodeMount, encodeSpec, framesOf, type Spec } from "../shim/spec.ts";
import { locate, type Preparation, requireBunsProc, settle } from "./settle.ts";
import { complete, makeRunSpec, requireGroup } from "./specification.ts";

/** What a program fills in: arguments after the program's own, further variables, and existing folders. */
export type Hole = "argv" | "env" | "cwd" | "scratch";

/** Bytes are in base64. With `as` it is the length of the hole, in two bytes. */
export type Part = { readonly bytes: string } | { readonly hole: Hole; readonly as?: "length" };

/** One frame. If its only part is the hole `argv` or `env`: one frame per argument or `NAME=value`. */
export type TemplateFrame = { readonly type: number; readonly parts: readonly Part[] };

/** What the template was made for. If one of these changes, it must be made anew. */
export type Facts = {
  readonly version: string;
  readonly shim: { readonly path: string; readonly version: number };
  readonly boot_id: string;
  readonly uid: number;
  readonly gid: number;
  /** From `/proc/self/status`. */
  readonly status: Readonly<Record<string, string>>;
  readonly user_namespace: string;
  /** The program, its script, the policies. */
  readonly files: readonly { readonly path: string; readonly bytes: number; readonly mtime_ns: string }[];
};

export type Template = {
  /** Of this format. */
  readonly version: 1;
  /** A hash of facts and frames, as a name for the file that keeps it. */
  readonly key: string;
  readonly facts: Facts;
  readonly policy: string;
  readonly program: string;
  /** The user that it runs as, if that is not the caller: the owner of a scratch folder. */
  readonly user: { readonly uid: number; readonly gid: number } | null;
  /** Names of variables, or `LC_*`, that the policy lets through. The program checks them before it fills them in. */
  readonly env_allow: readonly string[];
  readonly degraded: readonly string[];
  readonly holes: readonly Hole[];
  readonly frames: readonly TemplateFrame[];
};

/** Marks a hole while the specification is made. */
const MARK = { argv: "/ipcctl-template/argv", env: "IPCCTL_TEMPLATE", scratch: "/ipcctl-template/scratch" };
/** What it prints is of use only where it crashes. */
const LOG_BYTES = 65_536;
/** The program that keeps the shim is its owner, and nobody else needs the end of what it owns to be orderly. */
const SERVING: Partial<Spec> = {
  owner: "pipe",
  stop: { graceMs: 0, signal: constants.signals.SIGKILL },
  killMode: "main",
  log: { maxFileBytes: LOG_BYTES, maxFiles: 2, maxTotalBytes: 2 * LOG_BYTES, maxAgeMs: 0, whenFull: "drop" },
};
/** If it is not a folder that a policy shows, a step of its own creates it. */
const ANYWHERE = "/";

/**
 * @param cwd the folder that it always runs in; undefined: each run chooses, which policies that grant the project do
 * not allow
 * @param isServing it is kept by `ipcctl-shim DIR`, answers calls, and ends with the program that holds the shim's
 * standard input
 * @throws IpcError as a start does
 */
export function compileTemplate(
  wanted: Omit<Preparation, "scratch">,
  cwd: string | undefined,
  isServing = false,
): Template {
  const app = { ...wanted.app, cwd: cwd ?? ANYWHERE };
  const preparation = { ...wanted, app, scratch: MARK.scratch, isScratchShut: false };
  const settled = settle(preparation);
  const { plan, policy, environment, ids = null } = settled;
  const executable = locate(settled);
  requireGroup(plan.policy, undefined);
  if (app.script === null) requireBunsProc(executable, plan.policy, policy);
  if (environment !== undefined)
    throw new IpcError(
      "USAGE",
      "the script's packages would be installed at each start; a template needs them in a venv",
      {
        hint: "--interpreter VENV/bin/python",
      },
    );
  const spec = { ...makeRunSpec(complete(preparation, { ...settled, executable })), ...(isServing ? SERVING : {}) };
  const bytes = encodeSpec({ ...spec, argv: [...spec.argv, MARK.argv], env: { ...spec.env, [MARK.env]: "" } });
  const frames = framesOf(bytes).map(({ type, payload }): TemplateFrame => {
    const text = payload.toString("latin1");
    if (type === SPEC.arg && text === MARK.argv) return { type, parts: [{ hole: "argv" }] };
    if (type === SPEC.env && text === `${MARK.env}=`) return { type, parts: [{ hole: "env" }] };
    if (type === SPEC.cwd && cwd === undefined) return { type, parts: [{ hole: "cwd" }] };
    return { type, parts: partsOf(text) };
  });
  if (cwd === undefined && plan.confinement?.mounts.length) frames.splice(placeOfFolder(bytes), 0, folderOfRun());
  const facts = factsOf([executable, ...(app.script === null ? [] : [app.script]), ...policyFiles(policy)]);
  const used = frames.flatMap(({ parts }) => parts.flatMap((part) => ("hole" in part ? [part.hole] : [])));
  return {
    version: 1,
    key: new Bun.CryptoHasher("sha256").update(JSON.stringify([facts, frames])).digest("hex"),
    facts,
    policy: plan.policy.name,
    program: executable,
    user: ids,
    env_allow: plan.policy.env.allow,
    degraded: plan.degraded,
    holes: [...new Set(used)],
    frames,
  };
}

/** Behind visible paths, which may contain it; before hidden ones. */
function placeOfFolder(bytes: Uint8Array): number {
  const all = framesOf(bytes);
  const isMount = (isHiding: boolean) => (frame: { type: number; payload: Buffer }) =>
    frame.type === SPEC.mount && (frame.payload[0] === MOUNT.hide) === isHiding;
  return all.findLastIndex(isMount(false)) + 1;
}

/** The worker's root has the folder of the run, empty if it is not visible. */
function folderOfRun(): TemplateFrame {
  const head = encodeMount({ kind: "folder", path: "" });
  return {
    type: SPEC.mount,
    parts: [{ bytes: head.subarray(0, -2).toString("base64") }, { hole: "cwd", as: "length" }, { hole: "cwd" }],
  };
}

function partsOf(text: string): Part[] {
  const pieces = text.split(MARK.scratch);
  return pieces.flatMap((piece, index): Part[] => [
    ...(index === 0 ? [] : [{ hole: "scratch" } as const]),
    ...(piece === "" ? [] : [{ bytes: Buffer.from(piece, "latin1").toString("base64") }]),
  ]);
}

/** Facts about machine and files that every program can check by itself. */
function factsOf(files: readonly string[]): Facts {
  const lines = readFileSync("/proc/self/status", "utf8").split("\n");
  const status = Object.fromEntries(
    ["CapPrm", "CapBnd", "NoNewPrivs", "Seccomp"].map((name) => [
      name,
      lines
        .find((line) => line.startsWith(`${name}:`))
        ?.slice(name.length + 1)
        .trim() ?? "",
    ]),
  );
  return {
    version: VERSION,
    shim: { path: SHIM_BINARY, version: SHIM_VERSION },
    boot_id: readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim(),
    uid: process.getuid!(),
    gid: process.getgid!(),
    status,
    user_namespace: readlinkSync("/proc/self/ns/user"),
    files: files.map((path) => {
      const { size, mtimeNs } = statSync(path, { bigint: true });
      return { path, bytes: Number(size), mtime_ns: String(mtimeNs) };
    }),
  };
}
