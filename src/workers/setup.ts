/**
 * What a worker runs as: its definition, the policy that follows from it, the specification that is made of both, and
 * what that policy denied.
 */
import { randomBytes } from "node:crypto";
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { removeTree } from "../base/remove.ts";
import type { AuditSpool } from "../audit/spool.ts";
import { sha256 } from "../base/sha256.ts";
import { textOf } from "../logs/cri.ts";
import { readLastLines } from "../logs/tail.ts";
import { decideLaunch } from "../launch/command.ts";
import type { RunToken } from "../launch/definition.ts";
import { describeDenial, endedOver, remedyOfCall } from "../launch/denied.ts";
import { AUTO, policyOf } from "../launch/effective-policy.ts";
import { mayNeedEnvironment } from "../launch/environments.ts";
import { prepare, provide } from "../launch/prepare.ts";
import { homeOf } from "../launch/readable.ts";
import type { Preparation } from "../launch/settle.ts";
import { findSnapshot } from "../launch/snapshot.ts";
import { makeSpec, requireGroup } from "../launch/specification.ts";
import { ownUserOf } from "../launch/users.ts";
import type { AppConfig } from "../protocol/app-config.ts";
import { loadPolicy, type Policy } from "../sandbox/policy.ts";
import type { CgroupTree } from "../shim/cgroup.ts";
import type { PolicyLimits } from "../shim/ending.ts";
import { readDenied } from "../shim/records.ts";
import { specVersion, type Spec } from "../shim/spec.ts";
import type { Run } from "./run.ts";
import type { InstanceRow } from "./store.ts";

/** Of its stderr, to find out whether the policy caused its end. */
const LAST_WORDS = 3;
const LAST_WORDS_BYTES = 8192;

/** What a setup needs from the daemon. */
export type SetupDeps = {
  readonly audit: AuditSpool;
  readonly workersDir: string;
  readonly environmentsDir: string;
  /** The daemon's configuration. */
  readonly config: string;
  readonly cgroups: CgroupTree | undefined;
  /** The value of a credential of the host, for this worker. @throws IpcError if it cannot be used */
  readonly credential: (name: string, worker: string) => Promise<string>;
  /** The environment for definitions without one. */
  readonly daemonEnv: Readonly<Record<string, string | undefined>>;
  /** The limit that the daemon was started with. */
  readonly daemonUmask: number;
  /** Where workers ask the host by http. @throws IpcError if nobody listens there */
  readonly listenerUrl: () => string;
  /** By plugin the texts for a worker of this group and this process, whose policy grants these tools. */
  readonly skills?: (
    tools: readonly string[],
    group: string,
    owner: number | null,
  ) => Promise<ReadonlyMap<string, string>>;
};

export class Setup {
  readonly #deps: SetupDeps;
  readonly #id: string;
  readonly #instance: number;
  readonly #dir: string;
  #config: AppConfig;
  /** Name, path or text; undefined until a run has one. */
  policyOfRun: string | undefined;
  /** Of a run that asks the host by http. */
  tokenOfRun: RunToken | undefined;

  constructor(deps: SetupDeps, { id, instance }: InstanceRow, config: AppConfig) {
    this.#deps = deps;
    this.#id = id;
    this.#instance = instance;
    this.#dir = join(deps.workersDir, id);
    this.#config = config;
  }

  get config(): AppConfig {
    return this.#config;
  }

  /** A run keeps the policy that it has. */
  redefine(config: AppConfig, isUp: boolean): void {
    this.#config = config;
    if (!isUp) this.policyOfRun = undefined;
  }

