/** The start specification of one run, as `docs/shim.md` lays it out for the shim. */
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";

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
  end: 255,
} as const;

export type LogSpec = {
  readonly maxFileBytes: number;
  readonly maxFiles: number;
  readonly maxTotalBytes: number;
  readonly maxAgeMs: number;
  readonly whenFull: "block" | "drop";
};

export type Rlimit = { readonly resource: number; readonly soft: number; readonly hard: number };

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
  /** Programs of seccomp, eight bytes a step. */
  readonly filters?: readonly Uint8Array[];
};

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

function encodeConfinement({ dropsCapabilities, landlock, paths = [], filters = [] }: Confinement): Buffer[] {
  return [
    frame(TYPE.confine, Buffer.of(dropsCapabilities ? 1 : 0)),
    ...(landlock
      ? [frame(TYPE.landlock, Buffer.concat([u64(landlock.fs), u64(landlock.net), u64(landlock.scoped)]))]
      : []),
    ...paths.map(({ access, path, isOptional }) =>
      frame(TYPE.path, Buffer.concat([u64(access), Buffer.of(isOptional ? 1 : 0), Buffer.from(path)])),
    ),
    ...filters.map((program) => frame(TYPE.filter, Buffer.from(program))),
  ];
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
