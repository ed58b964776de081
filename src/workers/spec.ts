/** The start specification of one run, as `docs/shim.md` lays it out for the shim. */
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import type { MountStep } from "../sandbox/mounts.ts";
import type { HostRule } from "../sandbox/policy.ts";
import type { Program } from "../sandbox/seccomp.ts";

/** The number of the contract between daemon and shim; the shim prints it with `--version`. */
export const SHIM_VERSION = 1;

/** Frame types of the spec. */
const TYPE = {
  version: 1,
  run: 2,
  arg: 3,
  env: 4,
  cwd: 5,
  ids: 6,
  stop: 7,
  log: 8,
  rlimit: 9,
  cgroup: 10,
  notify: 11,
  wall: 12,
  rawlog: 13,
  confine: 14,
  landlock: 15,
  path: 16,
  filter: 17,
  port: 18,
  patch: 19,
  namespaces: 20,
  mount: 21,
  host: 22,
  answer: 23,
  audit: 24,
  plane: 25,
  name: 26,
  zygote: 27,
  end: 255,
} as const;

export type LogSpec = {
  readonly maxFileBytes: number;
  readonly maxFiles: number;
  readonly maxTotalBytes: number;
  readonly maxAgeMs: number;
  readonly whenFull: "block" | "drop";
};

import type { Rlimit } from "../sandbox/plan.ts";
export type { Rlimit } from "../sandbox/plan.ts";

export type RawLog = {
  readonly stream: "stdout" | "stderr" | "both";
  readonly path: string;
  readonly maxBytes: number;
  readonly maxFiles: number;
};

/** What the shim does to the worker before it may run; compiled by `src/sandbox`. */
export type Confinement = {
  readonly dropsCapabilities: boolean;
  /** Rights that are handled, and so denied but for what `paths` grant; 0 for what stays as it is. */
  readonly landlock?: { readonly fs: bigint; readonly net: bigint; readonly scoped: bigint };
  readonly paths?: readonly { readonly access: bigint; readonly path: string; readonly isOptional?: boolean }[];
  readonly ports?: readonly { readonly access: bigint; readonly port: number }[];
  readonly filters?: readonly Program[];
  /** Bits of unshare(2). */
  readonly namespaces?: number;
  readonly mounts?: readonly MountStep[];
  /** Undefined: nothing is connected in the worker's stead. */
  readonly hosts?: readonly HostRule[] | undefined;
  readonly deniedClasses?: readonly string[];
  /** The log of decisions, and who the worker is there. */
  readonly audit?: { readonly path: string; readonly worker: string } | undefined;
  /** It gets the connection to the shim as a descriptor. */
  readonly isPlanePassed?: boolean;
};

/** As `enum` in native/shim/net.h has them. */
const ADDRESS_CLASSES: Readonly<Record<string, number>> = {
  private: 1,
  loopback: 2,
  "link-local": 4,
  metadata: 8,
  self: 16,
  multicast: 32,
};
const MOUNT_KINDS = { bind: 0, link: 1, folder: 2, scratch: 3, hide: 4, cover: 5 } as const;

/** Everything one run needs. */
export type Spec = {
  readonly run: number;
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly cwd: string;
  readonly ids?: { readonly uid: number; readonly gid: number };
  readonly stop: { readonly graceMs: number; readonly signal: number };
  readonly log?: LogSpec;
  readonly rlimits?: readonly Rlimit[];
  readonly cgroup?: string;
  readonly isNotifying?: boolean;
  readonly wallMs?: number;
  readonly rawLogs?: readonly RawLog[];
  readonly confinement?: Confinement | undefined;
  /** Socket of a snapshot that forks the worker instead of the shim. */
  readonly zygote?: string | undefined;
};

/** Bytes of the spec file. @throws IpcError LIMIT if arguments and environment are too large. */
export function encodeSpec(spec: Spec): Uint8Array {
  const frames: Buffer[] = [
    frame(TYPE.version, u32(SHIM_VERSION)),
    frame(TYPE.run, u64(spec.run)),
    ...spec.argv.map((arg) => frame(TYPE.arg, Buffer.from(arg))),
    ...Object.entries(spec.env).map(([key, value]) => frame(TYPE.env, Buffer.from(`${key}=${value}`))),
    frame(TYPE.cwd, Buffer.from(spec.cwd)),
    frame(TYPE.stop, Buffer.concat([u32(spec.stop.graceMs), u32(spec.stop.signal)])),
  ];
  if (spec.ids) frames.push(frame(TYPE.ids, Buffer.concat([u32(spec.ids.uid), u32(spec.ids.gid)])));
  if (spec.log) frames.push(frame(TYPE.log, encodeLog(spec.log)));
  for (const { resource, soft, hard } of spec.rlimits ?? []) {
    frames.push(frame(TYPE.rlimit, Buffer.concat([u32(resource), u64(soft), u64(hard)])));
  }
  if (spec.cgroup !== undefined) frames.push(frame(TYPE.cgroup, Buffer.from(spec.cgroup)));
  if (spec.isNotifying) frames.push(frame(TYPE.notify, Buffer.alloc(0)));
  if (spec.wallMs !== undefined) frames.push(frame(TYPE.wall, u64(spec.wallMs)));
  for (const raw of spec.rawLogs ?? []) frames.push(frame(TYPE.rawlog, encodeRawLog(raw)));
  if (spec.zygote !== undefined) frames.push(frame(TYPE.zygote, Buffer.from(spec.zygote)));
  if (spec.confinement) frames.push(...encodeConfinement(spec.confinement));
  frames.push(frame(TYPE.end, Buffer.alloc(0)));
  const bytes = Buffer.concat(frames);
  if (bytes.length > limit("specBytes")) {
    throw new IpcError(
      "LIMIT",
      `arguments and environment of ${bytes.length} bytes are too large (at most ${limit("specBytes")})`,
    );
  }
  return bytes;
}

