/**
 * Policies: what a worker may do, as JSON files, with everything denied by default. A policy is enforced in full or
 * refused: a worker never runs with less confinement than was asked for.
 */
import { existsSync, readdirSync, statSync } from "node:fs";
import { dirname, isAbsolute, join, normalize, resolve } from "node:path";
import { z } from "zod";
import type { AddressClass } from "../../contract/addresses.ts";
import { ADDRESS_CLASS, SHIM_MAX } from "../../contract/shim.ts";
import { readText } from "../base/bytes.ts";
import { IpcError } from "../base/errors.ts";
import { ROOT } from "../base/install.ts";
import { limit } from "../base/limits.ts";
import { parseSizeBytes, requireMemory } from "../base/units.ts";
import { type HostRule, splitHost } from "./hosts.ts";

export { DEFAULT_POLICY } from "../base/default-policies.ts";

const FOLDER = join(ROOT, "policies");
const ADDRESS_CLASSES = Object.keys(ADDRESS_CLASS) as AddressClass[]; // keys of a closed table
const VARIABLES = ["project", "home"] as const;
/** Variables that may begin a path: `${project}/data`. */
export type Variables = Readonly<Record<(typeof VARIABLES)[number], string>>;

const path = z.string().refine(
  (text) => {
    const bare = text.replace(/^\$\{(project|home)\}(?=\/|$)/, "/");
    return isAbsolute(bare) && !bare.includes("${") && !bare.includes("\0") && !bare.split("/").includes("..");
  },
  `must be an absolute path without "..", or begin with one of ${VARIABLES.map((name) => `\${${name}}`).join(", ")}`,
);

const place = z.union([path, z.strictObject({ path, optional: z.boolean().optional() })]);
const places = z.array(place).max(limit("policyPaths"));

const sizeBy = (check: (bytes: number) => number) =>
  z.string().transform((text, context) => {
    try {
      const bytes = parseSizeBytes(text, "size");
      if (bytes < SIZE_MIN || bytes > SIZE_MAX) throw new Error("must be from 4K to 1024T");
      return check(bytes);
    } catch (error) {
      context.addIssue({ code: "custom", message: (error as Error).message });
      return z.NEVER;
    }
  });
const size = sizeBy((bytes) => bytes);

/** Python with its channels needs about 40. */
const OPEN_FILES_MIN = 64;
/** One page; and a number far beyond any machine that still fits every counter of the kernel. */
const SIZE_MIN = 4096;
const SIZE_MAX = 1024 ** 5;
const SECONDS_MAX = 1_000_000_000;
const portNumber = z.int().min(1).max(65_535);
const host = z.string().refine((text) => splitHost(text) !== undefined, {
  message:
    'must be HOST:PORT with a name, "*.name", an address (IPv6 in brackets) or a network as "10.0.0.0/8"; port "*" is any',
});

/** Variables, or prefixes of them, that can redirect a loader, an interpreter or a proxy. */
const DANGEROUS = [
  ...["LD_*", "PYTHON*", "BASH_ENV", "ENV", "GCONV_PATH", "SSH_AUTH_SOCK", "DBUS_*", "DOCKER_HOST"],
  ...["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY"],
];

/** Whether a name, or a prefix followed by a star, can match one of them. */
function isDangerous(name: string): boolean {
  const beginning = name.toUpperCase().replace(/\*$/, "");
  return DANGEROUS.some((one) => {
    const other = one.replace(/\*$/, "");
    if (name.endsWith("*") && other.startsWith(beginning)) return true;
    return one.endsWith("*") ? beginning.startsWith(other) : beginning === other && !name.endsWith("*");
  });
}
const tool = z
  .string()
  .regex(/^[a-z0-9_*-]+(\.[a-z0-9_*-]+)?$/, "must be the name of a tool, as files.read, or a pattern, as files.*");
const groupName = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/, "must be the name of a group");
const variable = z
  .string()
  .regex(/^([A-Za-z_][A-Za-z0-9_]*\*?|\*)$/, "must be the name of a variable, or a beginning and *");

/**
 * A policy file before its base policies are applied. Every key is optional; what no policy of the chain grants is
 * denied.
 */
