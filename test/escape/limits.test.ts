/**
 * Bombs of each kind (bombs.py) under a policy that extends `strict`, by `run` and by `start`, as root and as an
 * ordinary user, the whole of ipcctl in both: what a limit allows works, one more is refused. Meanwhile the daemon
 * answers, and so does a worker beside it. What is not held is told here by name, and `policy explain` must say so.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { WorkerStatus } from "../../src/protocol/status.ts";
import { ownUserOf } from "../../src/launch/users.ts";
import { formatBytes } from "../../src/base/units.ts";
import { type CliResult, copyOfApp, outcomeOf, ROOT, waitUntil } from "../home.ts";
import { SYSTEM_PYTHON, canBeAnother, isRoot, skipUnless } from "../needs.ts";
import { sleep } from "../../src/base/patience.ts";

const MIB = 1 << 20;
const NOBODY = 65_534;
/** Tells that something hangs, not how fast it is. */
const PATIENCE_MS = 120_000;
const PACE_MS = 1000;
const hasNamespaces = Bun.spawnSync([join(ROOT, "native/build/ipcctl-shim"), "--probe"], {
  stdio: ["ignore", "ignore", "ignore"],
}).success;

const MEMORY = 64 * MIB;
/** Address space is limited to this many times the memory: what is left where the memory itself is not held. */
const SPACE_FACTOR = 8;
const TASKS = 16;
const OPEN_FILES = 64;
const FILE_SIZE = MIB;
const PERCENT = 5;
const SCRATCH = { size: 4 * MIB, files: 64 };
/** Folders on the way to the program take up files of the scratch folder where it lies below /tmp. */
const FILES_OF_PROGRAM = 24;
const LOG = 4 * MIB;
const FLOOD = 200_000_000;

const WAYS = ["run", "start"] as const;
type Way = (typeof WAYS)[number];
const SHELTERS = [...(hasNamespaces ? (["namespaces"] as const) : []), "none"] as const;
type Shelter = (typeof SHELTERS)[number];
skipUnless(hasNamespaces, "namespaces", "limits of a scratch folder in namespaces");

type Changes = {
  readonly files?: object;
  readonly process?: object;
  readonly limits?: object;
};
/** How much a bomb had, and what refused it more. */
type Result = { readonly had: number; readonly by: string | null };
/** How the process ended, with what its bombs told until then. */
type Outcome = {
  readonly results: readonly Result[];
  /** As `run` exits; of `start` the exit code, or the name of the signal. */
  readonly status: number | string | null;
  readonly stderr: string;
  readonly reason: string | null;
};
type Item = { readonly item: string; readonly verdict: string; readonly by: string };

/** An ipcctl of one user: his daemon, with a worker in it that does nothing wrong. */
class Site {
  readonly name: string;
  readonly dir = mkdtempSync(join(tmpdir(), "ipcctl-limits-"));
  readonly #command: readonly string[];
  readonly #env: Record<string, string>;
  #count = 0;

  constructor(name: string, uid: number | undefined) {
    this.name = name;
    const app = uid === undefined ? ROOT : copyOfApp(join(this.dir, "app"));
    const setpriv = uid === undefined ? [] : ["setpriv", `--reuid=${uid}`, `--regid=${uid}`, "--clear-groups"];
    this.#command = [...setpriv, join(app, "bin/ipcctl")];
    const home = join(this.dir, "home");
    mkdirSync(home);
    chmodSync(this.dir, 0o755);
    if (uid !== undefined) chownSync(home, uid, uid);
    this.#env = { PATH: "/usr/local/bin:/usr/bin:/bin", HOME: home, IPCCTL_HOME: join(home, "ipcctl"), NO_COLOR: "1" };
    copyFileSync(join(import.meta.dir, "bombs.py"), join(this.dir, "bombs.py"));
    this.script("innocent.py", 'import ipcctl\n@ipcctl.expose\ndef ping(): return "pong"\nipcctl.serve()\n');
  }

  script(name: string, text: string): string {
    const path = join(this.dir, name);
    writeFileSync(path, text, { mode: 0o644 });
    chmodSync(path, 0o644);
    return path;
  }

