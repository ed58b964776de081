/** The start specification of one run, in the layout of `docs/internals/shim.md`. */
import type { AddressClass } from "../../contract/addresses.ts";
import {
  ADDRESS_CLASS,
  KILL_MODE,
  MOUNT,
  MOUNT_FLAG,
  RAW_STREAM,
  SHIM_VERSION,
  SHIM_VERSION_MIN,
  SPEC,
} from "../../contract/shim.ts";
import { IpcError } from "../base/errors.ts";
import type { KillMode } from "../base/kill-modes.ts";
import { limit } from "../base/limits.ts";
import type { MountStep } from "../sandbox/mounts.ts";
import type { HostRule } from "../sandbox/hosts.ts";
import type { Program } from "../sandbox/seccomp.ts";

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
  readonly stream: keyof typeof RAW_STREAM;
  readonly path: string;
  readonly maxBytes: number;
  readonly maxFiles: number;
};

/** What the shim does to the worker before it may run, compiled by `src/sandbox`. */
export type Confinement = {
  readonly dropsCapabilities: boolean;
  /** Rights that are handled, and so denied except for what `paths` grants; 0 leaves access as it is. */
  readonly landlock?: { readonly fs: bigint; readonly net: bigint; readonly scoped: bigint };
  readonly paths?: readonly { readonly access: bigint; readonly path: string; readonly isOptional?: boolean }[];
  readonly ports?: readonly { readonly access: bigint; readonly port: number }[];
  readonly filters?: readonly Program[];
  /** Bits of unshare(2). */
  readonly namespaces?: number;
  readonly mounts?: readonly MountStep[];
  /** Undefined: there is no connect helper. */
  readonly hosts?: readonly HostRule[] | undefined;
  /** Besides the hosts, the worker may connect Unix sockets itself. */
  readonly hasUnix?: boolean;
  readonly deniedClasses?: readonly AddressClass[];
  /** The audit log, and the worker's name in it. */
  readonly audit?: { readonly path: string; readonly worker: string } | undefined;
  /** The worker gets its connection to the shim as a descriptor. */
  readonly isPlanePassed?: boolean;
};

/** Everything one run needs. */
export type Spec = {
  readonly run: number;
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly cwd: string;
  readonly ids?: { readonly uid: number; readonly gid: number };
  readonly stop: { readonly graceMs: number; readonly signal: number };
  /** Who gets the signal of a stop. Null or absent: the shim decides by what the main process is. */
  readonly killMode?: KillMode | null;
  /** Of the worker; absent: that of the shim's starter. */
  readonly umask?: number | undefined;
  readonly log?: LogSpec;
  readonly rlimits?: readonly Rlimit[];
  readonly cgroup?: string;
  /**
   * The worker ends with the program that holds a pipe to the shim (its standard input, or with the caller's stdio a
   * descriptor behind it), or that claims it within so long.
   */
  readonly owner?: "pipe" | { readonly claimMs: number } | undefined;
  /** The worker gets the stdio of the shim, which whoever starts that has chosen. */
  readonly hasCallersStdio?: boolean;
  /** What the worker reads from its standard input. It goes through a pipe, and only its length is in the file. */
  readonly input?: string | undefined;
  readonly isNotifying?: boolean;
  readonly wallMs?: number;
  readonly rawLogs?: readonly RawLog[];
  readonly confinement?: Confinement | undefined;
  /** It asks the host by lines of its stdout, and is answered by lines of its stdin. */
  readonly asksByLines?: boolean;
  /** Programs that it starts may ask the host. */
  readonly hasCommands?: boolean;
  /** Socket of a snapshot that forks the worker in place of the shim. */
  readonly zygote?: string | undefined;
};

/** The lowest specification version that knows these, so that snapshots of older installations can read it. */
export function specVersion(killMode: KillMode | null, asksByLines: boolean): number {
  return killMode === null && !asksByLines ? SHIM_VERSION_MIN : SHIM_VERSION;
}