const schema = z.strictObject({
  $schema: z.string().optional(),
  version: z.literal(1).describe("The version of this format."),
  description: z.string().max(500).optional().describe("A description of one line."),
  extends: z
    .string()
    .optional()
    .describe("Name of a shipped policy, or path of a file, whose keys apply unless they are given here."),
  isolation: z
    .strictObject({
      require: z
        .array(z.enum(["namespaces", "cgroup"]))
        .optional()
        .describe("Without these the worker does not start."),
      want: z
        .array(z.enum(["namespaces", "cgroup"]))
        .optional()
        .describe("Used if this machine has them."),
      onMissing: z
        .enum(["refuse", "degrade"])
        .optional()
        .describe("degrade: starts without what the kernel lacks, and reports that."),
    })
    .optional(),
  network: z
    .strictObject({
      mode: z.enum(["any", "none", "allow"]).optional().describe("allow: only TCP to the hosts in `allow`."),
      allow: z.array(host).max(limit("policyHosts")).optional().describe("HOST:PORT to which the worker may connect."),
      denyResolved: z
        .array(z.enum(ADDRESS_CLASSES))
        .optional()
        .describe("Addresses refused after resolution, unless `allow` names them as addresses."),
      listen: z
        .union([z.literal("any"), z.array(portNumber).max(SHIM_MAX.ports)])
        .optional()
        .describe("TCP ports to listen on."),
      unix: z.enum(["any", "none"]).optional().describe("Unix sockets with a path."),
    })
    .optional(),
  files: z
    .strictObject({
      read: places.optional(),
      write: places.optional().describe("Also read."),
      exec: places.optional().describe("Programs, or folders with programs, if process.exec is granted."),
      deny: places.optional().describe("Excepted from the grants; needs namespaces if it lies below a grant."),
      scratch: z
        .strictObject({
          size: size.optional(),
          files: z.int().min(16).max(1_000_000).optional(),
          exec: z.boolean().optional(),
        })
        .nullable()
        .optional()
        .describe("A folder for this worker alone, TMPDIR."),
      metadata: z
        .enum(["allow", "deny"])
        .optional()
        .describe(
          "Changes of modes, owners, times and attributes of files. With namespaces and without procfs, modes and times of what may be written can be changed anyway.",
        ),
    })
    .optional(),
  env: z
    .strictObject({
      allow: z
        .array(variable)
        .max(256)
        .optional()
        .describe('Inherited variables; a trailing * stands for any ending, "*" for all.'),
      set: z
        .record(
          z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/),
          z.string().refine((text) => !text.includes("\0"), "must not contain a NUL"),
        )
        .optional(),
      dangerous: z.boolean().optional().describe("May name variables that redirect loaders, interpreters and proxies."),
    })
    .optional(),
  process: z
    .strictObject({
      exec: z.boolean().optional().describe("Other programs."),
      fork: z.boolean().optional().describe("Child processes."),
      threads: z.int().min(1).max(100_000).nullable().optional(),
      procfs: z
        .enum(["none", "self", "all"])
        .optional()
        .describe("/proc: self shows only the worker and its children."),
      devices: places.optional(),
      uid: z.enum(["keep", "auto"]).optional().describe("auto: as root, a user of its own."),
    })
    .optional(),
  limits: z
    .strictObject({
      memory: sizeBy((bytes) => requireMemory(bytes, "memory"))
        .nullable()
        .optional(),
      addressSpace: size
        .nullable()
        .optional()
        .describe("Memory that may be reserved, used or not; the default is 8 times `memory`."),
      cpuSeconds: z.int().min(1).max(SECONDS_MAX).nullable().optional(),
      cpuPercent: z.number().positive().max(100_000).nullable().optional(),
      pids: z.int().min(1).max(4_194_304).nullable().optional(),
      fileSize: size.nullable().optional(),
      openFiles: z.int().min(OPEN_FILES_MIN).max(1_048_576).nullable().optional(),
      wallSeconds: z.number().positive().max(SECONDS_MAX).nullable().optional(),
      log: size.nullable().optional(),
      enforce: z.enum(["best", "cgroup"]).optional(),
    })
    .optional(),
  host: z
    .strictObject({
      tools: z.array(tool).max(limit("policyTools")).optional().describe("Tools of plugins, as files.read or files.*"),
      group: groupName.optional().describe("Whose data the tools work on; without it that of the app."),
      rate: z
        .record(tool, z.string().regex(/^\d{1,9}\/[smhd]$/, "must be a number and a time, as 10/m"))
        .optional()
        .describe("By tool, how many calls in what time, as 10/m."),
      runtimes: z
        .int()
        .min(0)
        .max(limit("policyRuntimes"))
        .optional()
        .describe("Runtimes of JavaScript that it may have at once, none of which may do more than it may itself."),
    })
    .optional()
    .describe("What the worker may ask the host for."),
  audit: z
    .strictObject({
      network: z.enum(["all", "none"]).optional().describe("Decisions about hosts."),
      denied: z.boolean().optional().describe("Denied system calls."),
    })
    .optional(),
});

