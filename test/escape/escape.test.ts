/**
 * Each attempt must succeed without confinement, or it proves nothing; under a policy all that the policy denies must
 * fail, and nothing may have been done to what they aim at. As the user who runs the tests and, for root, as another
 * one without privileges.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import {
  chmodSync,
  chownSync,
  closeSync,
  cpSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
} from "node:fs";
import { join } from "node:path";
import { Ipcctl } from "ipcctl";
import { Home, ROOT, waitUntil } from "../home.ts";
import { SYSTEM_PYTHON, canBeAnother, isRoot } from "../needs.ts";

type Policy = {
  /** Attempts against any of these must fail (see TAGS in attempts/_attempt.py). */
  readonly denies: readonly string[];
  /** Attempts that must get through all the same: nothing else is taken away. */
  readonly keeps: readonly string[];
  /** Attempts that get through, and may. They are not run. */
  readonly gaps: readonly string[];
};
const BOTH = ["network", "others", "privileges", "descriptors"];
const ALL = [
  ...[...BOTH, "reading", "writing", "metadata", "exec", "fork", "ipc", "kernel", "limits", "env"],
  ...["signals", "scheduling"],
];
/**
 * The worker's own /tmp, and what is bounded by something else: open files, inodes of the scratch folder, the kernel's
 * own count of maps.
 */
const OWN = ["into_tmp", "marker_of_another_program", "name_in_tmp"];
const BOUNDED = ["memory_in_sockets", "folders_in_folders", "maps_of_memory", "locks"];
/** What `policy explain` says is not held there. */
const WITHOUT_NAMESPACES = [
  ...["status", "permission", "status_by_a_handle", "aim_of_a_link", "attributes_of_a_file", "library_of_ours"],
  ...["disk_many_files", "disk_without_names"],
];
const POLICIES: Readonly<Record<string, Policy>> = {
  "no-network": { denies: BOTH, keeps: ["into_tmp", "read", "shell", "child_by_clone3", "faults"], gaps: [] },
  "read-only": {
    denies: [...BOTH, "writing", "metadata", "signals", "scheduling"],
    keeps: ["read", "shell"],
    gaps: [],
  },
  "strict.json": { denies: ALL, keeps: [], gaps: [...OWN, ...BOUNDED] },
  "strict-without-namespaces.json": {
    denies: ALL.filter((tag) => tag !== "limits"), // as above: they need no namespaces
    keeps: [],
    gaps: WITHOUT_NAMESPACES,
  },
};
/** Attempts that spoil their process run each in one of their own, so many at a time. */
const AT_A_TIME = 3;
const NOBODY = 65_534;
const hasAnother = await canBeAnother("attempts as another user");

/** Another user may not reach the Python of the one who runs the tests. */
function pythonOf(uid: number | undefined): string {
  return uid === undefined ? "python3" : SYSTEM_PYTHON;
}

type Attempt = {
  readonly name: string;
  readonly family: string;
  readonly level: "must" | "should" | "info";
  readonly against: readonly string[];
  readonly needs: readonly string[];
  readonly alone: boolean;
};

