/**
 * What confinement costs at the start of a program, side by side with sandboxes that do the like, in one run:
 *   bun bench/sandbox.ts [--quick] [--write]
 * One parent starts everything with posix_spawn, one after the other, round after round. bubblewrap and firejail are
 * taken from the machine, sandbox-runtime is installed into bench/out; what is missing is left out by name. `--write`
 * puts the table into docs/benchmarks.md.
 */
import { chmodSync, existsSync, mkdirSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { AuditSpool } from "../src/audit/spool.ts";
import { SHIM_BINARY } from "../src/base/install.ts";
import { DEFAULT_POLICY, loadPolicy, shippedPolicies } from "../src/sandbox/policy.ts";
import { pythonWithPackages } from "../test/packages.ts";
import { findSnapshot, type Snapshot } from "../src/launch/snapshot.ts";
import { encodeSpec } from "../src/shim/spec.ts";
import { prepareSettled } from "../src/launch/prepare.ts";
import { type Preparation, settle } from "../src/launch/settle.ts";
import { SIGTERM } from "../contract/linux.ts";
import { Home, ROOT } from "../test/home.ts";
import { writeBlock } from "./page.ts";

const { values: flags } = parseArgs({ options: { quick: { type: "boolean" }, write: { type: "boolean" } } });
const policies = [DEFAULT_POLICY, ...shippedPolicies().filter((name) => name !== DEFAULT_POLICY)];
const rounds = flags.quick ? 11 : 101;
const OUT = join(import.meta.dir, "out");
const SANDBOX_RUNTIME_VERSION = "0.0.83";
const NET_ALLOWLIST = "net-allowlist";
const ipcctl = join(ROOT, "bin/ipcctl");
/** The system's where there is one: peers show only /usr to what they confine. */
const python = existsSync("/usr/bin/python3")
  ? "/usr/bin/python3"
  : Bun.spawnSync(["python3", "-c", "import sys; print(sys.executable)"]).stdout.toString().trim();
const BARE = [python, "-I", "-S", "-c", "pass"];

/** Starts what it is told to, and says how many nanoseconds it took until it had ended well; 0 if it did not. */
const PARENT = `
import json, os, sys, time
null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)]
for line in sys.stdin:
    argv, env = json.loads(line)
    start = time.perf_counter_ns()
    pid = os.posix_spawn(argv[0], argv, env, file_actions=null)
    status = os.waitpid(pid, 0)[1]
    print(time.perf_counter_ns() - start if status == 0 else 0, flush=True)
`;
const LISTENER = `
import socket
with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
    print(listener.getsockname()[1], flush=True)
    while True: listener.accept()[0].close()
`;
const CONNECTS = `
import socket, statistics, sys, time
found = []
for _ in range(2000):
    with socket.socket() as s:
        start = time.perf_counter_ns()
        s.connect(("127.0.0.1", int(sys.argv[1])))
        found.append(time.perf_counter_ns() - start)
print(statistics.median(found) / 1000)
`;

/** One way to start a program: a row of the table. */
type Start = {
  readonly what: string;
  /** The row that it is compared with; its own name where it is one of these. */
  readonly against: string;
  /** Milliseconds of one start. */
  readonly once: () => Promise<number>;
};

await using home = new Home();
chmodSync(home.dir, 0o755); // for users of their own
await using parent = openParent();
const notes: string[] = [];
const PLAIN = "plain `python3 -I -S -c pass`";
const PLAIN_SITE = "plain `python3 -c pass`";
/** All that is measured; what is started in another way than by a command is one more of these. */
const starts: Start[] = [
  { what: PLAIN, against: PLAIN, once: () => parent.time(BARE, {}) },
  ...shimStarts(),
  ...peerStarts(),
  { what: PLAIN_SITE, against: PLAIN_SITE, once: () => parent.time([python, "-c", "pass"], home.env) },
  ...commandStarts(),
];
const found = new Map(starts.map(({ what }) => [what, [] as number[]]));
for (let round = 0; round <= rounds; round++)
  for (const { what, once } of starts) {
    const took = await once();
    if (round > 0) found.get(what)!.push(took); // the first one reads files into memory
  }
const at = (what: string, part: number): number => {
  const sorted = found.get(what)!.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length * part)]!;
};
const rows = starts.map(({ what, against }) => ({
  what,
  p50: at(what, 0.5),
  p90: at(what, 0.9),
  ratio: at(what, 0.5) / at(against, 0.5),
}));
for (const { what, p50, p90, ratio } of rows)
  console.log(
    `${what.padEnd(64)} ${p50.toFixed(2).padStart(8)} ms ${p90.toFixed(2).padStart(8)} ms ${ratio.toFixed(2).padStart(7)}`,
  );