  spawn(...args: string[]): Bun.Subprocess<"ignore", "pipe", "pipe"> {
    return Bun.spawn([...this.#command, ...args], {
      cwd: this.dir,
      env: this.#env,
      stdio: ["ignore", "pipe", "pipe"],
    });
  }

  async cli(...args: string[]): Promise<CliResult> {
    const child = this.spawn(...args);
    return await outcomeOf(child);
  }

  async open(): Promise<void> {
    const policy = this.policy("namespaces", {});
    const { stderr, status } = await this.cli(...this.startFlags("innocent", policy), join(this.dir, "innocent.py"));
    if (status !== 0) throw new Error(stderr);
    await waitUntil(async () => (await this.cli("call", "innocent", "ping")).status === 0, "the innocent one serves");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.cli("daemon", "stop");
    rmSync(this.dir, { recursive: true, force: true });
  }

  /** Writes one that extends `strict`. */
  policy(shelter: Shelter, { files, process, limits }: Changes, way: Way = "run"): string {
    const isolation = shelter === "none" ? { isolation: { want: [] } } : {};
    // The state directory is closed to a worker's own user, and without namespaces its scratch folder is in it.
    const keeps = this.name === "root" && shelter === "none" && way === "start" ? { uid: "keep" } : {};
    const own = { ...process, ...keeps };
    const text = JSON.stringify({ version: 1, extends: "strict", ...isolation, files, process: own, limits });
    return this.script(`policy-${this.#count++}.json`, text);
  }

  startFlags(name: string, policy: string): string[] {
    const stop = ["--restart", "no", "--stop-timeout", "300ms"];
    return ["start", "--name", name, "--policy", policy, "--interpreter", pythonOf(), ...stop];
  }

  async status(name: string): Promise<WorkerStatus> {
    return (JSON.parse((await this.cli("status", name, "--json")).stdout) as WorkerStatus[])[0]!;
  }

  async explain(policy: string): Promise<Item[]> {
    const { stdout, stderr } = await this.cli("policy", "explain", policy, "--json");
    if (stdout === "") throw new Error(stderr);
    return JSON.parse(stdout) as Item[];
  }

  /** The daemon and the innocent worker answer, at least once and for as long as that goes on. */
  async whileAnswering<T>(bomb: Promise<T>): Promise<T> {
    let isOver = false;
    const over = bomb.finally(() => (isOver = true));
    void over.catch(() => undefined); // told below
    do {
      const begin = performance.now();
      const [status, call] = await Promise.all([
        this.cli("status", "--json"),
        this.cli("call", "innocent", "ping", "--timeout", `${PATIENCE_MS / 1000}`),
      ]);
      expect({ site: this.name, status: status.status, call: call.stdout, stderr: call.stderr }).toEqual({
        site: this.name,
        status: 0,
        call: '"pong"\n',
        stderr: "",
      });
      expect(performance.now() - begin).toBeLessThan(PATIENCE_MS);
      await Promise.race([over.catch(() => undefined), sleep(PACE_MS)]); // who asks all the time is a bomb himself
    } while (!isOver);
    return over;
  }

  /** The record of its end is on disk, and then the daemon knows of it. */
  async waitForEnd(name: string): Promise<WorkerStatus> {
    let now = await this.status(name);
    const record = join(now.log_dir, "../exit");
    await waitUntil(() => existsSync(record), `${name} has ended`);
    await waitUntil(
      async () => (now = await this.status(name)).state === "Stopped",
      `the daemon knows that ${name} has ended`,
    );
    return now;
  }