function encodeConfinement(confinement: Confinement): Buffer[] {
  const { dropsCapabilities, landlock, paths = [], ports = [], filters = [], mounts = [], hosts, audit } = confinement;
  const classes = (confinement.deniedClasses ?? []).reduce((bits, name) => bits | (ADDRESS_CLASSES[name] ?? 0), 0);
  return [
    frame(TYPE.confine, Buffer.of(dropsCapabilities ? 1 : 0)),
    ...(confinement.namespaces ? [frame(TYPE.namespaces, u32(confinement.namespaces))] : []),
    ...mounts.map((step) => frame(TYPE.mount, encodeMount(step))),
    ...(landlock
      ? [frame(TYPE.landlock, Buffer.concat([u64(landlock.fs), u64(landlock.net), u64(landlock.scoped)]))]
      : []),
    ...paths.map(({ access, path, isOptional }) =>
      frame(TYPE.path, Buffer.concat([u64(access), Buffer.of(isOptional ? 1 : 0), Buffer.from(path)])),
    ),
    ...ports.map(({ access, port }) => frame(TYPE.port, Buffer.concat([u64(access), u64(port)]))),
    ...filters.flatMap(({ steps, patches, isNotifying }) => [
      frame(TYPE.filter, Buffer.concat([Buffer.of(isNotifying ? 1 : 0), steps])),
      ...patches.map(({ step, what }) => frame(TYPE.patch, Buffer.of(step & 0xff, step >> 8, what))),
    ]),
    frame(TYPE.answer, Buffer.concat([u32(classes), Buffer.of(hosts === undefined ? 0 : 1)])),
    ...(hosts ?? []).map(({ host, port }) =>
      frame(TYPE.host, Buffer.concat([Buffer.of(port & 0xff, port >> 8), Buffer.from(host)])),
    ),
    ...(audit ? [frame(TYPE.name, Buffer.from(audit.worker)), frame(TYPE.audit, Buffer.from(audit.path))] : []),
    ...(confinement.isPlanePassed ? [frame(TYPE.plane, Buffer.alloc(0))] : []),
  ];
}

function encodeMount(step: MountStep): Buffer {
  const flags =
    (step.kind === "bind" && step.isWritable ? 1 : 0) |
    (step.kind === "bind" && step.isDevice ? 2 : 0) |
    (step.kind === "scratch" && step.mayExec ? 4 : 0);
  const [bytes, files] = step.kind === "scratch" ? [step.bytes, step.files] : [0, 0];
  const path = Buffer.from(step.path);
  const target = Buffer.from(step.kind === "link" ? step.target : "");
  const head = [Buffer.of(MOUNT_KINDS[step.kind], flags), u64(bytes), u32(files)];
  return Buffer.concat([...head, Buffer.of(path.length & 0xff, path.length >> 8), path, target]);
}

/** Payload of LOG, in a spec and as a request. */
export function encodeLog(log: LogSpec): Buffer {
  return Buffer.concat([
    u64(log.maxFileBytes),
    u32(log.maxFiles),
    u64(log.maxTotalBytes),
    u64(log.maxAgeMs),
    Buffer.of(log.whenFull === "drop" ? 1 : 0),
  ]);
}

function encodeRawLog(raw: RawLog): Buffer {
  const stream = { stdout: 1, stderr: 2, both: 3 }[raw.stream];
  return Buffer.concat([Buffer.of(stream), u64(raw.maxBytes), u32(raw.maxFiles), Buffer.from(raw.path)]);
}

/** `[u32 length of type and payload][u8 type][payload]`, as on the shim's socket. */
export function frame(type: number, payload: Uint8Array): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32LE(payload.length + 1, 0);
  head.writeUInt8(type, 4);
  return Buffer.concat([head, payload]);
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

function u64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(typeof value === "bigint" ? value : BigInt(Math.trunc(value)));
  return bytes;
}
