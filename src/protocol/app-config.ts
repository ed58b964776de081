/**
 * The definition of an app, as in `Start` and in `ipcctl.json`: bunctl's fields in all spellings of its versions, and
 * ours. The result has one normal form with units in the names.
 */
import { z } from "zod";
import { IpcError } from "../base/errors.ts";
import { KILL_MODES } from "../base/kill-modes.ts";
import { limit } from "../base/limits.ts";
import { RESTART_POLICIES, type RestartPolicy } from "../base/restart-policies.ts";
import { splitWords } from "../base/shell-words.ts";
import { TRANSPORTS } from "../base/transports.ts";
import { formatUptime, parseDurationMs, parseSizeBytes, requireMemory } from "../base/units.ts";
import { findDuplicateKey } from "./json-keys.ts";
import { KIND_NAMES, kindOfOld, LIVES } from "./kinds.ts";

const POLICY_SPELLINGS: Record<string, RestartPolicy> = {
  no: "no",
  always: "always",
  "on-failure": "on-failure",
  "unless-stopped": "unless-stopped",
  No: "no",
  Always: "always",
  OnFailure: "on-failure",
  UnlessStopped: "unless-stopped",
};

const serdeDuration = z
  .strictObject({ secs: z.int().min(0), nanos: z.int().min(0).max(999_999_999) })
  .transform(({ secs, nanos }) => secs * 1000 + Math.round(nanos / 1e6));

/** A duration: `{"secs","nanos"}`, `"10s"`, or milliseconds as a number. */
const durationUpTo = (maxMs: number) =>
  z
    .union([
      z.number().min(0),
      z.string().transform(wrapped((text) => parseDurationMs(text, "duration"))),
      serdeDuration,
    ])
    .pipe(z.number().max(maxMs, `must be at most ${formatUptime(maxMs / 1000)}`))
    .meta({ description: 'a duration: "10s", {"secs":10,"nanos":0}, or milliseconds' });
const durationMs = durationUpTo(limit("restartDelayMs"));

const sizeBytes = z
  .union([z.int().min(0), z.string().transform(wrapped((text) => parseSizeBytes(text, "size")))])
  .meta({ description: 'a size: "512M" or bytes' });
const memoryBytes = sizeBytes.transform(wrapped((bytes) => requireMemory(bytes, "size")));

const restartPolicy = z
  .string()
  .refine((text) => Object.hasOwn(POLICY_SPELLINGS, text), `must be one of ${RESTART_POLICIES.join(", ")}`)
  .transform((text) => POLICY_SPELLINGS[text]!)
  .meta({ description: `when to start again: ${RESTART_POLICIES.join(", ")}` });

const checkType = z.union([
  z.object({
    type: z.literal("http"),
    url: z.url({ protocol: /^https?$/ }),
    expected_status: z.int().min(100).max(599).default(200),
  }),
  z.object({ type: z.literal("tcp"), host: z.string().min(1), port: z.int().min(1).max(65_535) }),
  z.object({ type: z.literal("exec"), command: z.string().min(1), args: z.array(z.string()).default([]) }),
]);
const healthShape = z.strictObject({
  check_type: checkType,
  interval: durationMs.default(30_000),
  timeout: durationMs.default(5_000),
  retries: z.int().min(1).max(1000).default(3),
  start_period: durationMs.default(0),
});
/**
 * The short form of `--health` and `"health"`: a URL is requested, `tcp://host:port` is connected to, anything else is
 * executed.
 */
const healthText = z
  .string()
  .min(1)
  .refine((text) => !text.startsWith("tcp:") || /^tcp:\/\/.+:\d{1,5}$/.test(text), "write tcp://HOST:PORT")
  .transform((text) => ({
    check_type: shortCheck(text),
    interval: 30_000,
    timeout: 5_000,
    retries: 3,
    start_period: 0,
  }));
const health = z.union([healthText, healthShape]);

const backoff = z.strictObject({
  base_delay_ms: z.int().min(0).max(limit("restartDelayMs")).default(100),
  max_delay_ms: z.int().min(0).max(limit("restartDelayMs")).default(30_000),
  multiplier: z.number().min(1).max(1000).default(2),
  jitter: z.number().min(0).max(1).default(0.3),
  max_attempts: z
    .int()
    .min(0)
    .max(4_294_967_295)
    .nullish()
    .transform((value) => value ?? null),
  exhausted_action: z
    .enum(["stop", "remove", "Stop", "Remove"])
    .default("stop")
    .transform((a) => a.toLowerCase() as "stop" | "remove"),
});