export type PolicyFile = z.infer<typeof schema>;
export type Place = { readonly path: string; readonly isOptional: boolean };
export type Isolation = "namespaces" | "cgroup";

/** With all base policies applied and the rest denied. Sizes in bytes; null means no limit. */
export type Policy = {
  readonly name: string;
  readonly description: string;
  readonly isolation: {
    readonly require: readonly Isolation[];
    readonly want: readonly Isolation[];
    readonly mayDegrade: boolean;
  };
  readonly network: {
    readonly mode: "any" | "none" | "allow";
    readonly allow: readonly HostRule[];
    readonly denyResolved: readonly AddressClass[];
    readonly listen: "any" | readonly number[];
    readonly hasUnix: boolean;
  };
  readonly files: {
    readonly read: readonly Place[];
    readonly write: readonly Place[];
    readonly exec: readonly Place[];
    readonly deny: readonly Place[];
    readonly scratch: { readonly size: number | null; readonly files: number | null; readonly mayExec: boolean } | null;
    readonly metadata: "allow" | "deny";
  };
  readonly env: { readonly allow: readonly string[]; readonly set: Readonly<Record<string, string>> };
  readonly process: {
    readonly mayExec: boolean;
    readonly mayFork: boolean;
    readonly threads: number | null;
    readonly hasProc: boolean;
    /** Its own entry only. */
    readonly hasOwnProc: boolean;
    readonly devices: readonly Place[];
    readonly hasOwnUser: boolean;
  };
  readonly limits: {
    readonly memory: number | null;
    /** Address space that may be reserved, touched or not. Undefined: a multiple of the memory. */
    readonly addressSpace: number | null | undefined;
    readonly cpuSeconds: number | null;
    readonly cpuPercent: number | null;
    readonly pids: number | null;
    readonly fileSize: number | null;
    readonly openFiles: number | null;
    readonly wallMs: number | null;
    readonly log: number | null;
    readonly needsCgroup: boolean;
  };
  readonly audit: { readonly hasNetwork: boolean; readonly hasDenied: boolean };
  /** What it may ask the host for. */
  readonly host: {
    readonly tools: readonly string[];
    readonly group: string | undefined;
    readonly rates: Readonly<Record<string, string>>;
    /** Of JavaScript, at once. */
    readonly runtimes: number;
  };
};

/** Whether the worker asks the host for anything. */
export function asksHost({ host }: Policy): boolean {
  return host.tools.length > 0 || host.runtimes > 0;
}

/** Whether the worker may start the command that asks for it. */
export function asksByShell({ host, process }: Policy): boolean {
  return host.tools.length > 0 && process.mayExec;
}

/** Names of the policies that ship. */
export function shippedPolicies(): string[] {
  let files: string[];
  try {
    files = readdirSync(FOLDER);
  } catch (error) {
    throw new IpcError("FAILED", `the shipped policies cannot be read: ${(error as Error).message}`, {
      hint: "is another version being installed? Then try again; else install ipcctl anew",
      cause: error,
    });
  }
  return files
    .filter((file) => file.endsWith(".json"))
    .map((file) => file.slice(0, -".json".length))
    .toSorted();
}

/** The JSON Schema of a policy file. */
export function policyJsonSchema(): unknown {
  return z.toJSONSchema(schema, { io: "input" });
}

