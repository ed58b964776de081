/** `doctor`: what this machine can do, what is missing, and how to fix it. */
import { accessSync, constants, existsSync, lstatSync, mkdirSync, readFileSync, statfsSync } from "node:fs";
import { release, tmpdir } from "node:os";
import { join } from "node:path";
import { SHIM_VERSION } from "../../contract/shim.ts";
import { findLockHolder } from "../base/daemon-lock.ts";
import { isLoadable, isOfThisEdition, PARTS, remedyFor, ROOT, SHIM_BINARY } from "../base/install.ts";
import { BUN_NEEDED, isBunEnough } from "../base/platform.ts";
import { shellWord } from "../base/shell-words.ts";
import { IpcError } from "../base/errors.ts";
import { hostConfigPath } from "../base/paths.ts";
import { VERSION } from "../base/version.ts";
import { openGreeted, Silence } from "../sdk/autostart.ts";
import type { Context } from "./context.ts";
import { versionsThatDiffer } from "./status.ts";

const WITHOUT_SHIM = "not known without the shim";

export type Check = { name: string; status: "ok" | "warn" | "fail"; detail: string; remedy?: string };

const LEAST_FREE_BYTES = 100 * 1024 ** 2;
const LEAST_FILES = 4096;

type Look = (context: Context) => Check | readonly Check[] | Promise<Check | readonly Check[]>;

const LOOKS: Readonly<Record<string, Look>> = {
  bun: checkBun,
  installation: checkInstallation,
  shim: checkShim,
  kernel: checkKernel,
  "state directory": ({ paths }) => checkFolder("state directory", paths.stateDir),
  "runtime directory": ({ paths }) => checkFolder("runtime directory", paths.runtimeDir),
  disk: ({ paths }) => checkSpace(paths.stateDir),
  daemon: checkDaemon,
  database: ({ paths }) => checkDatabase(paths.database),
  "host.json": checkHost,
  python: checkPython,
  "open files": checkFiles,
  inotify: checkInotify,
  "cgroup v2": checkCgroup,
  policies: checkPolicies,
  "confined runtime": checkRuntime,
};

export async function doctor(context: Context): Promise<number> {
  const checks: Check[] = [];
  for (const [name, look] of Object.entries(LOOKS))
    try {
      checks.push(...[await look(context)].flat());
    } catch (error) {
      // Whatever is broken here, the other checks must still be printed.
      const { message, hint } = IpcError.from(error);
      checks.push({ name, status: "fail", detail: message, ...(hint === undefined ? {} : { remedy: hint }) });
    }
  if (context.isJson) context.print(JSON.stringify(checks, null, 2));
  const MARKS = {
    ok: context.style.green("ok  "),
    warn: context.style.yellow("warn"),
    fail: context.style.red("FAIL"),
  };
  for (const check of context.isJson ? [] : checks) {
    context.print(`${MARKS[check.status]}  ${check.name.padEnd(18)} ${check.detail}`);
    if (check.remedy !== undefined) context.print(`      ${" ".repeat(18)} → ${check.remedy}`);
  }
  return checks.some((check) => check.status === "fail") ? 1 : 0;
}

function checkBun(): Check {
  const detail = `${Bun.version} at ${process.execPath}`;
  return isBunEnough()
    ? { name: "bun", status: "ok", detail }
    : {
        name: "bun",
        status: "fail",
        detail,
        remedy: `ipcctl needs ${BUN_NEEDED}: npm install -g bun@1.4.5`,
      };
}

/** Compiled parts that not everybody needs, and what does not work without them. */
const LIBRARIES = [
  {
    part: "extension",
    file: "python/_ipcctl.abi3.so",
    loss: "calls go through Python code, which takes several times as long",
    script: "build-python.sh",
    hasEdition: true,
  },
  { part: "snapshots", file: "become.so", loss: "none can be made", script: "build.sh", hasEdition: false },
  {
    part: "addon",
    file: "plane.node",
    loss: "no program on Node can connect",
    script: "build-node.sh",
    hasEdition: true,
  },
] as const;