const log = z.strictObject({
  max_size: sizeBytes.default(10_485_760),
  max_files: z.int().min(0).max(100_000).default(10),
  max_total: sizeBytes.default(0),
  max_age: durationUpTo(limit("logAgeMs")).default(0),
  compress: z.boolean().default(true),
  when_full: z.enum(["block", "drop"]).default("block"),
});

const cron = z.string().superRefine((text, context) => {
  try {
    if (Bun.cron.parse(text) === null) throw new Error("never comes due");
  } catch (error) {
    context.addIssue({ code: "custom", message: `${JSON.stringify(text)}: ${(error as Error).message}` });
  }
});

const noNul = z.string().refine((text) => !text.includes("\0"), "must not contain a NUL byte");
const absolutePath = noNul.refine((text) => text.startsWith("/"), "must be an absolute path");
const maybe = <T extends z.ZodType>(schema: T) => schema.nullish().transform((value) => value ?? null);
const envShape = z.record(
  noNul.refine((key) => key !== "" && !key.includes("="), "the name of a variable must not be empty or contain '='"),
  noNul,
);

/** As `umask` prints it. */
const umask = z
  .string()
  .regex(/^[0-7]{1,4}$/, 'must be octal, as in "027"')
  .transform((text) => Number.parseInt(text, 8) & 0o777)
  .meta({ description: 'mask of the modes of new files, in octal: "027"; default: that of the shell that starts it' });

/** Grants on top of a policy, as the flags `--allow-…` give them. */
const allow = z.strictObject({
  net: z
    .union([z.literal(true), z.array(z.string().min(1)).min(1)])
    .optional()
    .describe("HOST:PORT, or true for all of the network"),
  listen: z
    .union([z.literal(true), z.array(z.int().min(1).max(65_535)).min(1)])
    .optional()
    .describe("TCP ports, or true for all"),
  read: z.array(absolutePath).optional(),
  write: z.array(absolutePath).optional(),
  runtimes: z
    .int()
    .min(0)
    .max(limit("policyRuntimes"))
    .optional()
    .describe("runtimes of JavaScript that it may have at once"),
});
export type Grants = z.output<typeof allow>;

/** As people and clients write it. Unknown fields are refused, so that a typo is not taken for a setting. */
export const appShape = z.strictObject({
  name: z.string().min(1),
  kind: z.enum(KIND_NAMES).default("app").meta({ description: "what it is for: app, or snapshot" }),
  life: z.enum(LIVES).default("stored"),
  /** Pid of the program that started it, if it is ephemeral. The daemon sets it. */
  owner: maybe(z.int().min(0)),
  command: maybe(noNul.min(1)),
  script: maybe(noNul.min(1)),
  args: maybe(z.array(noNul).max(limit("args"))),
  cwd: maybe(absolutePath),
  env: envShape.nullish().transform((value) => value ?? {}),
  base_env: maybe(envShape),
  /** Soft limit of open files in the caller's shell, as `base_env` is its environment. */
  base_nofile: maybe(z.int().min(1).max(0x7fff_ffff)),
  env_file: maybe(absolutePath),
  umask: maybe(umask),
  /** Umask of the caller's shell, as `base_env` is its environment. */
  base_umask: maybe(z.int().min(0).max(0o777)),
  interpreter: maybe(noNul.min(1)),
  /** `caller`: it has that of its owner, who starts its shim. */
  stdio: maybe(z.literal("caller")),
  /** Python code in place of a script. Like `timeout`, only where the stdio is the caller's. */
  code: maybe(noNul.min(1)),
  timeout: maybe(durationMs),
  policy: maybe(z.string().min(1)).meta({ description: 'its name, the path of a file, or "auto": by what runs' }),
  default_policy: maybe(z.string().min(1)).meta({ description: 'what "auto" is for a script of Python' }),
  allow: maybe(allow),
  tools: z
    .array(z.string().min(1))
    .default([])
    .meta({ description: "tools of plugins that it may call, as files.read or files.*, beside those of its policy" }),
  tool_group: maybe(z.string().min(1)).meta({ description: "whose data its tools work on; default: that of its name" }),
  transport: maybe(z.enum(TRANSPORTS)).meta({ description: "how it asks the host for its tools; default: shm" }),
  unsafe_tools: z.boolean().default(false).meta({
    description: "grants tools under a policy that shows the user's files too: of low risk, and without a credential",
  }),
  approval_timeout: maybe(durationUpTo(limit("approvalMs"))).meta({
    description: "how long a person is asked about a call of high risk; default: five minutes, which is the longest",
  }),
  /**
   * What the definition said, if `policy` is what the daemon made of it: a daemon of the previous version expects a
   * name there.
   */
  policy_wanted: maybe(z.string().min(1)),
  snapshot: maybe(z.string().min(1)),
  /** What a session reads from its standard input, once: the value of a credential of the host. */
  stdin: maybe(z.strictObject({ credential: z.string().min(1) })),
  auto_start: z.boolean().default(false),
  restart_policy: restartPolicy.default("on-failure"),
  max_memory: maybe(memoryBytes),
  max_cpu_percent: maybe(z.number().gt(0).max(100_000)),
  uid: maybe(z.int().min(0).max(4_294_967_294)),
  gid: maybe(z.int().min(0).max(4_294_967_294)),
  stdout_log: maybe(absolutePath),
  stderr_log: maybe(absolutePath),
  combined_log: maybe(absolutePath),
  log_max_size: maybe(sizeBytes),
  log_max_files: maybe(z.int().min(0).max(100_000)),
  log: maybe(log),
  health_check: maybe(healthShape),
  health: maybe(health),
  stop_timeout: durationMs.default(10_000),
  kill_timeout: durationMs.default(5_000).meta({
    description: "bunctl's, taken and without effect: when stop_timeout is over, what is left is killed at once",
  }),
  kill_mode: maybe(z.enum(KILL_MODES)).meta({
    description:
      "whom the signal goes to that asks it to end: the main process, its group, or every process of its tree; default: main, but group while the main process is a shell",
  }),
  backoff: maybe(backoff),
  instances: z.int().min(1).max(limit("instances")).default(1),
  group: maybe(z.string().min(1).max(limit("nameChars"))),
  cron: maybe(cron),
  depends_on: z
    .array(z.string())
    .max(limit("workers"))
    .nullish()
    .transform((value) => value ?? []),
  watch: z
    .union([z.boolean(), z.array(noNul)])
    .nullish()
    .transform((value) => value ?? false),
  /** Whether `ipcctl eval` may evaluate code in it. */
  console: z.boolean().default(true),
  ready: z.enum(["exec", "notify"]).default("exec"),
  ready_timeout: durationMs.default(30_000),
});