  /** Lets bombs go off one after the other in one process, and waits for its end. */
  async detonate(way: Way, policy: string, ...bombs: (readonly (string | number)[])[]): Promise<Outcome> {
    const words = bombs.map((bomb) => bomb.join(" ")).join(" + ");
    const rest = [join(this.dir, "bombs.py"), "--", ...words.split(" ")];
    if (way === "run") {
      const flags = ["run", "--policy", policy, "--interpreter", pythonOf()];
      const { status, stdout, stderr } = await this.cli(...flags, ...rest);
      return { results: resultsOf(stdout), status, stderr, reason: null };
    }
    const name = `bomb-${this.#count++}`;
    const started = await this.cli(...this.startFlags(name, policy), ...rest);
    if (started.status !== 0) throw new Error(`${words}: ${started.stderr}`);
    const { last_exit_signal, last_exit_code, reason } = await this.waitForEnd(name);
    const { stdout } = await this.cli("logs", name, "-n", "1000");
    return { results: resultsOf(stdout), status: last_exit_signal ?? last_exit_code, stderr: "", reason };
  }
}

/** The one that every user may run. */
function pythonOf(): string {
  return existsSync(SYSTEM_PYTHON) ? SYSTEM_PYTHON : "python3";
}

function resultsOf(output: string): Result[] {
  const lines = output.split("\n").filter((one) => one.startsWith('{"had"'));
  return lines.map((one) => JSON.parse(one) as Result);
}

/** Those whose command line has this word in it, but for ipcctl's own. */
function countOf(mark: string): number {
  return readdirSync("/proc").filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      const words = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
      return words.includes(mark) && words[0]!.includes("python");
    } catch {
      return false; // it ended meanwhile
    }
  }).length;
}

/**
 * So much at least is there at once: nothing, if meanwhile one was rotated away and another one grew in its place. The
 * packed copy of a file counts once it has taken the file's place.
 */
function sizeOf(folder: string): number {
  const names = readdirSync(folder);
  const files = names.filter((name) => !names.includes(name.replace(/\.gz.*$/, "")) || !name.includes(".gz"));
  const sizes = files.map((name) => statSync(join(folder, name), { throwIfNoEntry: false })?.size ?? 0);
  return files.every((name) => existsSync(join(folder, name))) ? sizes.reduce((sum, size) => sum + size, 0) : 0;
}

/** Says what is not held, and that the user is told. */
async function expectTold(site: Site, policy: string, item: string, what: string, told: RegExp): Promise<void> {
  const said = (await site.explain(policy)).find((one) => one.item === item);
  expect({ site: site.name, what, told: said?.by }).toEqual({
    site: site.name,
    what,
    told: expect.stringMatching(told),
  });
  console.log(`not held here: ${what}, as ${site.name}`);
}

/** So many at once: there are two cores. */
async function inTurn(jobs: readonly (() => Promise<unknown>)[], atOnce = 3): Promise<void> {
  const waiting = [...jobs];
  const work = async (): Promise<void> => {
    for (let job = waiting.shift(); job !== undefined; job = waiting.shift()) await job();
  };
  await Promise.all(Array.from({ length: atOnce }, work));
}

const sites: Site[] = [];
const users: [name: string, uid: number | undefined][] = [
  [isRoot ? "root" : "an ordinary user", undefined],
  ...((await canBeAnother("limits of another user")) ? [["nobody", NOBODY] as [string, number]] : []),
];
/** Under `run` the grace of a worker that ignores SIGTERM is 10 s: it passes while the others go off. */
const staying = new Map<Site, Promise<Outcome>>();
/** Enough for it to say that it stays, on a machine that has much else to do. */
const wallPolicy = (site: Site): string => site.policy("namespaces", { limits: { wallSeconds: 10 } });
beforeAll(async () => {
  for (const [name, uid] of users) sites.push(new Site(name, uid));
  await Promise.all(sites.map((site) => site.open()));
  for (const site of sites) {
    staying.set(site, site.detonate("run", wallPolicy(site), ["stay"]));
    void staying.get(site)!.catch(() => undefined); // told where it is waited for
  }
}, 60_000);
afterAll(async () => {
  await Promise.all(sites.map((site) => site[Symbol.asyncDispose]()));
});

/** On every site, while all of it goes on answering. */
function onEverySite(what: string, jobs: (site: Site) => (() => Promise<unknown>)[], atOnce?: number): void {
  test(what, () => Promise.all(sites.map((site) => site.whileAnswering(inTurn(jobs(site), atOnce)))), 60_000);
}