/** Files of the installation, and what does not work without them. */
function checkInstallation(): readonly Check[] {
  const name = "installation";
  const gone = [
    "policies/strict.json",
    "python/boot/sitecustomize.py",
    "python/ipcctl/__init__.py",
    "python/run/zygote.py",
  ]
    .map((file) => join(ROOT, file))
    .filter((file) => !existsSync(file));
  if (gone.length > 0)
    return [
      { name, status: "fail", detail: `not whole: ${gone.join(", ")}`, remedy: `install ipcctl ${VERSION} anew` },
    ];
  const lost = LIBRARIES.flatMap(({ part, file, loss, script, hasEdition }) => {
    const fault = faultOf(join(PARTS, file), hasEdition);
    if (fault === undefined) return [];
    return [{ name: part, status: "warn" as const, detail: `${fault}: ${loss}`, remedy: remedyFor(script) }];
  });
  return [{ name, status: "ok", detail: `${VERSION} at ${ROOT}` }, ...lost];
}

function faultOf(path: string, hasEdition: boolean): string | undefined {
  if (!existsSync(path)) return "not there";
  if (!isLoadable(path)) return `${path} is broken, or of another machine`;
  return hasEdition && !isOfThisEdition(path) ? `${path} is of another version of ipcctl` : undefined;
}

async function checkShim(): Promise<Check> {
  const remedy = remedyFor("build.sh");
  if (!existsSync(SHIM_BINARY)) return { name: "shim", status: "fail", detail: `not there: ${SHIM_BINARY}`, remedy };
  let text: string;
  try {
    const child = Bun.spawn([SHIM_BINARY, "--version"], { stdio: ["ignore", "pipe", "ignore"] });
    text = (await new Response(child.stdout).text()).trim();
  } catch (error) {
    return { name: "shim", status: "fail", detail: `cannot be run: ${(error as Error).message}`, remedy };
  }
  if (text !== `ipcctl-shim ${SHIM_VERSION}`)
    return {
      name: "shim",
      status: "fail",
      detail: `says ${JSON.stringify(text)}, expected version ${SHIM_VERSION}`,
      remedy,
    };
  return { name: "shim", status: "ok", detail: `${text} at ${SHIM_BINARY}` };
}

function checkKernel(): Check {
  const [major, minor] = release().split(".").map(Number);
  const isEnough = major! > 5 || (major === 5 && minor! >= 15);
  return isEnough
    ? { name: "kernel", status: "ok", detail: release() }
    : { name: "kernel", status: "warn", detail: release(), remedy: "5.15 is the oldest that is tested" };
}

function checkFolder(name: string, path: string): Check {
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 });
    accessSync(path, constants.W_OK);
    const stat = lstatSync(path);
    if ((stat.mode & 0o022) !== 0)
      return { name, status: "fail", detail: `${path} can be written by others`, remedy: `chmod 700 ${path}` };
    if (stat.uid !== process.getuid!())
      return {
        name,
        status: "fail",
        detail: `${path} belongs to user ${stat.uid}`,
        remedy: "set IPCCTL_HOME to a folder of yours",
      };
    return { name, status: "ok", detail: path };
  } catch (error) {
    return { name, status: "fail", detail: (error as Error).message, remedy: "set IPCCTL_HOME to a folder of yours" };
  }
}

function checkSpace(path: string): Check[] {
  if (!existsSync(path)) return []; // the line above says why
  const { bavail, bsize } = statfsSync(path);
  const free = bavail * bsize;
  const detail = `${Math.round(free / 1024 ** 2)} MiB free for logs and state on the disk of ${path}`;
  if (free >= LEAST_FREE_BYTES) return [{ name: "disk", status: "ok", detail }];
  if (free > 0)
    return [{ name: "disk", status: "warn", detail, remedy: "workers block or drop log lines when the disk is full" }];
  return [
    {
      name: "disk",
      status: "fail",
      detail: `the disk of ${path} is full`,
      remedy: "nothing new can be started: ipcctl flush NAME empties the log of a worker",
    },
  ];
}

