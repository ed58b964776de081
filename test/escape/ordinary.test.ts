/**
 * What ordinary programs do, under each policy: ordinary.py first without confinement, where all must work, then with.
 * The table below says what is denied on purpose; anything else must work. `IPCCTL_TEST_WRITE=1 bun test
 * test/escape/ordinary.test.ts` writes what was measured into docs/security.md; without it the table there must be the
 * same.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { chmodSync, chownSync, copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Home, ROOT } from "../home.ts";
import { SYSTEM_PYTHON, canBeAnother, skipUnless } from "../needs.ts";
import { pythonWithPackages } from "../packages.ts";

type Policy = (typeof POLICIES)[number];
/** Those that this table speaks of, in the order of the columns; one that ships and is not here fails the test. */
const POLICIES = ["trusted", "no-network", "read-only", "strict", "analysis", "net-allowlist"] as const;
const STRICT: readonly Policy[] = ["strict", "analysis", "net-allowlist"];
const READ_ONLY: readonly Policy[] = ["read-only", ...STRICT];
const OFFLINE: readonly Policy[] = ["no-network", ...READ_ONLY];
const SCRIPT_ONLY: readonly Policy[] = ["strict", "net-allowlist"];
/** With a root of its own a worker changes modes in its scratch folder: everything else is mounted read-only. */
const hasNamespaces = Bun.spawnSync([join(ROOT, "native/build/ipcctl-shim"), "--probe"]).success;
const METADATA: readonly Policy[] = hasNamespaces ? ["read-only"] : READ_ONLY;