let home: Home;
let attempts: readonly Attempt[];
beforeAll(async () => {
  home = new Home();
  chmodSync(home.dir, 0o755);
  for (const name of ["peer.py", "attempts.py", "attempts", "benign.py"])
    // where another user can read them
    cpSync(join(import.meta.dir, name), join(home.dir, name), { recursive: true });
  const child = Bun.spawn(["python3", join(home.dir, "attempts.py"), "{}", "--list"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const read = ["attempts.py", "attempts", "benign.py"].map((name) => join(home.dir, name));
  const strict = { version: 1, extends: "strict", files: { read }, limits: { cpuSeconds: 2 } };
  home.script("strict.json", JSON.stringify(strict));
  home.script("strict-without-namespaces.json", JSON.stringify({ ...strict, isolation: { want: [] } }));
  attempts = (await new Response(child.stdout).json()) as Attempt[];
});
afterAll(() => home[Symbol.asyncDispose]());

type Where = { readonly secret: string } & Record<string, unknown>;
/** What was done to the peer. */
type Done = { signals: string[]; hits: string[]; changed: string[]; own: object; daemon: boolean };
type Peer = AsyncDisposable & { readonly where: Where; readonly state: () => Promise<Done> };

function asUser(uid: number | undefined, command: string[]): string[] {
  return uid === undefined ? command : ["setpriv", `--reuid=${uid}`, `--regid=${uid}`, "--clear-groups", ...command];
}

/** Fresh files and a fresh process to aim at. */
async function openPeer(uid: number | undefined): Promise<Peer> {
  const folder = join(home.dir, `t${Math.random().toString(36).slice(2)}`);
  mkdirSync(folder);
  if (uid !== undefined) chownSync(folder, uid, uid);
  const child = Bun.spawn(asUser(uid, [pythonOf(uid), join(home.dir, "peer.py"), folder, join(ROOT, "bin/ipcctl")]), {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const reader = child.stdout.getReader();
  let held = "";
  const line = async (): Promise<unknown> => {
    while (!held.includes("\n")) {
      const { value, done } = await reader.read(); // a piece of a line, or more than one: as the kernel had it
      if (done) throw new Error("the peer ended");
      held += Buffer.from(value).toString();
    }
    const text = held.slice(0, held.indexOf("\n"));
    held = held.slice(text.length + 1);
    return JSON.parse(text);
  };
  return {
    where: (await line()) as Where,
    state: async () => {
      void child.stdin.write("state\n");
      await child.stdin.flush();
      return (await line()) as Done;
    },
    [Symbol.asyncDispose]: async () => {
      await child.stdin.end(); // it takes away what has a name in the kernel
      await child.exited;
    },
  };
}

type Outcome = { readonly escaped: boolean; readonly why?: string; readonly left?: object };
type Command = (uid: number | undefined, script: string, args: string[]) => string[];

/** With nothing between the attempts and the kernel; but with a parent whose environment has the secret as well. */
const unconfined: Command = (uid, script, args) =>
  asUser(uid, ["/bin/sh", "-c", '"$@"; exit $?', "sh", pythonOf(uid), script, ...args]);

function confined(policy: string): Command {
  return (uid, script, args) => [
    ...[join(ROOT, "bin/ipcctl"), "run", "--policy", policy.endsWith(".json") ? join(home.dir, policy) : policy],
    ...(uid === undefined ? [] : ["--uid", `${uid}`, "--gid", `${uid}`]),
    // Users of their own may not reach the Python of the one who runs the tests either.
    ...["--interpreter", policy.endsWith(".json") && existsSync(SYSTEM_PYTHON) ? SYSTEM_PYTHON : pythonOf(uid)],
    ...[script, "--", ...args],
  ];
}

/** Runs a script with a secret in the environment and two descriptors that its caller left open. */
async function launch(command: string[], secret: string): Promise<{ stdout: string; stderr: string }> {
  const leaked = [openSync("/", "r"), openSync(secret, "r")];
  const child = Bun.spawn(command, {
    cwd: home.dir,
    env: { HOME: home.dir, ...home.env, ESCAPE_SECRET_TOKEN: "not for the worker", SSH_AUTH_SOCK: "/run/agent" },
    stdio: ["ignore", "pipe", "pipe", ...leaked],
  });
  for (const fd of leaked) closeSync(fd);
  const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  await child.exited;
  return { stdout, stderr };
}

/** One process for them; where it is killed in the midst, another one for the rest. */
async function runTogether(
  command: Command,
  uid: number | undefined,
  where: Where,
  names: string[],
  into: Map<string, Outcome>,
): Promise<void> {
  let left = names;
  while (left.length > 0) {
    const args = [JSON.stringify(where), left.join(",")];
    const { stdout, stderr } = await launch(command(uid, join(home.dir, "attempts.py"), args), where.secret);
    for (const line of stdout.split("\n").filter((line) => line.startsWith("{"))) {
      const { begin, end, ...outcome } = JSON.parse(line) as { begin?: string; end?: string } & Outcome;
      if (begin !== undefined) into.set(begin, { escaped: false, why: "it died" });
      if (end !== undefined) into.set(end, outcome);
    }
    const rest = left.filter((name) => !into.has(name));
    if (rest.length === left.length) throw new Error(`nothing ran: ${stderr}`);
    left = rest;
  }
}

async function runAll(
  command: Command,
  uid: number | undefined,
  where: Where,
  rows: readonly Attempt[],
): Promise<Map<string, Outcome>> {
  const found = new Map<string, Outcome>();
  const names = (isAlone: boolean): string[] => rows.filter((row) => row.alone === isAlone).map((row) => row.name);
  await runTogether(command, uid, where, names(false), found);
  const queue = names(true);
  const work = async (): Promise<void> => {
    for (let name = queue.pop(); name !== undefined; name = queue.pop())
      await runTogether(command, uid, where, [name], found);
  };
  await Promise.all(Array.from({ length: AT_A_TIME }, work));
  return found;
}

/** Processes of attempts that live on. */
function survivors(): string[] {
  const script = join(home.dir, "attempts.py");
  return readdirSync("/proc").filter((name) => {
    try {
      return /^\d+$/.test(name) && readFileSync(`/proc/${name}/cmdline`, "utf8").includes(script);
    } catch {
      return false;
    }
  });
}

function isAgainst(attempt: Attempt, tags: readonly string[]): boolean {
  return attempt.against.some((tag) => tags.includes(tag));
}

const users: [name: string, uid: number | undefined][] = [
  [isRoot ? "root" : "an ordinary user", undefined],
  ...(hasAnother ? [["nobody", NOBODY] as [string, number]] : []),
];

for (const [user, uid] of users) {
  /** What succeeds without confinement. */
  let possible: readonly Attempt[] = [];

  test(`as ${user}, without a policy, the attempts succeed`, async () => {
    await using peer = await openPeer(uid);
    const all = Object.values(POLICIES).flatMap(({ denies }) => denies);
    const kept = Object.values(POLICIES).flatMap(({ keeps }) => keeps);
    const rows = attempts.filter((row) => isAgainst(row, all) || kept.includes(row.name));
    const found = await runAll(unconfined, uid, { ...peer.where, patience: 5, seconds: 1, is_control: true }, rows);
    possible = rows.filter((row) => found.get(row.name)?.escaped);
    const failed = rows.filter((row) => !possible.includes(row));
    const isExcused = ({ needs }: Attempt): boolean => needs.length > 0;
    expect(failed.filter((row) => !isExcused(row)).map((row) => [row.name, found.get(row.name)?.why])).toEqual([]);
    expect([...found].filter(([, outcome]) => outcome.left)).toEqual([]); // no attempt spoils the next one
    expect(possible.length).toBeGreaterThan(rows.length * 0.75);
    console.log(`as ${user} ${possible.length} succeed; left out: ${failed.map(({ name }) => name).join(", ")}`);
    await waitUntil(() => survivors().length === 0, "no attempt is left");
  }, 300_000);

  for (const [policy, { denies, keeps, gaps }] of Object.entries(POLICIES))
    test(`as ${user}, under ${policy}, those fail that it denies`, async () => {
      const { stdout, stderr } = await launch(
        confined(policy)(uid, join(home.dir, "benign.py"), denies.includes("fork") ? ["alone"] : []),
        "/dev/null",
      );
      if (stdout !== '"benign"\n') throw new Error(`an ordinary worker ended so: ${stdout}${stderr}`);

      await using peer = await openPeer(uid);
      // The worker's own folder; what comes late the peer tells.
      const where = { ...peer.where, scratch: "", patience: 0.3 };
      const rows = possible.filter(({ name, ...row }) => isAgainst({ name, ...row }, denies) && !gaps.includes(name));
      expect(rows.length).toBeGreaterThan(20);
      const found = await runAll(confined(policy), uid, where, rows);
      const through = rows.filter((row) => found.get(row.name)?.escaped);
      expect(through.filter(({ level }) => level !== "info").map(({ name }) => name)).toEqual([]);
      const nothing: Done = { signals: [], hits: [], changed: [], own: {}, daemon: true };
      expect(await peer.state()).toEqual(nothing);

      const kept = possible.filter(({ name }) => keeps.includes(name));
      const still = await runAll(confined(policy), uid, where, kept);
      expect(kept.filter(({ name }) => !still.get(name)?.escaped).map(({ name }) => name)).toEqual([]);

      const away = attempts.filter(({ name }) => name === "another_session");
      await runAll(confined(policy), uid, where, away);
      expect(survivors()).toEqual([]);
    }, 300_000);
}

test("a supervised worker is confined, answers calls, and is not weaker after a restart", async () => {
  const script = home.script(
    "confined.py",
    `
import os, socket
import ipcctl
@ipcctl.expose
def outcome():
    found = []
    for attempt in (lambda: socket.socket(), lambda: open(${JSON.stringify(join(home.dir, "out"))}, "w"), lambda: open(os.path.join(os.environ["TMPDIR"], "in"), "w")):
        try: attempt(); found.append("ok")
        except OSError as error: found.append(error.errno)
    return found
ipcctl.serve()
`,
  );
  using ipc = new Ipcctl(await home.connect());
  const py = await ipc.start(script, { cwd: home.dir, policy: "read-only" });
  expect(await py.call("outcome")).toEqual([1, 13, "ok"]);
  expect((await home.status("confined")).policy).toBe("read-only");
  process.kill((await home.status("confined")).pid!, "SIGKILL");
  await waitUntil(() => !py.isOpen, "it is gone");
  using again = await ipc.worker("confined");
  expect(await again.call("outcome")).toEqual([1, 13, "ok"]);
});

test("a script that runs confined cannot have the supervisor start an unconfined worker", async () => {
  const proof = join(home.dir, "unconfined");
  const evil = home.script("evil.py", `open(${JSON.stringify(proof)}, "w")`);
  const command = JSON.stringify([join(ROOT, "bin/ipcctl"), "start", evil, "--policy", "trusted", "--restart", "no"]);
  const env = `dict(os.environ, IPCCTL_HOME=${JSON.stringify(home.env.IPCCTL_HOME)})`;
  const script = home.script("asks.py", `import os, subprocess\nsubprocess.run(${command}, env=${env})`);
  await home.daemonPid();
  const { stderr } = await home.cli("run", "--policy", "read-only", script);
  expect(stderr).not.toContain("Traceback");
  expect((await home.cli("status", "evil")).status).toBe(4);
  expect(existsSync(proof)).toBe(false);
}, 20_000);

test("a policy that cannot be carried out is an error that names it, and nothing starts", async () => {
  const script = home.script("never.py", "open('started', 'w')");
  const bad = home.script(
    "bad.json",
    '{"version":1,"extends":"trusted","files":{"read":["/"],"write":["/not/there"]}}',
  );
  const cases: [file: string, message: string][] = [
    ['{"version":1,"network":{"mode":"some"}}', "$.network.mode"],
    ['{"version":1,"files":{"read":["relative"]}}', "$.files.read.0: must be an absolute path"],
    ['{"version":1,"files":{"read":["/a/../b"]}}', "must be an absolute path"],
    ['{"version":1,"colour":"red"}', "colour"],
    ['{"version":2}', "$.version"],
    ["{", "JSON"],
    ['{"version":1,"extends":"nobody-knows"}', "no policy"],
    ['{"version":1,"files":{"read":["/not/there"]}}', "files /not/there cannot be enforced"],
    ['{"version":1,"extends":"no-network","files":{"deny":["/etc"]}}', "take out of a grant"],
    [`{"version":1,"extends":${JSON.stringify(join(home.dir, "case.json"))}}`, "extends more than 8"],
  ];
  for (const [text, message] of cases) {
    const file = home.script("case.json", text);
    const { stderr, status } = await home.cli("run", "--policy", file, script);
    expect({ text, stderr, isRefused: status === 2 || status === 5 }).toEqual({
      text,
      stderr: expect.stringContaining(message),
      isRefused: true,
    });
  }
  const missing = await home.cli("start", script, "--policy", bad, "--name", "missing", "--restart", "no");
  expect(missing.status).not.toBe(0);
  expect(missing.stderr).toContain("/not/there");
  expect(await Bun.file(join(home.dir, "started")).exists()).toBe(false);
});