if (policies.includes(NET_ALLOWLIST)) await connects();
await warmStarts();
for (const note of notes) console.log(`* ${note}`);
if (flags.write) writeTable();

/** The process that starts the others: small, so that the size of Bun is no part of what is measured. */
function openParent(): AsyncDisposable & {
  time(argv: readonly string[], env: Readonly<Record<string, string>>): Promise<number>;
} {
  const child = Bun.spawn([python, "-I", "-S", "-c", PARENT], { env: {}, stdio: ["pipe", "pipe", "inherit"] });
  const reader = child.stdout.getReader();
  return {
    time: async (argv, env) => {
      void child.stdin.write(`${JSON.stringify([argv, env])}\n`);
      await child.stdin.flush();
      let held = "";
      while (!held.endsWith("\n")) held += Buffer.from((await reader.read()).value!).toString();
      const nanoseconds = Number(held);
      if (nanoseconds === 0) throw new Error(`it failed: ${argv.join(" ")}`);
      return nanoseconds / 1e6;
    },
    [Symbol.asyncDispose]: async () => {
      void child.stdin.end();
      await child.exited;
    },
  };
}

/**
 * The shim in the foreground, as `run` starts it, under each policy, and under each without namespaces where that is
 * another thing.
 */
function shimStarts(): Start[] {
  const forking = home.script(
    "forking.json",
    JSON.stringify({ version: 1, extends: "strict", process: { fork: true } }),
  );
  const withProcesses = shimStart(forking, "shim, `strict` with `fork` (and a PID namespace)");
  const all = policies.flatMap((name) => {
    const start = shimStart(name, `shim, \`${name}\``);
    if (start === undefined) return [];
    const file = home.script(
      `without-${name}.json`,
      JSON.stringify({ version: 1, extends: name, isolation: { want: [] } }),
    );
    const variant = isPolicy(file) ? shimStart(file, `shim, \`${name}\` without namespaces`) : undefined;
    return [start, variant].filter((one) => one !== undefined && (one === start || !one.spec.equals(start.spec)));
  }) as Start[];
  return withProcesses ? [...all, withProcesses] : all;
}

type Started = Pick<Preparation["app"], "script" | "command" | "args" | "interpreter" | "policy" | "snapshot">;

/** What the shim is given for it. */
function specOf(started: Started): Buffer {
  const wanted: Preparation = {
    app: { ...started, cwd: home.dir, env: {}, env_file: null, uid: null, gid: null },
    base: {},
    own: {},
    scratch: join(home.dir, "scratch"),
    ownUser: 65_000,
    name: "bench",
    audit: new AuditSpool(home.dir, "run"),
    environments: home.paths.environmentsDir,
    config: home.paths.config,
    hasPlane: false,
  };
  const { launch, plan, ids, confinement, zygote } = prepareSettled(wanted, settle(wanted));
  const stop = { graceMs: 10_000, signal: SIGTERM };
  const { rlimits } = plan;
  return Buffer.from(encodeSpec({ run: 1, ...launch, ...(ids ? { ids } : {}), stop, rlimits, confinement, zygote }));
}

function shimStart(policy: string, what: string): (Start & { readonly spec: Buffer }) | undefined {
  const file = join(home.dir, "spec");
  try {
    const app = { script: null, command: BARE[0]!, args: BARE.slice(1), interpreter: null, policy };
    const spec = specOf(app);
    const once = (): Promise<number> => {
      writeFileSync(file, spec, { mode: 0o600 }); // the shim takes it away
      return parent.time([SHIM_BINARY, "--run", file], {});
    };
    return { what, against: PLAIN, once, spec };
  } catch (error) {
    notes.push(`left out: ${policy}: ${(error as Error).message}`);
    return undefined;
  }
}