/** What is refused, and how that looks. A control group kills instead. */
const MEMORY_BOMBS: readonly [bomb: string, least: number, refusal: RegExp][] = [
  ["memory_objects", MEMORY / 2, /^MemoryError/],
  ["memory_private", MEMORY / 2, /^ENOMEM$/],
  ["memory_remapped", MEMORY / 2, /^ENOMEM$/],
  ["memory_thread_stacks", MEMORY / 4, /can't start new thread|MemoryError/],
  ["memory_shared", 0, /^ENOMEM$/],
  ["memory_unnamed_file", 0, /^EPERM$/],
  ["memory_zero_device", 0, /^EACCES$/],
  ["memory_segments", 0, /^EPERM$/],
];
/** What the kernel counts as address space only. */
const BYPASSES: readonly [bomb: string, what: string][] = [
  ["memory_sealed", "memory that is read-only once it is written, up to the address space"],
  ["memory_growing", "memory that grows downwards, up to the address space"],
];

onEverySite("memory", (site) => {
  const policy = site.policy("namespaces", { limits: { memory: "64M" } });
  const forking = site.policy("namespaces", { process: { fork: true }, limits: { memory: "64M" } });
  return WAYS.flatMap((way) => [
    async () => {
      const bombs = MEMORY_BOMBS.map(([bomb]) => [bomb, 16 * MEMORY]);
      const { results, ...end } = await site.detonate(way, policy, ...bombs);
      expect(results.every(({ had }) => had <= MEMORY)).toBe(true);
      if (end.status === "SIGKILL") return; // by a control group
      expect({ way, end, by: results.map(({ by }) => by) }).toEqual({
        way,
        end: expect.anything(),
        by: MEMORY_BOMBS.map(([, , refusal]) => expect.stringMatching(refusal)),
      });
      const tooFew = MEMORY_BOMBS.filter(([, least], index) => results[index]!.had < least);
      expect(tooFew).toEqual([]); // what the limit allows works
    },
    async () => {
      const most = way === "run" ? 16 * MEMORY : 3 * MEMORY;
      const { results } = await site.detonate(way, policy, ...BYPASSES.map(([bomb]) => [bomb, most]));
      for (const [index, { had }] of results.entries()) {
        expect(had).toBeLessThan(SPACE_FACTOR * MEMORY);
        const what = `${BYPASSES[index]![1]}, by ${way}`;
        if (had > MEMORY) await expectTold(site, policy, "limits.memory", what, /not held.* address space/);
      }
    },
    async () => {
      const { results, status } = await site.detonate(way, policy, ["memory_main_stack", 16 * MEMORY]);
      expect(status).toEqual(way === "run" ? 139 : expect.stringMatching(/^SIG(SEGV|KILL)$/));
      expect(results.length * MIB).toBeLessThanOrEqual(MEMORY); // a line for each
      expect(results.length).toBeGreaterThan(0);
    },
    async () => {
      const had = (await site.detonate(way, forking, ["memory_children", 16 * MEMORY])).results[0]?.had ?? 0;
      expect(had).toBeLessThanOrEqual(4 * MEMORY);
      if (had > MEMORY)
        await expectTold(site, forking, "limits.memory", `memory of children, by ${way}`, /each process.*not held/);
    },
  ]);
});

onEverySite("memory, where all may be read", (site) => {
  const policy = site.policy("none", { files: { read: ["/"] }, limits: { memory: "64M" } });
  const bombs = ["memory_shared", "memory_zero_device", "memory_segments"];
  return [
    async () => {
      const { results } = await site.detonate("run", policy, ...bombs.map((bomb) => [bomb, 4 * MEMORY]));
      expect(results).toHaveLength(bombs.length);
      for (const [index, { had }] of results.entries()) {
        if (had === 0) continue;
        expect(bombs[index]).toBe("memory_segments");
        await expectTold(
          site,
          policy,
          "limits.memory",
          "segments of System V where all may be read",
          /not held.*shared/,
        );
      }
    },
  ];
});

onEverySite(
  "processor time",
  (site) => {
    const policy = site.policy("namespaces", { limits: { cpuSeconds: 1 } });
    const forking = site.policy("namespaces", { process: { fork: true }, limits: { cpuSeconds: 1 } });
    const ends: [way: Way, bomb: string, status: number | string][] = [
      ["run", "cpu", 152],
      ["start", "cpu", "SIGXCPU"],
      ["run", "cpu_threads", 152],
      ["start", "cpu_ignoring", "SIGKILL"],
    ];
    const jobs = ends.map(([way, bomb, status]) => async () => {
      const outcome = await site.detonate(way, policy, [bomb]);
      expect({ bomb, status: outcome.status }).toEqual({ bomb, status });
      if (way === "start") expect(outcome.reason).toContain(String(status));
    });
    const children = async (): Promise<void> => {
      const [result] = (await site.detonate("run", forking, ["cpu_children"])).results;
      expect(result?.by).toBe("SIGXCPU SIGXCPU");
      expect(result?.had).toBeGreaterThan(1500); // ms, of both
      await expectTold(site, forking, "limits.cpuSeconds", "processor time of children in sum", /for each process/);
    };
    return [children, ...jobs];
  },
  5,
);

onEverySite("processor share", (site) => {
  const policy = site.policy("namespaces", { limits: { cpuPercent: PERCENT } });
  return WAYS.map((way) => async () => {
    const [result] = (await site.detonate(way, policy, ["cpu_share"])).results;
    if (result!.had > 2 * PERCENT)
      await expectTold(site, policy, "limits.cpuPercent", `share of a core, by ${way}`, /without one it is not held/);
  });
});

onEverySite("processes that leave their parents and sessions", (site) => {
  const policy = site.policy("namespaces", { process: { fork: true, threads: null }, limits: { pids: TASKS } });
  return WAYS.map((way) => async () => {
    const mark = `mark-${site.name}-${way}`.replaceAll(" ", "-");
    const bomb = [join(site.dir, "bombs.py"), "--", "processes", mark];
    const flags =
      way === "run" ? ["run", "--interpreter", pythonOf(), "--policy", policy] : site.startFlags(mark, policy);
    const child = site.spawn(...flags, ...bomb);
    let most = 0;
    // As many as may be there at once are, and they are no more while some are still refused.
    await waitUntil(() => (most = Math.max(most, countOf(mark))) >= TASKS, `${TASKS} processes of ${mark}`);
    await site.cli("status");
    expect(Math.max(most, countOf(mark))).toBe(TASKS);
    if (way === "run") {
      // Its worker, which heeds no other signal; the rest goes with it.
      const worker = readFileSync(`/proc/${shimOf(child.pid)}/task/${shimOf(child.pid)}/children`, "utf8").split(" ");
      for (const pid of worker.filter(Boolean)) if (commandOf(pid).includes(mark)) process.kill(Number(pid), "SIGKILL");
    } else {
      await child.exited;
      expect((await site.cli("stop", mark)).status).toBe(0);
    }
    await child.exited;
    expect(countOf(mark)).toBe(0);
  });
});

/** Of `ipcctl run`. */
function shimOf(pid: number): string {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ");
  return children.find((one) => one !== "" && commandOf(one).includes("ipcctl-shim"))!;
}

function commandOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8");
  } catch {
    return ""; // it ended meanwhile
  }
}