/**
 * @param name a policy that ships, the path of a file, or a policy as JSON text
 * @throws IpcError POLICY_REFUSED if it does not exist, BAD_CONFIG with the place in the file
 */
export function loadPolicy(name: string, variables: Variables = { project: "/project", home: "/home" }): Policy {
  return flatten(
    policyTitle(name),
    chainOf(name)
      .map(({ policy }) => policy)
      .toReversed(),
    variables,
  );
}

/** The files that decide what it says: its own, and those of its base policies. Inline policies have none. */
export function policyFiles(name: string): string[] {
  return chainOf(name).flatMap(({ file }) => file ?? []);
}

/** The policy, then its base policies in order. */
function chainOf(name: string): { readonly policy: PolicyFile; readonly file: string | undefined }[] {
  const chain: PolicyFile[] = [];
  const files: (string | undefined)[] = [];
  for (let next: string | undefined = name; next !== undefined; next = chain.at(-1)!.extends) {
    if (chain.length === limit("policyExtends"))
      throw new IpcError("BAD_CONFIG", `policy ${name}: extends more than ${limit("policyExtends")} others, or itself`);
    chain.push(readPolicy(next));
    files.push(isInline(next) ? undefined : fileOf(next));
    // A base policy lies beside the file that names it.
    const { extends: base } = chain.at(-1)!;
    if (base?.includes("/") && !isInline(base) && !isAbsolute(base))
      chain[chain.length - 1] = {
        ...chain.at(-1)!,
        extends: resolve(next.includes("/") && !isInline(next) ? dirname(next) : ".", base),
      };
  }
  return chain.map((policy, index) => ({ policy, file: files[index] }));
}

/** A policy that is given as JSON text. */
export function isInline(name: string): boolean {
  return name.startsWith("{");
}

const EXCEPTIONS = " with exceptions";

/** The name of a policy for people. */
export function policyTitle(name: string): string {
  if (!isInline(name)) return name;
  const base = policyTitle(parsePolicy(name, "policy").extends ?? "inline");
  return base.endsWith(EXCEPTIONS) ? base : `${base}${EXCEPTIONS}`;
}

function flatten(name: string, chain: readonly PolicyFile[], variables: Variables): Policy {
  /** For each section, the keys of the last policy that sets them. */
  const section = <K extends "isolation" | "network" | "files" | "env" | "process" | "limits" | "audit" | "host">(
    key: K,
  ): NonNullable<PolicyFile[K]> =>
    Object.assign({}, ...chain.map((one) => one[key] ?? {})) as NonNullable<PolicyFile[K]>;
  const isolation = section("isolation");
  const network = section("network");
  const files = section("files");
  const env = section("env");
  requireProject(name, files, variables);
  const process = section("process");
  const limits = section("limits");
  const audit = section("audit");
  const asked = section("host");
  const at = (
    list: PolicyFile["files"] extends infer F | undefined ? (F extends { read?: infer R } ? R : never) : never,
  ): Place[] =>
    (list ?? []).map((one) => ({
      path: substitute(typeof one === "string" ? one : one.path, variables),
      isOptional: typeof one !== "string" && one.optional === true,
    }));
  const dangerous = [...(env.allow ?? []), ...Object.keys(env.set ?? {})].find(
    (one) => one !== "*" && isDangerous(one),
  );
  if (dangerous !== undefined && env.dangerous !== true)
    throw new IpcError(
      "BAD_CONFIG",
      `policy ${name}: $.env: ${dangerous} can lead the interpreter or its network elsewhere`,
      {
        hint: 'leave it out, or say "dangerous": true beside it',
      },
    );
  return {
    name,
    description: chain.at(-1)!.description ?? "",
    isolation: {
      require: isolation.require ?? [],
      want: [...new Set([...(isolation.require ?? []), ...(isolation.want ?? [])])],
      mayDegrade: isolation.onMissing === "degrade",
    },
    network: {
      mode: network.mode ?? "none",
      allow: (network.allow ?? []).map((text) => splitHost(text)!),
      denyResolved: network.denyResolved ?? ADDRESS_CLASSES,
      listen: network.listen ?? [],
      hasUnix: network.unix === "any",
    },
    files: {
      read: at(files.read),
      write: at(files.write),
      exec: at(files.exec),
      deny: at(files.deny),
      scratch: files.scratch
        ? { size: files.scratch.size ?? null, files: files.scratch.files ?? null, mayExec: files.scratch.exec ?? false }
        : null,
      metadata: files.metadata ?? "deny",
    },
    env: { allow: env.allow ?? [], set: env.set ?? {} },
    process: {
      mayExec: process.exec ?? false,
      mayFork: process.fork ?? false,
      threads: process.threads ?? null,
      hasProc: process.procfs === "all",
      hasOwnProc: process.procfs === "self",
      devices: at(process.devices),
      hasOwnUser: (process.uid ?? "auto") === "auto",
    },
    limits: {
      memory: limits.memory ?? null,
      addressSpace: limits.addressSpace,
      cpuSeconds: limits.cpuSeconds ?? null,
      cpuPercent: limits.cpuPercent ?? null,
      pids: limits.pids ?? null,
      fileSize: limits.fileSize ?? null,
      openFiles: limits.openFiles ?? null,
      wallMs: limits.wallSeconds ? Math.ceil(limits.wallSeconds * 1000) : null,
      log: limits.log ?? null,
      needsCgroup: limits.enforce === "cgroup",
    },
    audit: { hasNetwork: (audit.network ?? "all") === "all", hasDenied: audit.denied ?? true },
    host: { tools: asked.tools ?? [], group: asked.group, rates: asked.rate ?? {}, runtimes: asked.runtimes ?? 0 },
  };
}