/** Bytes of the spec file. @throws IpcError LIMIT if arguments and environment are too large */
export function encodeSpec(spec: Spec): Uint8Array {
  const { killMode = null, asksByLines = false } = spec;
  const { confinement } = spec;
  const isNew =
    spec.umask !== undefined ||
    spec.owner !== undefined ||
    spec.input !== undefined ||
    spec.hasCommands === true ||
    spec.hasCallersStdio === true ||
    confinement?.mounts?.some((step) => step.kind === "bind" && step.isMapped === true) === true ||
    (confinement?.hosts !== undefined && confinement.hasUnix === true);
  const frames: Buffer[] = [
    frame(SPEC.version, u32(isNew ? SHIM_VERSION : specVersion(killMode, asksByLines))),
    frame(SPEC.run, u64(spec.run)),
    ...spec.argv.map((arg) => frame(SPEC.arg, Buffer.from(arg))),
    ...Object.entries(spec.env).map(([key, value]) => frame(SPEC.env, Buffer.from(`${key}=${value}`))),
    frame(SPEC.cwd, Buffer.from(spec.cwd)),
    frame(SPEC.stop, Buffer.concat([u32(spec.stop.graceMs), u32(spec.stop.signal)])),
  ];
  if (killMode !== null) frames.push(frame(SPEC.kill, Buffer.of(KILL_MODE[killMode])));
  if (spec.umask !== undefined) frames.push(frame(SPEC.umask, u32(spec.umask)));
  if (spec.ids) frames.push(frame(SPEC.ids, Buffer.concat([u32(spec.ids.uid), u32(spec.ids.gid)])));
  if (spec.log) frames.push(frame(SPEC.log, encodeLog(spec.log)));
  for (const { resource, soft, hard } of spec.rlimits ?? []) {
    frames.push(frame(SPEC.rlimit, Buffer.concat([u32(resource), u64(soft), u64(hard)])));
  }
  if (spec.cgroup !== undefined) frames.push(frame(SPEC.cgroup, Buffer.from(spec.cgroup)));
  if (spec.owner !== undefined)
    frames.push(frame(SPEC.owner, spec.owner === "pipe" ? Buffer.alloc(0) : u32(spec.owner.claimMs)));
  if (spec.input !== undefined) frames.push(frame(SPEC.input, u32(Buffer.byteLength(spec.input))));
  if (spec.isNotifying) frames.push(frame(SPEC.notify, Buffer.alloc(0)));
  if (spec.hasCallersStdio) frames.push(frame(SPEC.stdio, Buffer.alloc(0)));
  if (asksByLines) frames.push(frame(SPEC.lines, Buffer.alloc(0)));
  if (spec.hasCommands) frames.push(frame(SPEC.commands, Buffer.alloc(0)));
  if (spec.wallMs !== undefined) frames.push(frame(SPEC.wall, u64(spec.wallMs)));
  for (const raw of spec.rawLogs ?? []) frames.push(frame(SPEC.rawlog, encodeRawLog(raw)));
  if (spec.zygote !== undefined) frames.push(frame(SPEC.zygote, Buffer.from(spec.zygote)));
  if (spec.confinement) frames.push(...encodeConfinement(spec.confinement));
  frames.push(frame(SPEC.end, Buffer.alloc(0)));
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
  const classes = (confinement.deniedClasses ?? []).reduce((bits, name) => bits | ADDRESS_CLASS[name], 0);
  return [
    frame(SPEC.confine, Buffer.of(dropsCapabilities ? 1 : 0)),
    ...(confinement.namespaces ? [frame(SPEC.namespaces, u32(confinement.namespaces))] : []),
    ...mounts.map((step) => frame(SPEC.mount, encodeMount(step))),
    ...(landlock
      ? [frame(SPEC.landlock, Buffer.concat([u64(landlock.fs), u64(landlock.net), u64(landlock.scoped)]))]
      : []),
    ...paths.map(({ access, path, isOptional }) =>
      frame(SPEC.path, Buffer.concat([u64(access), Buffer.of(isOptional ? 1 : 0), Buffer.from(path)])),
    ),
    ...ports.map(({ access, port }) => frame(SPEC.port, Buffer.concat([u64(access), u64(port)]))),
    ...filters.flatMap(({ steps, patches, isNotifying }) => [
      frame(SPEC.filter, Buffer.concat([Buffer.of(isNotifying ? 1 : 0), steps])),
      ...patches.map(({ step, what }) => frame(SPEC.patch, Buffer.of(step & 0xff, step >> 8, what))),
    ]),
    frame(SPEC.answer, Buffer.concat([u32(classes), Buffer.of(hosts === undefined ? 0 : confinement.hasUnix ? 2 : 1)])),
    ...(hosts ?? []).map(({ host, port }) =>
      frame(SPEC.host, Buffer.concat([Buffer.of(port & 0xff, port >> 8), Buffer.from(host)])),
    ),
    ...(audit ? [frame(SPEC.name, Buffer.from(audit.worker)), frame(SPEC.audit, Buffer.from(audit.path))] : []),
    ...(confinement.isPlanePassed ? [frame(SPEC.plane, Buffer.alloc(0))] : []),
  ];
}

/** Payload of MOUNT: behind the head come the length of the path in two bytes, the path, and the target of a link. */
export function encodeMount(step: MountStep): Buffer {
  const flags =
    (step.kind === "bind" && step.isWritable ? MOUNT_FLAG.writable : 0) |
    (step.kind === "bind" && step.isDevice ? MOUNT_FLAG.device : 0) |
    (step.kind === "bind" && step.isMapped === true ? MOUNT_FLAG.mapped : 0) |
    (step.kind === "scratch" && step.mayExec ? MOUNT_FLAG.mayExec : 0);
  const [bytes, files] = step.kind === "scratch" ? [step.bytes, step.files] : [0, 0];
  const path = Buffer.from(step.path);
  const target = Buffer.from(step.kind === "link" ? step.target : "");
  const head = [Buffer.of(MOUNT[step.kind], flags), u64(bytes), u32(files)];
  return Buffer.concat([...head, Buffer.of(path.length & 0xff, path.length >> 8), path, target]);
}

/** Payload of LOG, in a spec and as a request. */
function encodeLog(log: LogSpec): Buffer {
  return Buffer.concat([
    u64(log.maxFileBytes),
    u32(log.maxFiles),
    u64(log.maxTotalBytes),
    u64(log.maxAgeMs),
    Buffer.of(log.whenFull === "drop" ? 1 : 0),
  ]);
}

function encodeRawLog(raw: RawLog): Buffer {
  return Buffer.concat([
    Buffer.of(RAW_STREAM[raw.stream]),
    u64(raw.maxBytes),
    u32(raw.maxFiles),
    Buffer.from(raw.path),
  ]);
}

/** `[u32 length of type and payload][u8 type][payload]`, as on the shim's socket. */
export function frame(type: number, payload: Uint8Array): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32LE(payload.length + 1, 0);
  head.writeUInt8(type, 4);
  return Buffer.concat([head, payload]);
}

/** The frames of a specification that was encoded here. */
export function framesOf(bytes: Uint8Array): { readonly type: number; readonly payload: Buffer }[] {
  const all = Buffer.from(bytes);
  const frames: { type: number; payload: Buffer }[] = [];
  for (let at = 0; at < all.length;) {
    const end = at + 4 + all.readUInt32LE(at);
    frames.push({ type: all.readUInt8(at + 4), payload: all.subarray(at + 5, end) });
    at = end;
  }
  return frames;
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