/** What each function of ordinary.py is in words, and the policies under which it must not work. */
const THINGS: Readonly<Record<string, readonly [what: string, deniedUnder?: readonly Policy[]]>> = {
  scratch_file: ["write and read a file in `TMPDIR`"],
  scratch_folders: ["make, rename, list and remove folders there"],
  scratch_links: ["symbolic and hard links there"],
  temporary: ["`tempfile`: files and folders"],
  sqlite_file: ["SQLite, a file in `TMPDIR`, with a write-ahead log"],
  sqlite_memory: ["SQLite in memory"],
  key_value_file: ["`dbm.dumb`, what `shelve` may use (changes modes)", METADATA],
  zip_archive: ["`zipfile`: pack and unpack in `TMPDIR`"],
  tar_archive: ["`tarfile`: pack and unpack in `TMPDIR`"],
  tar_modes: ["`tarfile`: modes as they were packed (else they are lost without a word)", METADATA],
  gzip_file: ["`gzip`, a file in `TMPDIR`"],
  csv_file: ["`csv`, a file in `TMPDIR`"],
  json_and_pickle: ["`json` to a file in `TMPDIR`, `pickle`"],
  log_to_file: ["`logging` to a file in `TMPDIR`"],
  lock_file: ["lock a file in `TMPDIR`"],
  memory_map_file: ["`mmap` of a file in `TMPDIR`"],
  copy_contents: ["`shutil.copyfile` in `TMPDIR`"],
  copy_file: ["`shutil.copy` in `TMPDIR` (copies the mode too)", METADATA],
  copy_folder: ["`shutil.copytree` in `TMPDIR` (copies modes and times too)", METADATA],
  change_mode: ["`os.chmod` in `TMPDIR`", METADATA],
  change_times: ["`os.utime` in `TMPDIR`", METADATA],
  virtual_environment: ["make a virtual environment in `TMPDIR` (changes modes)", METADATA],
  bytecode_in_scratch: ["keep bytecode in `TMPDIR` (`sys.pycache_prefix`)", SCRIPT_ONLY],
  list_own_folder: ["list the script's own folder", SCRIPT_ONLY],
  import_beside: ["import a module that lies beside the script", SCRIPT_ONLY],
  read_own_source: ["read the script's own source (`inspect`)"],
  read_passwd: ["read `/etc/passwd`", STRICT],
  read_other_file: ["read another file of the user", STRICT],
  read_proc_self: ["read `/proc/self/status`", STRICT],
  write_devnull: ["write to `/dev/null`"],
  write_beside: ["write a file beside the script", READ_ONLY],
  write_home: ["write a file into the home folder", READ_ONLY],
  bytecode_beside: ["keep bytecode beside the script (`__pycache__`)", READ_ONLY],
  threads: ["`threading`, `ThreadPoolExecutor`"],
  event_loop: ["`asyncio`: loop, queue, `sleep`, `to_thread`"],
  event_loop_child: ["`asyncio`: run a program", STRICT],
  child_program: ["`subprocess.run` of a program", STRICT],
  child_python: ["`subprocess.run` of the same Python", STRICT],
  fork: ["`os.fork`", STRICT],
  multiprocessing_process: ["`multiprocessing.Process`, forked", STRICT],
  multiprocessing_spawn: ["`multiprocessing.Process`, spawned", STRICT],
  multiprocessing_pool: ["`multiprocessing.Pool` (semaphores in `/dev/shm`)", READ_ONLY],
  multiprocessing_queue: ["`multiprocessing.Queue` (semaphores in `/dev/shm`)", READ_ONLY],
  multiprocessing_memory: ["`multiprocessing.shared_memory` (files in `/dev/shm`)", READ_ONLY],
  memory_map: ["`mmap` without a file, shared and private", STRICT],
  signals: ["`os.kill` of itself, a handler"],
  alarm: ["`signal.setitimer`, a handler"],
  usage: ["`resource.getrusage`"],
  own_limits: ["`resource.setrlimit` of itself"],
  cpu_count: ["`os.cpu_count`, `sched_getaffinity`"],
  sleep: ["`time.sleep`"],
  pseudo_terminal: ["open a pseudo-terminal (`os.openpty`)", READ_ONLY],
  socket_pair: ["`socket.socketpair`"],
  polling: ["`select`, `epoll`, pipes"],
  tcp_connect: ["TCP connection to a host", OFFLINE],
  udp_exchange: ["UDP to a host, as DNS does", OFFLINE],
  tcp_listen: ["listen on a TCP port", OFFLINE],
  unix_listen: ["listen on a Unix socket in `TMPDIR`", STRICT],
  resolve_localhost: ["`getaddrinfo` of `localhost`", ["strict", "analysis"]],
  user_name: ["`getpass.getuser`, `pwd.getpwuid`", STRICT],
  platform_text: ["`platform.platform`"],
  time_zones: ["`datetime` with `zoneinfo`"],
  locales: ["`locale.setlocale`"],
  foreign_functions: ["`ctypes.CDLL(None)`"],
  find_library: ["`ctypes.util.find_library` (runs a program)", STRICT],
  regular_expressions: ["`re`"],
  tls_context: ["`ssl.create_default_context`"],
  hashes: ["`hashlib`"],
  randomness: ["`secrets`, `random`, `os.urandom`, `uuid4`"],
  numpy: ["NumPy: arithmetic, random numbers, files in `TMPDIR`"],
  pandas: ["pandas: CSV in `TMPDIR`, `groupby`, time zones"],
  pyarrow: ["PyArrow: Parquet in `TMPDIR`"],
  scikit_learn: ["scikit-learn: fit, with threads"],
  joblib_processes: ["joblib in processes (else it goes on in one, with a warning)", READ_ONLY],
  matplotlib: ["Matplotlib: a picture into `TMPDIR`"],
  requests: ["import requests"],
};
const PACKAGES = ["numpy", "pandas", "pyarrow", "scikit_learn", "joblib_processes", "matplotlib", "requests"];
/** What this machine may lack: without it the thing fails in the control run, and is left out, by name. */
const MAY_LACK = new Set(["time_zones", "multiprocessing_memory", "find_library", "resolve_localhost"]);

/** How a denial looks. A timeout, a wrong result and a crash are none. */
// EPERM ENOENT ENOMEM EACCES ENODEV EROFS ENOSYS and those of networks.
const DENIAL_ERRNOS = new Set([1, 2, 12, 13, 19, 30, 38, 97, 99, 101]);
// No name service, no such user, nothing beside the script.
const DENIAL_CLASSES = new Set(["gaierror", "KeyError", "ModuleNotFoundError"]);