function substitute(path: string, variables: Variables): string {
  const whole = path.replace(/^\$\{(project|home)\}/, (_, name: keyof Variables) => variables[name]);
  return normalize(whole).replace(/(.)\/+$/, "$1");
}

/**
 * A project folder that is the whole machine or the whole home is hardly intended.
 * @throws IpcError POLICY_REFUSED
 */
function requireProject(name: string, files: NonNullable<PolicyFile["files"]>, { project, home }: Variables): void {
  const lists = [files.read, files.write, files.exec].flatMap((list) => list ?? []);
  const isUsed = lists.some((one) => (typeof one === "string" ? one : one.path).startsWith("${project}"));
  const folder = resolve(project);
  const what = folder === "/" ? "all of the machine" : folder === resolve(home) ? "your home folder" : undefined;
  if (isUsed && what !== undefined)
    throw new IpcError("POLICY_REFUSED", `policy ${name}: \${project} would be ${what} (${project})`, {
      hint: "start it in the folder of the project, with cd or --cwd; or --policy strict --allow-read PATH",
    });
}

/** @throws IpcError BAD_CONFIG naming the file, the place in it and the mistake */
export function parsePolicy(text: string, where: string): PolicyFile {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new IpcError("BAD_CONFIG", `${where}: ${(error as Error).message}`);
  }
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  const { path: at, message } = result.error.issues[0]!;
  throw new IpcError("BAD_CONFIG", `${where}: ${["$", ...at].join(".")}: ${message}`, {
    hint: "ipcctl policy show strict prints one that works",
  });
}

function readPolicy(name: string): PolicyFile {
  if (isInline(name)) return parsePolicy(name, "policy");
  const file = fileOf(name);
  if (!existsSync(file))
    throw new IpcError("POLICY_REFUSED", `no policy ${JSON.stringify(name)}`, {
      hint: `there are: ${shippedPolicies().join(", ")}; or give the path of a file`,
    });
  return readPolicyFile(file, file);
}

function fileOf(name: string): string {
  return name.includes("/") ? name : join(FOLDER, `${name}.json`);
}

/** @throws IpcError BAD_CONFIG naming `where` and the mistake */
export function readPolicyFile(path: string, where: string): PolicyFile {
  const bad = (why: string): IpcError => new IpcError("BAD_CONFIG", `${where}: ${why}`);
  const status = statSync(path);
  if (!status.isFile()) throw bad("not a regular file");
  if (status.size > limit("policyBytes")) throw bad(`more than ${limit("policyBytes")} bytes`);
  try {
    return parsePolicy(readText(path), where);
  } catch (error) {
    throw error instanceof IpcError ? error : bad((error as Error).message);
  }
}