/** Whether this version knows what such a file says. */
function isPolicy(file: string): boolean {
  try {
    loadPolicy(file);
    return true;
  } catch {
    return false;
  }
}

function peerStarts(): Start[] {
  const bwrap = Bun.which("bwrap");
  const firejail = Bun.which("firejail");
  const settings = home.script(
    "srt.json",
    JSON.stringify({
      network: { allowedDomains: [], deniedDomains: [] },
      filesystem: { denyRead: [], allowWrite: [home.dir], denyWrite: [] },
    }),
  );
  const mounts = ["lib", "lib64", "bin"].flatMap((name) => ["--symlink", `usr/${name}`, `/${name}`]);
  return [
    peerStart(
      `bubblewrap${version(bwrap)}, mounts of /usr only, all namespaces`,
      bwrap === null
        ? "bwrap is not installed"
        : [
            ...[bwrap, "--unshare-all", "--die-with-parent", "--clearenv", "--ro-bind", "/usr", "/usr", ...mounts],
            ...["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--chdir", "/", ...BARE],
          ],
    ),
    peerStart(
      `firejail${version(firejail)}, \`--net=none --seccomp\``,
      firejail === null
        ? "it is not installed"
        : [firejail, "--quiet", "--noprofile", "--net=none", "--seccomp", ...BARE],
    ),
    peerStart(`sandbox-runtime ${SANDBOX_RUNTIME_VERSION}, \`srt\`, no network`, sandboxRuntime(settings)),
  ].flat();
}

/** @param command that starts the bare Python under the peer, or why there is none */
function peerStart(what: string, command: readonly string[] | string): Start[] {
  const env = { PATH: home.env.PATH!, HOME: home.dir };
  const failure = typeof command === "string" ? command : tryOnce(command, env);
  if (failure !== undefined) notes.push(`left out: ${what}: ${failure}`);
  if (typeof command === "string" || failure !== undefined) return [];
  return [{ what, against: PLAIN, once: () => parent.time(command, env) }];
}

function tryOnce(command: readonly string[], env: Record<string, string>): string | undefined {
  const { exitCode, stderr } = Bun.spawnSync([...command], { env, cwd: home.dir, stdio: ["ignore", "ignore", "pipe"] });
  return exitCode === 0 ? undefined : `it ended with ${exitCode}: ${stderr.toString().trim().split("\n").at(-1)}`;
}

function version(program: string | null): string {
  if (program === null) return "";
  return / [\d.]+\d/.exec(Bun.spawnSync([program, "--version"]).stdout.toString())?.[0] ?? "";
}

function sandboxRuntime(settings: string): readonly string[] | string {
  const bin = join(OUT, "node_modules/.bin/srt");
  const name = "@anthropic-ai/sandbox-runtime";
  if (!existsSync(bin)) {
    mkdirSync(OUT, { recursive: true });
    const command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", OUT];
    const { exitCode } = Bun.spawnSync([...command, `${name}@${SANDBOX_RUNTIME_VERSION}`], {
      stdio: [null, null, null],
    });
    if (exitCode !== 0) return `npm install of ${name} ended with ${exitCode}`;
  }
  return [bin, "--settings", settings, "-c", BARE.join(" ")];
}

/** From the command line to its end. */
function commandStarts(): Start[] {
  return policies.flatMap((policy) => {
    const command = [ipcctl, "run", "--policy", policy, "--interpreter", python, "-c", "pass"];
    if (tryOnce(command, home.env) !== undefined) return []; // the shim's row says why
    return [
      {
        what: `\`ipcctl run --policy ${policy} -c pass\``,
        against: PLAIN_SITE,
        once: () => parent.time(command, home.env),
      },
    ];
  });
}

/**
 * From asking for a worker that has NumPy to its first instruction: cold, and forked from a snapshot, locked down
 * either way.
 */