export type HealthCheck = z.output<typeof healthShape>;
export type Backoff = z.output<typeof backoff>;
export type LogLimits = z.output<typeof log>;

type Written = z.output<typeof appShape>;
/** An app in normal form. Durations in milliseconds, sizes in bytes. */
export type AppConfig = Omit<
  Written,
  "health_check" | "health" | "log_max_size" | "log_max_files" | "log" | "backoff" | "args" | "cwd"
> & { args: string[]; cwd: string; health: HealthCheck | null; log: LogLimits; backoff: Backoff };

/** From the JSON string inside `Start`. @throws IpcError BAD_CONFIG. */
export function parseAppConfig(text: string, fallbackCwd: string): AppConfig {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw badConfig((error as Error).message); // JSON.parse throws SyntaxError only
  }
  const duplicate = findDuplicateKey(text);
  if (duplicate !== undefined) throw badConfig(`duplicate field ${JSON.stringify(duplicate)}`);
  return normalizeApp(value, fallbackCwd);
}

/** From a value that came out of JSON. @throws IpcError BAD_CONFIG naming the field. */
export function normalizeApp(value: unknown, fallbackCwd: string): AppConfig {
  const result = appShape.safeParse(value);
  if (!result.success) throw badConfig(explainIssue(result.error.issues[0]!));
  const {
    health_check,
    health: short,
    log_max_size,
    log_max_files,
    log: limits,
    backoff: delays,
    ...app
  } = result.data;
  requireOneProgram(app);
  requireCaller(app);
  if (app.stdin !== null && app.kind !== "session") throw badConfig("stdin: only a session has one");
  if (app.life === "ephemeral") requireOneRun(value as Partial<Written>);
  const words = app.command === null ? [] : commandWords(app.command, app.args);
  return {
    ...app,
    restart_policy: app.life === "ephemeral" ? "no" : app.restart_policy,
    command: words[0] ?? null,
    args: app.command === null ? (app.args ?? []) : words.slice(1),
    cwd: app.cwd ?? fallbackCwd,
    health: short ?? health_check,
    log:
      limits ??
      log.parse({
        ...(log_max_size === null ? {} : { max_size: log_max_size }),
        ...(log_max_files === null ? {} : { max_files: log_max_files }),
      }),
    backoff: delays ?? backoff.parse({}),
  };
}