async function checkDaemon({ paths }: Context): Promise<Check> {
  const name = "daemon";
  const holder = findLockHolder(paths.lock);
  try {
    using connection = await openGreeted(paths.socket);
    const { pid, degraded, version } = await connection.daemonStatus();
    if (holder && holder.pid !== pid)
      return {
        name,
        status: "warn",
        detail: `pid ${pid} answers at ${paths.socket}, and pid ${holder.pid} has the state in ${paths.stateDir}`,
        remedy: "one of the two belongs to another IPCCTL_HOME: end it there, or choose another --socket",
      };
    const troubles = degraded.filter((text) => !text.includes(paths.database)); // which has a line of its own
    if (troubles.length > 0)
      return { name, status: "warn", detail: troubles.join("; "), remedy: `see: ${paths.daemonLog}` };
    const [other] = versionsThatDiffer(version, await connection.status());
    if (other) return { name, status: "warn", detail: other.what, remedy: other.remedy };
    return { name, status: "ok", detail: `version ${version} answers at ${paths.socket}` };
  } catch (error) {
    const { message } = error as Error;
    if (!holder) return { name, status: "warn", detail: message, remedy: "the next start brings one up" };
    const { socket } = holder;
    if (socket !== undefined && socket !== paths.socket)
      return {
        name,
        status: "warn",
        detail: `runs (pid ${holder.pid}), but listens at ${socket}, not at ${paths.socket}`,
        remedy: `ipcctl --socket ${shellWord(socket)} daemon stop --keep-workers; the next one listens here`,
      };
    const lies = describeFile(paths.socket);
    return {
      name,
      status: "warn",
      detail: `runs (pid ${holder.pid}), but ${message}; ${lies}`,
      remedy: error instanceof Silence ? error.hint! : "ipcctl daemon status asks it to make its socket again",
    };
  }
}

function describeFile(path: string): string {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  if (!stat) return "no file is there";
  return `${stat.isSocket() ? "a socket" : "no socket"} of user ${stat.uid} is there`;
}

async function checkDatabase(path: string): Promise<Check> {
  const name = "database";
  const { describeBroken, requireReadableSchema } = await import("../workers/store.ts");
  try {
    requireReadableSchema(path);
  } catch (error) {
    const { message, hint } = IpcError.from(error);
    return { name, status: "fail", detail: message, ...(hint === undefined ? {} : { remedy: hint }) };
  }
  const broken = describeBroken(path);
  if (broken === undefined) return { name, status: "ok", detail: path };
  const [detail, remedy] = broken.split("; ") as [string, string];
  return { name, status: "warn", detail, remedy };
}

async function checkPython(): Promise<Check> {
  const python = Bun.which("python3");
  if (python === null)
    return {
      name: "python",
      status: "warn",
      detail: "no python3 on PATH",
      remedy: "name one with --interpreter, or install python3",
    };
  const child = Bun.spawn([python, "--version"], { stdio: ["ignore", "pipe", "ignore"] });
  return { name: "python", status: "ok", detail: `${(await new Response(child.stdout).text()).trim()} at ${python}` };
}

function checkFiles(): Check {
  const soft = Number(/^Max open files\s+(\d+)/m.exec(readFileSync("/proc/self/limits", "utf8"))?.[1] ?? 0);
  if (soft >= LEAST_FILES) return { name: "open files", status: "ok", detail: String(soft) };
  return {
    name: "open files",
    status: "warn",
    detail: `${soft}; each worker takes a few`,
    remedy: `ulimit -n ${LEAST_FILES} before the daemon starts`,
  };
}

function checkInotify(): Check {
  const watches = Number(readFileSync("/proc/sys/fs/inotify/max_user_watches", "utf8"));
  if (watches >= 8192) return { name: "inotify", status: "ok", detail: `${watches} watches` };
  return {
    name: "inotify",
    status: "warn",
    detail: `${watches} watches`,
    remedy: "sysctl fs.inotify.max_user_watches=65536, for --watch on large folders",
  };
}

/** Which of the shipped policies this kernel can enforce. */
async function checkPolicies(): Promise<Check> {
  if (!existsSync(SHIM_BINARY)) return { name: "policies", status: "fail", detail: WITHOUT_SHIM };
  const { thisMachine, whyNoNamespaces } = await import("../sandbox/kernel.ts");
  const { compilePlan } = await import("../sandbox/plan.ts");
  const { loadPolicy, shippedPolicies } = await import("../sandbox/policy.ts");
  const machine = thisMachine();
  const refused = shippedPolicies().flatMap((name) => {
    try {
      compilePlan(loadPolicy(name, { project: tmpdir(), home: "/" }), machine, { scratch: "/", program: [], cwd: "/" });
      return [];
    } catch (error) {
      return [IpcError.from(error, name)];
    }
  });
  const namespaces =
    machine.namespacesLack === "" ? "yes" : `no, ${machine.namespacesLack.replace(/^namespaces: /, "")}`;
  const detail = `Landlock ${machine.landlockAbi}, seccomp ${machine.hasSeccomp ? "yes" : "no"}, namespaces ${namespaces}`;
  if (refused.length === 0 && machine.namespacesLack !== "")
    return {
      name: "policies",
      status: "warn",
      detail: `all that ship, weaker; ${detail}: strict and analysis hide no names, sizes and times of files, hold their scratch folder only nearly, and let native code be loaded from it`,
      remedy: whyNoNamespaces()?.remedy ?? "a kernel, or a container, that lets namespaces be made",
    };
  if (refused.length === 0) return { name: "policies", status: "ok", detail: `all that ship; ${detail}` };
  const broken = refused.find(({ code }) => code !== "POLICY_REFUSED");
  if (broken)
    return { name: "policies", status: "fail", detail: broken.message, remedy: `install ipcctl ${VERSION} anew` };
  const remedy = refused[0]!.hint ?? "a newer kernel";
  return { name: "policies", status: "warn", detail: `${detail}; ${refused[0]!.message}`, remedy };
}