  get #env(): Readonly<Record<string, string | undefined>> {
    return this.#config.base_env ?? this.#deps.daemonEnv;
  }

  // ---- the policy ----

  /** Of its run; before a run, the one that it would have now. */
  get policy(): string {
    this.policyOfRun ??= this.#policyNow();
    return this.policyOfRun;
  }

  #policyNow(): string {
    const config = this.#config;
    try {
      return policyOf(config, decideLaunch(config, this.#env), { project: config.cwd, home: "/" });
    } catch {
      return config.policy ?? AUTO; // its script does not exist, which its start will report
    }
  }

  /** Undefined if its policy can no longer be read. */
  get policyLimits(): PolicyLimits | undefined {
    try {
      const { name, limits } = loadPolicy(this.policy, { project: this.#config.cwd, home: "/" });
      return { policy: name, ...limits };
    } catch {
      return undefined;
    }
  }

  #loadPolicy(): Policy | undefined {
    try {
      return loadPolicy(this.policy, { project: this.#config.cwd, home: homeOf(this.#env) });
    } catch {
      return undefined; // it was removed
    }
  }

  /** What was denied to its run; the shim keeps the first ones. */
  get denied(): string[] {
    const denied = readDenied(this.#dir);
    const policy = denied.length === 0 ? undefined : this.#loadPolicy();
    return denied.map((one) => describeDenial(policy ? remedyOfCall(one, policy, this.policy) : one));
  }

  /** What of its policy caused the end of a run, if its last words tell. */
  async whatWasDenied(): Promise<ReturnType<typeof endedOver>> {
    const policy = this.#loadPolicy();
    if (policy === undefined) return undefined;
    const { cwd, script, args, max_memory: maxMemory } = this.#config;
    const { lines } = await readLastLines(join(this.#dir, "logs"), LAST_WORDS, {
      stream: "stderr",
      lineBytesMax: LAST_WORDS_BYTES,
    });
    const words = lines.map((line) => textOf(line.text)).join("\n");
    return endedOver({ words, cwd, script, args, env: this.#env, maxMemory, policy, policyText: this.policy });
  }

  // ---- a run ----

  /** @throws IpcError if its folder, script or env file would keep it from starting now */
  requireLaunchable(): void {
    decideLaunch(this.#config, this.#env);
  }

  get mayNeedEnvironment(): boolean {
    try {
      return mayNeedEnvironment(decideLaunch(this.#config, this.#env), this.#config);
    } catch {
      return false; // its start will say why
    }
  }

  /** Makes the packages that it needs. @throws IpcError START_FAILED if they are not available */
  async provide(signal: AbortSignal): Promise<void> {
    if (this.mayNeedEnvironment) await provide(this.#preparation(signal));
  }

  /** The specification of a run, which learns from it what it executes and what confines it. @throws IpcError */
  async specify(run: Run): Promise<Spec> {
    const config = this.#config;
    mkdirSync(join(this.#dir, "logs"), { recursive: true, mode: 0o700 });
    await this.#writeSkills();
    const asks = this.#asksByHttp ? { url: this.#deps.listenerUrl(), token: newToken() } : undefined;
    const prepared = await prepare(this.#preparation(run.stopping, asks));
    this.tokenOfRun = asks && { run: run.number, sha256: sha256(asks.token) };
    const { policy } = prepared.plan;
    this.policyOfRun = prepared.policy;
    run.executable = prepared.launch.argv[0]!; // never empty: a script has an interpreter, a command has a first word
    // Not all callers may move a process of theirs to where the daemon's are.
    const cgroups = config.stdio === null ? this.#deps.cgroups : undefined;
    const group = cgroups?.create(this.#id, {
      memoryBytes: lower(config.max_memory, policy.limits.memory),
      cpuPercent: lower(config.max_cpu_percent, policy.limits.cpuPercent),
      pids: policy.limits.pids === null ? null : policy.limits.pids + prepared.plan.extraProcesses,
    });
    requireGroup(policy, group?.enforced);
    run.enforced = group?.enforced ?? { memory: false, cpu: false, pids: false };
    run.degraded = prepared.plan.degraded;
    run.watched = prepared.plan.watched;
    const spec = makeSpec(config, prepared, run.number, group?.path, run.enforced);
    if (config.stdin === null) return spec;
    // A line, as a shell would pipe it.
    return { ...spec, input: `${await this.#deps.credential(config.stdin.credential, this.#id)}\n` };
  }

  /** False also if its policy grants no tools, which its start will report. */
  get #asksByHttp(): boolean {
    const { transport, cwd } = this.#config;
    const variables = { project: cwd, home: homeOf(this.#env) };
    return transport === "http" && loadPolicy(this.#policyNow(), variables).host.tools.length > 0;
  }

  get #skills(): string {
    return join(this.#dir, "skills");
  }

  /** What is accepted now, for this run. A worker without them still asks for them. */
  async #writeSkills(): Promise<void> {
    const folder = this.#skills;
    removeTree(folder);
    const { tools = [], group = this.#config.name } = this.#loadPolicy()?.host ?? {};
    if (tools.length === 0) return;
    const texts = this.#deps.skills?.(tools, group, this.#config.owner);
    const skills = await texts?.catch(() => undefined); // host.json cannot be read, which is told
    mkdirSync(folder);
    for (const [plugin, text] of skills ?? []) {
      const path = join(folder, `${plugin}.md`);
      writeFileSync(path, text);
      chmodSync(path, 0o444); // whatever the umask is: the worker may be another user
    }
    chmodSync(folder, 0o755);
  }

  #preparation(signal: AbortSignal, asks?: Preparation["asks"]): Preparation {
    const config = this.#config;
    return {
      app: {
        ...config,
        snapshot:
          config.snapshot === null
            ? undefined
            : findSnapshot(
                config.snapshot,
                this.#deps.workersDir,
                specVersion(config.kill_mode, config.transport === "stdio"),
              ),
      },
      base: this.#env,
      baseUmask: config.base_umask ?? this.#deps.daemonUmask,
      own: {
        IPCCTL_NAME: this.#id,
        IPCCTL_APP: config.name,
        IPCCTL_INSTANCE: String(this.#instance),
        IPCCTL_PLANE: join(this.#dir, "plane"),
        IPCCTL_CONSOLE: config.console ? "1" : "0",
      },
      skills: this.#skills,
      scratch: join(this.#dir, "scratch"),
      isScratchShut: true,
      ownUser: ownUserOf(this.#id),
      name: this.#id,
      audit: this.#deps.audit,
      environments: this.#deps.environmentsDir,
      config: this.#deps.config,
      signal,
      hasPlane: true,
      asks,
      daemonFiles: daemonFilesOf(config),
    };
  }
}

/** Files that the daemon and the shim write, or execute, for the worker. */
function daemonFilesOf(config: AppConfig): string[] {
  const check = config.health?.check_type;
  const run = check?.type === "exec" ? [check.command, ...check.args].filter((word) => word.includes("/")) : [];
  const logs = [config.stdout_log, config.stderr_log, config.combined_log].filter((path) => path !== null);
  return [...logs, ...run].map((path) => resolve(config.cwd, path));
}

const TOKEN_BYTES = 32;

function newToken(): string {
  return randomBytes(TOKEN_BYTES).toString("hex");
}

/** Of two limits the lower one. */
function lower(one: number | null, other: number | null): number | null {
  return one === null || other === null ? (one ?? other) : Math.min(one, other);
}