function requireOneProgram({ command, script, code }: Pick<Written, "command" | "script" | "code">): void {
  if ([command, script, code].filter((one) => one !== null).length === 1) return;
  throw badConfig("exactly one of command and script is needed");
}

/** The stdio of a program is its worker's as long as both run, and only that program can hand it over. */
function requireCaller(app: Omit<AppConfig, "health" | "log" | "backoff" | "args" | "cwd">): void {
  if (app.stdio === null) {
    const without = (["code", "timeout"] as const).find((field) => app[field] !== null);
    if (without === undefined) return;
    throw badConfig(`${without}: only a worker with the stdio of its caller has one: add "stdio": "caller"`);
  }
  if (app.life !== "ephemeral")
    throw badConfig('stdio: only an ephemeral worker has that of its caller: add "life": "ephemeral"');
  if (app.ready === "notify")
    throw badConfig("ready: nobody waits for a worker with the stdio of its caller: leave it out");
  const log = (["stdout_log", "stderr_log", "combined_log"] as const).find((field) => app[field] !== null);
  if (log !== undefined) throw badConfig(`${log}: a worker with the stdio of its caller has no log: leave it out`);
}

/** What runs once cannot be told when to run again. */
function requireOneRun({ instances = 1, cron, watch, restart_policy: restart = "no" }: Partial<Written>): void {
  const contradicting = [
    instances > 1 ? "instances" : "",
    (cron ?? null) === null ? "" : "cron",
    (watch ?? false) === false ? "" : "watch",
    restart.toLowerCase() === "no" ? "" : "restart_policy",
  ].find((field) => field !== "");
  if (contradicting !== undefined)
    throw badConfig(`${contradicting}: an ephemeral worker is one process that runs once: leave it out`);
}

/** `path: message`. For a union, the branch that got furthest explains: it is the one that was meant. */
export function explainIssue(issue: z.core.$ZodIssue, above: readonly PropertyKey[] = []): string {
  const path = [...above, ...issue.path];
  if (issue.code === "invalid_union") {
    const branches = issue.errors.flatMap((branch) => branch.slice(0, 1));
    const meant = branches.find((one) => one.path.length > 0) ?? branches.find((one) => one.code !== "invalid_type");
    if (meant) return explainIssue(meant, path);
    const wanted = branches.flatMap((one) => (one.code === "invalid_type" ? one.expected : []));
    return `${path.map(String).join(".")}: expected ${[...new Set(wanted)].join(" or ")}`;
  }
  return [path.map(String).join("."), issue.message].filter((part) => part !== "").join(": ");
}

/** A normal form that an older version wrote: fields that it did not know get their defaults. */
export function completeApp(
  stored: Omit<AppConfig, "kind" | "life" | "owner"> & Partial<Pick<AppConfig, "kind" | "life" | "owner">>,
): AppConfig {
  const base = normalizeApp({ name: stored.name, command: "true" }, "/");
  return {
    ...base,
    ...stored,
    kind: stored.kind ?? kindOfOld(stored.name, stored.group),
    log: { ...base.log, ...stored.log },
    backoff: { ...base.backoff, ...stored.backoff },
  };
}

/** Without `args` the command is a line to split, as in bunctl's older versions; with `args` it is a path. */
function commandWords(command: string, args: readonly string[] | null): string[] {
  if (args !== null && args.length > 0) return [command, ...args];
  try {
    const words = splitWords(command);
    if (words.length === 0) throw badConfig("command: is empty");
    return words;
  } catch (error) {
    throw error instanceof IpcError && error.code === "USAGE" ? badConfig(`command: ${error.message}`) : error;
  }
}

function shortCheck(text: string): HealthCheck["check_type"] {
  if (/^https?:\/\//.test(text)) return { type: "http", url: text, expected_status: 200 };
  const tcp = /^tcp:\/\/(.+):(\d{1,5})$/.exec(text);
  if (tcp) return { type: "tcp", host: tcp[1]!, port: Number(tcp[2]) };
  return { type: "exec", command: "/bin/sh", args: ["-c", text] };
}

/** Turns our parse errors into zod issues, so that they carry the path of the field. */
function wrapped<T>(parse: (value: T) => number) {
  return (value: T, context: z.RefinementCtx): number => {
    try {
      return parse(value);
    } catch (error) {
      context.addIssue({ code: "custom", message: (error as Error).message.replace(/^\w+: /, "") });
      return z.NEVER;
    }
  };
}

function badConfig(message: string): IpcError {
  return new IpcError("BAD_CONFIG", message);
}