const RUNTIME_POLICY = { version: 1, extends: "strict", process: { procfs: "self" } };
/** Whether hot code is compiled to machine code; a number as large as this means that nothing was compiled. */
const RUNTIME_CODE = `const { numberOfDFGCompiles } = require("bun:jsc"); const f = (n) => { let s = 0; for (let i = 0; i < n; i++) s = (s * 31 + i) | 0; return s; };
for (let i = 0; i < 3000 && numberOfDFGCompiles(f) === 0; i++) f(1000);
console.log(numberOfDFGCompiles(f) < 1000)`;

/** Nothing where there is none. @throws IpcError if it cannot be used */
async function checkHost({ paths }: Context): Promise<readonly Check[]> {
  const { readHostConfig, secretsMissing } = await import("../host/host-config.ts");
  const path = hostConfigPath(paths.config);
  if (!existsSync(path)) return [];
  const { Credentials } = await import("../desk/credentials.ts");
  const { webhooks } = readHostConfig(path);
  const known = webhooks.length === 0 ? [] : new Credentials(paths.stateDir, undefined).list();
  const faults = secretsMissing(webhooks, new Set(known.map(({ name }) => name)));
  const name = "host.json";
  if (faults.length === 0) return [{ name, status: "ok", detail: path }];
  return faults.map(({ what, remedy }) => ({ name, status: "warn", detail: `${path}: ${what}`, remedy }));
}

/** Runtimes reserve much memory before they start, and read about themselves in /proc. */
async function checkRuntime(): Promise<Check> {
  const name = "confined runtime";
  if (!existsSync(SHIM_BINARY)) return { name, status: "fail", detail: WITHOUT_SHIM };
  const command = `${shellWord(process.execPath)} -e ${shellWord(RUNTIME_CODE)}`;
  const child = Bun.spawn(
    [join(ROOT, "bin/ipcctl"), "run", "--policy", JSON.stringify(RUNTIME_POLICY), "--command", command],
    { cwd: "/", env: process.env, stdio: ["ignore", "pipe", "pipe"] },
  );
  const [said, error, status] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  const what = 'Bun under strict with "procfs": "self"';
  if (status === 0 && said === "true\n")
    return { name, status: "ok", detail: `${what} starts, and makes machine code` };
  const detail = status === 0 ? `${what} makes no machine code` : `${what} ends with status ${status}`;
  const remedy = error.split("\n", 1)[0] || "a larger limits.memory, or none, for JavaScript that computes";
  return { name, status: "warn", detail, remedy };
}

function checkCgroup(): Check {
  const mount = /^\S+ \S+ \S+ \S+ (\S+) .* - cgroup2 /m.exec(readFileSync("/proc/self/mountinfo", "utf8"));
  const remedy = "not needed: trees are then killed by the shim as subreaper, limits are watched";
  if (!mount) return { name: "cgroup v2", status: "warn", detail: "not mounted", remedy };
  try {
    accessSync(mount[1]!, constants.W_OK);
    const controllers = readFileSync(join(mount[1]!, "cgroup.controllers"), "utf8").trim();
    return {
      name: "cgroup v2",
      status: "ok",
      detail: `${mount[1]} with ${controllers === "" ? "no controllers" : controllers}`,
    };
  } catch {
    return { name: "cgroup v2", status: "warn", detail: `${mount[1]} is not delegated to this user`, remedy };
  }
}