onEverySite("threads", (site) => {
  const limited = SHELTERS.flatMap((shelter) =>
    WAYS.filter((way) => site.name !== "root" || shelter === "namespaces" || way === "run").map((way) => async () => {
      const policy = site.policy(shelter, { process: { threads: TASKS } }, way);
      const [result] = (await site.detonate(way, policy, ["threads", 8 * TASKS])).results;
      expect(result?.by).toContain("can't start new thread");
      // Without a count of one's own those of the user's that end meanwhile, and those that begin, are in it.
      if (site.name === "root" || shelter === "namespaces") expect(result?.had).toBe(TASKS);
      else expect(result?.had).toBeLessThan(4 * TASKS);
    }),
  );
  const keeping = site.policy("namespaces", { process: { threads: TASKS, uid: "keep" } });
  const ofRoot = WAYS.map((way) => async () => {
    const [result] = (await site.detonate(way, keeping, ["threads", 4 * TASKS])).results;
    if (result!.had > TASKS)
      await expectTold(site, keeping, "process.threads", `threads of root himself, by ${way}`, /^not held/);
  });
  return [...limited, ...(site.name === "root" ? ofRoot : [])];
});

onEverySite("open files", (site) => {
  const policy = site.policy("namespaces", { limits: { openFiles: OPEN_FILES } });
  return WAYS.map((way) => async () => {
    const bombs = [
      ["open_files", 4 * OPEN_FILES],
      ["open_files_in_flight", 16 * OPEN_FILES],
    ];
    const { results } = await site.detonate(way, policy, ...bombs);
    expect(results).toEqual([
      { had: OPEN_FILES, by: "EMFILE" },
      { had: expect.any(Number), by: "ETOOMANYREFS" },
    ]);
    expect(results[1]!.had).toBeLessThan(2 * OPEN_FILES);
  });
});