async function warmStarts(): Promise<void> {
  const interpreter = await pythonWithPackages();
  if (interpreter === undefined) return void notes.push("left out: a warm start: NumPy cannot be installed");
  const made = await home.cli("snapshot", "create", "bench", "--import", "numpy", "--interpreter", interpreter);
  if (made.status !== 0) return void notes.push(`left out: a warm start: ${made.stderr}`);
  const snapshot = findSnapshot("bench", join(home.dir, "home/state/workers"));
  const script = home.script("first.py", "import time, numpy\nprint(time.time_ns())\n");
  const bare = home.script(
    "bare.json",
    JSON.stringify({ version: 1, extends: "strict", isolation: { want: [] }, process: { uid: "keep" } }),
  );
  for (const [policy, name] of [
    ["strict", "strict"],
    [bare, "strict without namespaces"],
  ] as const) {
    const took = { warm: [] as number[], cold: [] as number[] };
    for (let round = 0; round < (flags.quick ? 11 : 41); round++) {
      took.warm.push(await firstInstruction(script, policy, snapshot, interpreter));
      took.cold.push(await firstInstruction(script, policy, undefined, interpreter));
    }
    const [warm, cold] = [median(took.warm), median(took.cold)];
    notes.push(
      `first instruction of a script with NumPy, \`${name}\`: ${warm.toFixed(1)} ms from a snapshot, ${cold.toFixed(0)} ms cold (${(cold / warm).toFixed(0)}×)`,
    );
  }
}

function median(numbers: readonly number[]): number {
  return numbers.toSorted((a, b) => a - b)[numbers.length >> 1]!;
}

/** Milliseconds; the shim's own start is part of it. */
async function firstInstruction(
  script: string,
  policy: string,
  snapshot: Snapshot | undefined,
  interpreter: string,
): Promise<number> {
  const file = join(home.dir, "spec");
  const app = { script, command: null, args: [], interpreter: snapshot ? null : interpreter, policy, snapshot };
  writeFileSync(file, specOf(app));
  const began = performance.timeOrigin + performance.now();
  const child = Bun.spawn([SHIM_BINARY, "--run", file], { env: {}, stdio: ["ignore", "pipe", "inherit"] });
  const first = Number(await new Response(child.stdout).text()) / 1e6;
  await child.exited;
  return first - began;
}

/** Under a policy that opens the network to some hosts each connection is decided upon. */
async function connects(): Promise<void> {
  const listener = Bun.spawn([python, "-I", "-S", "-c", LISTENER], { stdio: ["ignore", "pipe", "inherit"] });
  try {
    const port = Number(Buffer.from((await listener.stdout.getReader().read()).value!).toString());
    const network = { mode: "allow", allow: [`127.0.0.1:${port}`] };
    const file = home.script("connects.json", JSON.stringify({ version: 1, extends: NET_ALLOWLIST, network }));
    const pairs = Array.from({ length: 5 }, () => [connectCost(undefined, port), connectCost(file, port)] as const);
    const [plain, decided] = [median(pairs.map(([one]) => one)), median(pairs.map(([, one]) => one))];
    const ratio = median(pairs.map(([before, after]) => after / before)); // of neighbours: the machine may be noisy
    notes.push(
      `a connection to a granted host: ${decided.toFixed(0)} µs, without a policy ${plain.toFixed(0)} µs (${ratio.toFixed(1)}×)`,
    );
  } finally {
    listener.kill("SIGKILL");
    await listener.exited;
  }
}

/** Microseconds of one connection to a listener on this machine, the median of 2000. */
function connectCost(policyFile: string | undefined, port: number): number {
  const command = [ipcctl, "run", "--policy", policyFile ?? "trusted", "--interpreter", python, "-c", CONNECTS];
  const { stdout, stderr, exitCode } = Bun.spawnSync([...command, "--", `${port}`], { env: home.env });
  if (exitCode !== 0) throw new Error(`connections under ${policyFile}: ${stderr.toString()}`);
  return Number(stdout.toString());
}

function writeTable(): void {
  const lines = rows.map(
    ({ what, p50, p90, ratio }) => `| ${what} | ${p50.toFixed(1)} ms | ${p90.toFixed(1)} ms | ${ratio.toFixed(2)} |`,
  );
  const table = `| ${cpus().length} cores, medians of ${rounds} | p50 | p90 | relative to plain |\n|---|---|---|---|\n${lines.join("\n")}\n${notes.length > 0 ? `\n${notes.map((line) => `* ${line}`).join("\n")}\n` : ""}`;
  writeBlock("sandbox", table);
}