const withPackages = await pythonWithPackages();
const NOBODY = 65_534;
const DOCUMENT = join(ROOT, "docs/security.md");
const MARKS = ["<!-- ordinary:begin -->\n", "<!-- ordinary:end -->"] as const;

type Outcome = {
  readonly name: string;
  readonly works: boolean;
  readonly error: { readonly class: string; readonly errno: number | null; readonly text: string } | null;
};
type Outcomes = Readonly<Record<string, Outcome>>;
type User = { readonly uid?: number; readonly python: string; readonly lacks: readonly string[] };

let home: Home;
let tcp: { readonly port: number; stop(): void };
let udp: { readonly port: number; close(): void };
let policies: Policy[];
beforeAll(async () => {
  home = new Home();
  chmodSync(home.dir, 0o755);
  for (const name of ["PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "MPLCONFIGDIR", "OMP_NUM_THREADS"])
    delete home.env[name];
  tcp = Bun.listen({
    hostname: "127.0.0.1",
    port: 0,
    socket: { open: (socket) => void socket.end("pong"), data: () => undefined },
  });
  udp = await Bun.udpSocket({
    hostname: "127.0.0.1",
    socket: { data: (socket, _, port, address) => void socket.send("pong", port, address) },
  });
  const list = JSON.parse((await home.cli("policy", "list", "--json")).stdout) as { name: Policy }[];
  policies = POLICIES.filter((policy) => list.some(({ name }) => name === policy));
  expect(list.map(({ name }) => name).toSorted()).toEqual(policies.toSorted()); // POLICIES and THINGS speak of all
});
afterAll(async () => {
  tcp.stop();
  udp.close();
  await home[Symbol.asyncDispose]();
});

/** Each thing's outcome under the policy. The program, its folder and its home are fresh and the user's own. */
async function run(policy: Policy, { uid, python, lacks }: User): Promise<Outcomes> {
  const folder = join(home.dir, `${policy}-${uid ?? "self"}`);
  const [app, other, dwelling] = [join(folder, "app"), join(folder, "other"), join(folder, "home")];
  for (const path of [folder, app, dwelling]) mkdirSync(path);
  for (const name of ["ordinary.py", "beside.py"]) copyFileSync(join(import.meta.dir, name), join(app, name));
  writeFileSync(other, "of the user");
  if (uid !== undefined) for (const path of [folder, app, other, dwelling]) chownSync(path, uid, uid);
  const names = Object.keys(THINGS).filter((name) => !lacks.includes(name));
  const outcomes: Outcome[] = [];
  // Each package by itself: together they want more memory than a strict policy gives.
  for (const some of [
    names.filter((name) => !PACKAGES.includes(name)),
    ...PACKAGES.filter((name) => names.includes(name)).map((name) => [name]),
  ]) {
    const { stdout, stderr, status } = await home.cli(
      ...[
        "run",
        "--policy",
        policy,
        "--cwd",
        app,
        "--interpreter",
        python,
        "-e",
        `HOME=${dwelling}`,
        "--timeout",
        "300s",
      ],
      ...(uid === undefined ? [] : ["--uid", `${uid}`, "--gid", `${uid}`]),
      ...[join(app, "ordinary.py"), "--", "--port", `${tcp.port}`, "--udp", `${udp.port}`, "--other", other, ...some],
    );
    const lines = stdout.trim().split("\n");
    outcomes.push(...lines.filter((line) => line !== "").map((line) => JSON.parse(line) as Outcome));
    const next = some.find((name) => !outcomes.some((one) => one.name === name));
    if (next !== undefined) throw new Error(`under ${policy} it ended (${status}) at ${next} or before: ${stderr}`);
  }
  expect(readdirSync(app).toSorted()).toEqual(["beside.py", "ordinary.py"]);
  if (READ_ONLY.includes(policy)) expect(readdirSync(dwelling)).toEqual([]);
  return Object.fromEntries(outcomes.map((one) => [one.name, one]));
}

function isDenial({ name, error }: Outcome): boolean {
  // Where hosts are granted, datagrams to others meet a refusal instead of a denial.
  if (name === "udp_exchange" && error?.class === "ConnectionRefusedError") return true;
  return error !== null && (DENIAL_ERRNOS.has(error.errno ?? 0) || DENIAL_CLASSES.has(error.class));
}

/** Runs all policies, two at a time, and holds them to THINGS. What this machine lacks is not among the outcomes. */
async function measure(user: User): Promise<Readonly<Record<Policy, Outcomes>>> {
  const control = await run("trusted", user);
  const failed = Object.values(control).filter(({ works }) => !works);
  expect(failed.filter(({ name }) => !MAY_LACK.has(name))).toEqual([]);
  const lacks = [...user.lacks, ...failed.map(({ name }) => name)];
  if (failed.length > 0)
    console.log(`left out, fails without confinement too: ${failed.map(({ name }) => name).join(", ")}`);
  const found: Partial<Record<Policy, Outcomes>> = { trusted: control };
  const waiting = policies.filter((policy) => policy !== "trusted");
  const work = async (): Promise<void> => {
    for (let policy = waiting.shift(); policy !== undefined; policy = waiting.shift())
      found[policy] = await run(policy, { ...user, lacks });
  };
  await Promise.all([work(), work()]);
  const all = found as Record<Policy, Outcomes>;
  const wrong = policies.flatMap((policy) =>
    Object.values(all[policy])
      .filter((one) => !lacks.includes(one.name))
      // /etc/nsswitch.conf may name who knows it.
      .filter((one) => !(one.name === "user_name" && policy === "net-allowlist"))
      .filter((one) => one.works === (THINGS[one.name]![1] ?? []).includes(policy) || !(one.works || isDenial(one)))
      .map((one) => ({ policy, ...one })),
  );
  expect(wrong).toEqual([]);
  return all;
}

/** Of what could not be measured here the table says what is expected. */
function table(found: Readonly<Record<Policy, Outcomes>>): string {
  const cell = (name: string, policy: Policy): string => {
    const outcome = found.trusted[name]?.works === true ? found[policy][name] : undefined;
    return (outcome?.works ?? !(THINGS[name]![1] ?? []).includes(policy)) ? "yes" : "**no**";
  };
  const rows = Object.entries(THINGS).map(
    ([name, [what]]) => `| ${what} | ${policies.map((policy) => cell(name, policy)).join(" | ")} |`,
  );
  return `| | ${policies.map((policy) => `\`${policy}\``).join(" | ")} |\n|---|${"---|".repeat(policies.length)}\n${rows.join("\n")}\n`;
}

test("ordinary things work or are denied as the table says, and so do the documents", async () => {
  const found = await measure({ python: withPackages ?? "python3", lacks: withPackages === undefined ? PACKAGES : [] });
  const text = readFileSync(DOCUMENT, "utf8");
  const [from, to] = [text.indexOf(MARKS[0]) + MARKS[0].length, text.indexOf(MARKS[1])];
  expect(to).toBeGreaterThanOrEqual(from);
  if (skipUnless(hasNamespaces, "namespaces", "the table in the documents")) return;
  if (process.env.IPCCTL_TEST_WRITE === "1")
    writeFileSync(DOCUMENT, text.slice(0, from) + table(found) + text.slice(to));
  else expect(text.slice(from, to)).toBe(table(found));
}, 300_000);

test.if(await canBeAnother("ordinary things as another user"))(
  "for a user without privileges it is the same",
  () => measure({ uid: NOBODY, python: SYSTEM_PYTHON, lacks: PACKAGES }).then(() => undefined),
  300_000,
);

test("the table speaks of all that ordinary.py does", () => {
  const source = readFileSync(join(import.meta.dir, "ordinary.py"), "utf8");
  const names = [...source.matchAll(/^def (\w+)\(\) -> None:$/gm)].map(([, name]) => name!);
  expect(names.filter((name) => name !== "main")).toEqual(Object.keys(THINGS));
});