onEverySite("buffers of sockets", (site) => {
  const policy = site.policy("namespaces", { limits: { memory: "64M", openFiles: OPEN_FILES } });
  const most = 3 * OPEN_FILES * (Number(readFileSync("/proc/sys/net/core/wmem_default", "utf8")) + 65_536);
  return WAYS.map((way) => async () => {
    const outcome = await site.detonate(way, policy, ["pages_in_sockets", 4 * most], ["socket_buffers", 4 * most]);
    expect(outcome).toMatchObject({
      results: [{ had: 0, by: "EINVAL" }, { by: expect.stringMatching(/EMFILE|ETOOMANYREFS/) }],
    });
    const [, result] = outcome.results;
    expect(result!.had).toBeGreaterThan(OPEN_FILES * 65_536);
    expect(result!.had).toBeLessThanOrEqual(most);
    await expectTold(
      site,
      policy,
      "memory of the kernel",
      `buffers of sockets, by ${way}`,
      new RegExp(formatBytes(most)),
    );
  });
});

/** Has this many descriptors under way until its stdin ends. */
const HOLDER = `import array, os, socket, sys
left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
for _ in range(int(sys.argv[1])):
    left.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))])
print("held", flush=True)
sys.stdin.read()
`;
/** Shims of that user that wait between fork and exec, confined already. */
const waitingOnes = (): string[] =>
  readdirSync("/proc").filter((pid) => {
    try {
      const status = /^\d+$/.test(pid) ? readFileSync(`/proc/${pid}/status`, "utf8") : "";
      return (
        /^Name:\tipcctl-shim\n[^]*^Uid:\t65534\b[^]*^Seccomp:\t2$/m.test(status) &&
        readFileSync(`/proc/${pid}/wchan`, "utf8").includes("poll")
      );
    } catch {
      return false; // it ended meanwhile
    }
  });

test("a start waits for descriptors of its user that are under way, and says so if that takes too long", async () => {
  const site = sites.find(({ name }) => name === "nobody");
  if (site === undefined) return; // told above
  const python = ["setpriv", `--reuid=${NOBODY}`, `--regid=${NOBODY}`, "--clear-groups", pythonOf(), "-c", HOLDER];
  const policy = site.policy("namespaces", { limits: { openFiles: OPEN_FILES } });
  const script = site.script("short.py", "print(1)");
  for (const isInTime of [true, false]) {
    const holder = Bun.spawn([...python, `${2 * OPEN_FILES}`], { stdio: ["pipe", "pipe", "inherit"] });
    expect(Buffer.from((await holder.stdout.getReader().read()).value!).toString()).toStartWith("held");
    const before = waitingOnes();
    const outcome = site.cli("run", "--policy", policy, "--interpreter", pythonOf(), script);
    await waitUntil(() => waitingOnes().some((pid) => !before.includes(pid)), "it waits");
    if (!isInTime)
      expect(await outcome).toMatchObject({ status: 126, stderr: expect.stringMatching(/Too many references/) });
    await holder.stdin.end();
    await holder.exited;
    if (isInTime) expect(await outcome).toEqual({ status: 0, stdout: "1\n", stderr: "" });
  }
});

onEverySite("size of a file", (site) =>
  SHELTERS.flatMap((shelter) =>
    WAYS.map((way) => async () => {
      const policy = site.policy(shelter, { limits: { fileSize: "1M" } }, way);
      const bombs = [
        ["file_written", 4 * FILE_SIZE],
        ["file_sparse", FILE_SIZE],
        ["file_sparse", FILE_SIZE + 1],
      ];
      expect((await site.detonate(way, policy, ...bombs)).results).toEqual([
        { had: FILE_SIZE, by: "EFBIG" },
        { had: FILE_SIZE, by: "" },
        { had: 0, by: "EFBIG" },
      ]);
    }),
  ),
);

const SCRATCH_BOMBS: readonly [bomb: string, most: number, what: string][] = [
  ["scratch_bytes", 4 * SCRATCH.size, "size"],
  ["scratch_sparse", 4 * SCRATCH.size, "size by sparse files"],
  ["scratch_files", 4 * SCRATCH.files, "number of files"],
  ["scratch_links", 4 * SCRATCH.files, "number of names"],
];

onEverySite("scratch folder", (site) =>
  SHELTERS.flatMap((shelter) =>
    WAYS.map((way) => async () => {
      const policy = site.policy(shelter, { files: { scratch: { size: "4M", files: SCRATCH.files } } }, way);
      const { results } = await site.detonate(way, policy, ...SCRATCH_BOMBS.map(([bomb, most]) => [bomb, most]));
      if (shelter === "none") {
        const what = SCRATCH_BOMBS.filter(([, most], index) => results[index]!.had >= most).map(([, , name]) => name);
        expect(what).toEqual(SCRATCH_BOMBS.map(([, , name]) => name));
        const text = `${what.join(", ")} of a scratch folder without namespaces, by ${way}`;
        return expectTold(site, policy, "files.scratch", text, /not for the sum/);
      }
      expect(results.map(({ by }) => by)).toEqual(["ENOSPC", "ENOSPC", "ENOSPC", "ENOSPC"]);
      expect(results.slice(0, 2).map(({ had }) => had)).toEqual([SCRATCH.size, SCRATCH.size]);
      for (const { had } of results.slice(2)) {
        expect(had).toBeLessThan(SCRATCH.files);
        expect(had).toBeGreaterThan(SCRATCH.files - FILES_OF_PROGRAM);
      }
    }),
  ),
);

onEverySite("log", (site) => {
  const policy = site.policy("namespaces", { limits: { log: "4M" } });
  return ["flood", "flood_one_line"].map((bomb) => async () => {
    const name = `log-${bomb.replaceAll("_", "-")}`;
    const rest = [join(site.dir, "bombs.py"), "--", bomb, String(FLOOD)];
    expect((await site.cli(...site.startFlags(name, policy), ...rest)).status).toBe(0);
    const { log_dir } = await site.status(name);
    let most = 0;
    await waitUntil(() => {
      most = Math.max(most, sizeOf(log_dir));
      return existsSync(join(log_dir, "../exit"));
    }, `${bomb} has ended`);
    // All was taken.
    expect(resultsOf((await site.cli("logs", name, "-n", "1")).stdout)).toEqual([{ had: FLOOD, by: "done" }]);
    expect(Math.max(most, sizeOf(log_dir))).toBeLessThanOrEqual(LOG);
    expect(sizeOf(log_dir)).toBeGreaterThan(0);
  });
});

onEverySite("time", (site) => [
  async () => {
    const { results, status, reason } = await site.detonate("start", wallPolicy(site), ["stay"]);
    expect({ results, status }).toEqual({ results: [{ had: 0, by: "stays" }], status: "SIGKILL" });
    expect(reason).not.toBe("");
  },
  async () => {
    const { results, status } = await staying.get(site)!;
    expect({ results, status }).toEqual({ results: [{ had: 0, by: "stays" }], status: 124 });
  },
]);

test("workers seldom share a user, whose threads are counted together", () => {
  const names = Array.from({ length: 200 }, (_, index) => `worker-${index}`);
  expect(new Set(names.map((name) => ownUserOf(name))).size).toBeGreaterThan(180);
});
