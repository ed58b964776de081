/** Policies, and what they become: for every policy the compiled program is run, in an interpreter of its steps. */
import { expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { IpcError } from "../../src/base/errors.ts";
import type { Machine } from "../../src/sandbox/kernel.ts";
import { compilePlan, type Plan } from "../../src/sandbox/plan.ts";
import { loadPolicy, parsePolicy, policyJsonSchema, shippedPolicies } from "../../src/sandbox/policy.ts";
import { describeProgram } from "../../src/launch/readable.ts";
import { findGuarded } from "../../src/sandbox/guarded.ts";
import { splitHost } from "../../src/sandbox/hosts.ts";
import { SYSTEM_CALLS, type Call } from "../../src/sandbox/system-calls.ts";

const ABLE: Machine = {
  ...{ landlockAbi: 7, hasSeccomp: true, arch: "x64", namespacesLack: "", isRoot: false, knowsOthers: true, yama: 0 },
};
const CONTEXT = { scratch: "/scratch", program: ["/usr/lib"], cwd: "/srv" };
const plan = (name: string, machine: Partial<Machine> = {}): Plan =>
  compilePlan(loadPolicy(name, { project: "/srv", home: "/home/me" }), { ...ABLE, ...machine }, CONTEXT);
const inline = (policy: object): string => JSON.stringify({ version: 1, ...policy });

const TOKEN = [11, 22, 33, 44];
const SELF = 1234;

/** What the program says to a call: "allow", "notify", "kill" or an errno. */
function judge(
  program: Uint8Array,
  patches: readonly { step: number; what: number }[],
  number: number,
  args: readonly bigint[] = [],
  audit = 0xc000_003e,
): string | number {
  const steps = Buffer.from(program);
  for (const { step, what } of patches) steps.writeUInt32LE(what === 4 ? SELF : TOKEN[what]!, step * 8 + 4);
  const data = Buffer.alloc(64);
  data.writeUInt32LE(number, 0);
  data.writeUInt32LE(audit, 4);
  for (const [index, value] of args.entries()) data.writeBigUInt64LE(BigInt.asUintN(64, value), 16 + 8 * index);
  let accumulator = 0;
  for (let at = 0; ; at++) {
    const [code, yes, no, value] = [
      steps.readUInt16LE(at * 8),
      steps.readUInt8(at * 8 + 2),
      steps.readUInt8(at * 8 + 3),
      steps.readUInt32LE(at * 8 + 4),
    ];
    if (code === 0x20) accumulator = data.readUInt32LE(value);
    else if (code === 0x15) at += accumulator === value ? yes : no;
    else if (code === 0x35) at += accumulator >= value ? yes : no;
    else if (code === 0x45) at += (accumulator & value) !== 0 ? yes : no;
    else if (code === 0x05) at += value;
    else if (code === 0x06) {
      if (value === 0x7fff_0000) return "allow";
      if (value === 0x7fc0_0000) return "notify";
      return value === 0x8000_0000 ? "kill" : value & 0xffff;
    } else throw new Error(`step ${at}: code ${code}`);
  }
}

function verdict({ confinement }: Plan, call: Call, ...args: (number | bigint)[]): string | number {
  if (!confinement) return "allow";
  const { steps, patches } = confinement.filters[0]!;
  return judge(steps, patches, SYSTEM_CALLS[call][0], args.map(BigInt));
}

test("what tools run is found before other files, and where not all is looked through that is told", () => {
  const folder = realpathSync(mkdtempSync(join(tmpdir(), "ipcctl-guarded-")));
  const granted = inline({ extends: "strict", files: { write: [folder] } });
  try {
    mkdirSync(join(folder, "one/.git"), { recursive: true });
    symlinkSync("one", join(folder, ".vscode"));
    symlinkSync(".", join(folder, ".vim")); // not the whole of it
    const { guarded, degraded } = plan(granted);
    expect({ guarded: guarded.toSorted(), degraded }).toEqual({
      guarded: [join(folder, "one"), join(folder, "one/.git")],
      degraded: [],
    });
    const large = findGuarded(folder, 0); // only names are looked for, and in no folder of it
    expect([[...large.found.keys()], large.isWhole]).toEqual([
      [".vscode", "one", ".vim"].map((name) => join(folder, name)),
      false,
    ]);
    for (let at = 0; at < 70; at++) mkdirSync(join(folder, `${at}/.git`), { recursive: true });
    expect(plan(granted).guarded).toContain(join(folder, "one"));
    expect(plan(granted).degraded).toEqual([expect.stringContaining(`${folder}: not all of it can be looked`)]);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("a policy that is not there is refused, never ignored", () => {
  expect(() => loadPolicy("nobody-knows")).toThrow("no policy");
});

test.each([
  ["no-network", { hasSeccomp: false }, "no seccomp"],
  ["no-network", { landlockAbi: 0 }, "no Landlock"],
  ["no-network", { arch: "ppc64" }, "ppc64"],
  [inline({ extends: "strict", isolation: { require: ["namespaces"] } }), { namespacesLack: "EPERM" }, "namespaces"],
  [inline({ extends: "no-network", network: { listen: [80] } }), { landlockAbi: 3 }, "ports"],
  ["net-allowlist", { yama: 2, namespacesLack: "EPERM" }, "ptrace_scope"],
  ["net-allowlist", { yama: 3 }, "ptrace_scope"],
  [inline({ extends: "no-network", files: { deny: ["/etc"] } }), {}, "take out of a grant"],
])("%s is refused where the kernel cannot enforce it: %p", (name, machine, reason) => {
  expect(() => plan(name, machine)).toThrow(reason);
});

test("who sees no /proc has processes of its own, or is told what it can do to others", () => {
  const forking = inline({ extends: "strict", process: { fork: true } });
  const processes = 0x2000_0000;
  const bits = ({ confinement }: Plan): number => confinement!.namespaces & processes;
  const signals = ({ items }: Plan): string | undefined =>
    items.find(({ item }) => item === "signals to others")?.verdict;
  for (const landlockAbi of [5, 6])
    for (const policy of [forking, "strict"])
      expect([bits(plan(policy, { landlockAbi })), signals(plan(policy, { landlockAbi }))]).toEqual([
        processes,
        "denied",
      ]);
  expect(signals(plan(forking, { landlockAbi: 5, namespacesLack: "EPERM" }))).toBe("granted");
  // By the numbers of those around.
  const seeing = inline({ extends: "strict", process: { fork: true, procfs: "all" } });
  expect([bits(plan(seeing)), signals(plan(seeing, { landlockAbi: 5 }))]).toEqual([0, "granted"]);
  const isTold = ({ degraded }: Plan): boolean => degraded.some((text) => text.startsWith("signals to others: "));
  for (const policy of [seeing, "read-only"])
    expect([5, 6].map((landlockAbi) => isTold(plan(policy, { landlockAbi })))).toEqual([true, false]);
  const forked = compilePlan(loadPolicy(forking), ABLE, { ...CONTEXT, isForked: true });
  expect(bits(forked)).toBe(0);
});

test("where others have numbers, strict asks of itself alone", () => {
  const bare = plan("strict", { namespacesLack: "EPERM" });
  const forked = compilePlan(loadPolicy("strict"), ABLE, { ...CONTEXT, isForked: true });
  const other = SELF + 1;
  /** As the clock of a process's time has it. */
  const clock = (pid: number): number => (~pid << 3) | 2;
  for (const one of [bare, forked]) {
    for (const [call, errno] of [
      ...(["getsid", "getpgid", "sched_getscheduler", "sched_getparam", "sched_rr_get_interval"] as const),
      ...(["get_robust_list", "prlimit64", "sched_setaffinity"] as const),
    ]
      .map((call): [Call, number] => [call, 1])
      .concat([["sched_getaffinity", 38]]))
      expect([call, verdict(one, call, 0), verdict(one, call, SELF), verdict(one, call, other)]).toEqual([
        ...[call, "allow", "allow", errno],
      ]);
    for (const [which, who] of [
      [0, other],
      [1, 0],
      [2, 0],
    ] as const)
      expect(verdict(one, "getpriority", which, who)).toBe(1);
    for (const who of [0, SELF]) expect(verdict(one, "getpriority", 0, who)).toBe("allow");
    for (const call of ["clock_gettime", "clock_getres", "clock_nanosleep", "timer_create"] as const) {
      for (const own of [0, 1, 3, 11, clock(0), clock(0) | 4]) expect(verdict(one, call, own)).toBe("allow");
      for (const foreign of [clock(other), clock(1) | 4, 16]) expect(verdict(one, call, foreign)).toBe(22);
    }
    for (const call of ["kcmp", "pidfd_open", "process_vm_readv", "move_pages", "perf_event_open"] as const)
      expect(verdict(one, call, other)).toBe(1);
  }
  expect(verdict(plan("strict"), "sched_getaffinity", other)).toBe("allow"); // in a namespace of its own it is a thread
});

test("who listens on some ports is made to, and who has no network makes none of a device", () => {
  const listening = inline({ extends: "no-network", network: { listen: [8080] }, audit: { denied: false } });
  expect([verdict(plan(listening), "bind"), verdict(plan(listening), "listen")]).toEqual(["notify", "notify"]);
  expect(verdict(plan(inline({ extends: "no-network", network: { listen: "any" } })), "listen")).toBe("allow");
  expect(() => plan(listening, { yama: 2 })).toThrow("network.listen");
  for (const policy of ["no-network", "net-allowlist", "strict", "read-only"])
    for (const request of [0x4004_54ca, 0x4004_54d9, 0x4020_af01, 0xaf01, 0xc018_1b01, 0x3b64])
      expect([policy, verdict(plan(policy), "ioctl", 3, request)]).toEqual([policy, 1]);
  for (const request of [0x5401, 0x8004_5430, 0x5441, 0x8912, 0x4601, 0xc020_660b])
    expect(verdict(plan("no-network"), "ioctl", 3, request)).toBe("allow");
});

test("who may fork has memory with names of its own, unless the policy shows the machine's", () => {
  const shm = (more: object, machine: Partial<Machine> = {}): unknown => {
    const { confinement } = plan(inline({ extends: "strict", process: { fork: true }, ...more }), machine);
    return confinement!.mounts.find(({ path }) => path === "/dev/shm");
  };
  expect(shm({})).toMatchObject({ kind: "scratch", bytes: 67_108_864, mayExec: false });
  expect(shm({ process: {} })).toBeUndefined();
  expect(shm({}, { namespacesLack: "EPERM" })).toBeUndefined();
  expect(shm({ files: { write: ["/dev/shm"] } })).toMatchObject({ kind: "bind" });
});

test("what leads to a script in the scratch folder's place is covered, not the scratch folder", () => {
  const context = { ...CONTEXT, program: ["/etc/passwd"], cwd: "/tmp/agent/work" };
  const covers = (policy: string): string[] =>
    compilePlan(loadPolicy(policy), ABLE, context)
      .confinement!.mounts.filter(({ kind }) => kind === "cover")
      .map(({ path }) => path);
  expect(covers("strict")).toEqual(["/tmp/agent"]);
  const order = compilePlan(loadPolicy("strict"), ABLE, context).confinement!.mounts.map(({ kind }) => kind);
  expect(order.indexOf("cover")).toBeGreaterThan(order.indexOf("scratch"));
  expect(order.indexOf("cover")).toBeLessThan(order.indexOf("bind"));
  expect(
    compilePlan(loadPolicy("strict"), ABLE, CONTEXT).confinement!.mounts.filter(({ kind }) => kind === "cover"),
  ).toEqual([]);
});

test("who owns the user namespace needs no leave to read what is in it", () => {
  expect(plan("net-allowlist", { yama: 2 }).confinement!.namespaces).not.toBe(0);
  const forking = inline({ extends: "net-allowlist", process: { fork: true } });
  const denied = (machine: Partial<Machine>): boolean =>
    plan(forking, machine).items.some(({ item }) => item === "network of its child processes");
  expect([
    denied({ yama: 1 }),
    denied({ yama: 1, namespacesLack: "EPERM" }),
    denied({ yama: 1, isRoot: true }),
  ]).toEqual([...[false, true, false]]);
});

test("a root who knows no other users runs its workers as itself", () => {
  const users = (knowsOthers: boolean): boolean => plan("strict", { isRoot: true, knowsOthers }).hasOwnUser;
  expect([users(true), users(false)]).toEqual([true, false]);
});

test("degrade goes on without, and says so", () => {
  const policy = inline({ extends: "no-network", network: { listen: [80] }, isolation: { onMissing: "degrade" } });
  const { degraded, confinement } = plan(policy, { landlockAbi: 3 });
  expect(degraded.join()).toContain("network.listen: Landlock 3");
  expect(confinement).toBeDefined();
  expect(() => plan(policy, { landlockAbi: 0 })).toThrow("no Landlock"); // never without all of it
});

test.each([1, 2, 3, 4, 5, 6, 7])("Landlock %d is asked for nothing that it does not know", (landlockAbi) => {
  for (const arch of ["x64", "arm64"])
    for (const namespacesLack of ["", "EPERM"])
      for (const name of shippedPolicies().filter((one) => one !== "trusted")) {
        const { confinement } = plan(name, { landlockAbi, arch, namespacesLack });
        const { fs, net, scoped } = confinement!.landlock;
        expect(fs >> BigInt([0, 13, 14, 15, 15, 16, 16, 16][landlockAbi]!)).toBe(0n);
        if (landlockAbi < 4) expect(net).toBe(0n);
        if (landlockAbi < 6) expect(scoped).toBe(0n);
        expect(fs | net | scoped).not.toBe(0n); // there is a domain: tracing stays inside
        for (const { access } of confinement!.paths) expect(access & ~fs).toBe(0n);
        if (fs !== 8192n) for (const { path } of confinement!.paths) expect(path.startsWith("/")).toBe(true);
      }
});

test("where Landlock does not guard truncation, seccomp does", () => {
  const reader = plan("read-only", { landlockAbi: 2 });
  // 3 is neither read nor written.
  for (const flags of [0o1000, 0o1003]) expect(verdict(reader, "openat", 3, 4, flags)).toBe(1);
  // Landlock's matter.
  for (const flags of [0, 3, 0o1001, 0o1002, 0o101]) expect(verdict(reader, "openat", 3, 4, flags)).toBe("allow");
  expect(verdict(reader, "truncate")).toBe(1);
  expect(verdict(reader, "openat2")).toBe(38);
});

test("exec needs the token that only the shim knows, and nothing else will do", () => {
  const strict = plan("strict");
  const token = [BigInt(TOKEN[0]!) | (BigInt(TOKEN[1]!) << 32n), BigInt(TOKEN[2]!) | (BigInt(TOKEN[3]!) << 32n)];
  expect(verdict(strict, "execve", 1, 2, 3, ...token)).toBe("allow");
  for (const wrong of [
    [0n, 0n],
    [token[0]!, token[1]! ^ 1n],
    [token[0]! ^ (1n << 63n), token[1]!],
    [token[1]!, token[0]!],
  ])
    expect(verdict(strict, "execve", 1, 2, 3, ...wrong)).toBe("notify"); // which is denied, and recorded
  expect(verdict(strict, "execveat", 1, 2, 3, ...token)).toBe("notify");
});

test("strict: threads and no processes, itself and nobody else, pairs and no sockets", () => {
  const strict = plan("strict");
  const THREAD = 0x3d0f00;
  expect(verdict(strict, "clone", THREAD)).toBe("allow");
  for (const flags of [17, 0x4111, THREAD | 0x1000_0000, THREAD | 0x2_0000, THREAD & ~0x1_0000, THREAD & ~0x100])
    expect(verdict(strict, "clone", flags)).toBe("notify");
  expect(verdict(strict, "clone3")).toBe(38);
  for (const call of ["fork", "vfork"] as const) expect(verdict(strict, call)).toBe("notify");
  for (const call of ["ptrace", "unshare", "bpf", "keyctl", "mount"] as const) expect(verdict(strict, call)).toBe(1);
  for (const call of ["kill", "tgkill", "rt_sigqueueinfo"] as const) {
    expect(verdict(strict, call, SELF)).toBe("allow");
    for (const other of [0, 1, -1, -SELF]) expect(verdict(strict, call, other)).toBe(1);
  }
  expect(verdict(strict, "socketpair", 1, 0x8_0001)).toBe("allow");
  expect(verdict(strict, "socketpair", 1, 0x8_0002)).toBe(1);
  // What the C library asks whenever it looks up a name: a cache without waiting, and the kernel.
  expect(verdict(strict, "socket", 1, 0x8_0801, 0)).toBe(1);
  expect(verdict(strict, "socket", 16, 3, 0)).toBe(1);
  for (const family of [1, 2, 10, 17, 40]) expect(verdict(strict, "socket", family, 1, 0)).toBe("notify");
  expect(verdict(strict, "mmap", 0, 4096, 3, 0x22)).toBe("allow");
  expect(verdict(strict, "mmap", 0, 4096, 3, 0x21)).toBe(12);
  expect(verdict(strict, "ioctl", 1, 0x5413)).toBe("allow");
  expect(verdict(strict, "ioctl", 1, 0x5412)).toBe(1);
  expect(judge(strict.confinement!.filters[0]!.steps, [], 9999)).toBe(38); // newer than we: as on an older kernel
  expect(judge(strict.confinement!.filters[0]!.steps, [], 41 + 0x4000_0000)).toBe("kill");
  expect(judge(strict.confinement!.filters[0]!.steps, [], 41, [], 0x4000_0003)).toBe("kill");
});

test("net-allowlist: TCP only, and only as another process connects it", () => {
  const net = plan("net-allowlist");
  expect(verdict(net, "socket", 2, 0x8_0801, 6)).toBe("allow");
  for (const [family, type, protocol] of [
    [2, 2, 0],
    [2, 3, 1],
    [10, 1, 262],
    [40, 1, 0],
  ] as const)
    expect(verdict(net, "socket", family, type, protocol)).toBe("notify");
  for (const call of ["connect", "bind", "listen", "accept4"] as const) expect(verdict(net, call)).toBe("notify");
  for (const [level, name] of [
    [0, 4],
    [41, 57],
  ] as const)
    expect(verdict(net, "setsockopt", 3, level, name)).toBe(1);
  expect(verdict(net, "setsockopt", 3, 6, 1)).toBe("allow");
  expect(verdict(net, "sendto", 3, 4, 5, 0, 0, 0)).toBe("allow");
  expect(verdict(net, "sendto", 3, 4, 5, 0, 8, 16)).toBe("allow"); // what is no TCP is of a network with nobody in it
  for (const address of [0, 8, 1n << 40n]) expect(verdict(net, "sendto", 3, 4, 5, 0x2000_0000, address, 16)).toBe(1);
  const listens = plan(inline({ extends: "strict", network: { listen: [8080] } }));
  expect(verdict(listens, "sendto", 3, 4, 5, 0, 1n << 40n, 16)).toBe(1);
  for (const call of ["sendmsg", "sendmmsg"] as const)
    expect(verdict(net, call, 3, 4, 0x2000_0000, 0x2000_0000)).toBe(1);
});

test("what is denied is denied by io_uring as well, whatever network there is", () => {
  for (const policy of ["no-network", "read-only", "strict"])
    for (const network of [{}, { mode: "any" }, { mode: "any", unix: "none" }, { listen: [8080] }])
      for (const call of ["io_uring_setup", "io_uring_enter", "io_uring_register"] as const)
        expect(verdict(plan(inline({ extends: policy, network })), call)).toBe(38);
});

test("a socket that may listen stays one of TCP, which Landlock knows", () => {
  for (const listen of [[8080], "any"])
    for (const policy of ["no-network", "strict"])
      expect(verdict(plan(inline({ extends: policy, network: { listen } })), "setsockopt", 3, 6, 31)).toBe(1);
});

test("who may write and not change modes makes no file that runs as its owner", () => {
  const writer = (machine: Partial<Machine>): Plan =>
    plan(inline({ extends: "read-only", files: { write: ["/srv"] } }), machine);
  for (const made of [writer({}), writer({ landlockAbi: 2 })]) {
    for (const flags of [0o101, 0o102, 0o20_200_002]) {
      expect(verdict(made, "openat", 3, 4, flags, 0o777)).toBe("allow");
      for (const mode of [0o4755, 0o2755]) {
        expect(verdict(made, "openat", 3, 4, flags, mode)).toBe(1);
        expect(verdict(made, "open", 4, flags, mode)).toBe(1);
      }
    }
    expect(verdict(made, "openat", 3, 4, 0, -1)).toBe("allow"); // nobody looks at it
    expect(verdict(made, "creat", 4, 0o4755)).toBe(1);
    expect(verdict(made, "mknod", 4, 0o104755)).toBe(1);
    expect(verdict(made, "mknodat", 3, 4, 0o102755)).toBe(1);
    expect(verdict(made, "mknodat", 3, 4, 0o100755)).toBe("allow");
    expect(verdict(made, "openat2")).toBe(38);
  }
});

test("hosts are names, addresses and networks with a port", () => {
  expect(splitHost("api.Example.com:443")).toEqual({ host: "api.example.com", port: 443 });
  expect(splitHost("*.pypi.org:*")).toEqual({ host: "*.pypi.org", port: 0 });
  expect(splitHost("10.0.0.0/8:5432")).toEqual({ host: "10.0.0.0/8", port: 5432 });
  expect(splitHost("[2001:db8::1]:443")).toEqual({ host: "2001:db8::1", port: 443 });
  for (const bad of [
    "example.com",
    "example.com:0",
    "example.com:65536",
    "*:443",
    "a..b:1",
    "300.1.1.1:80",
    "10.0.0.0/33:1",
    "http://x:80",
    "a b:1",
    "",
  ])
    expect(splitHost(bad)).toBeUndefined();
});

test.each([
  [{ extends: "strict", env: { allow: ["LD_PRELOAD"] } }, "LD_PRELOAD"],
  [{ extends: "strict", env: { set: { PYTHONSTARTUP: "/x" } } }, "PYTHONSTARTUP"],
  [{ files: { read: ["${other}/x"] } }, "$.files.read.0"],
  [{ files: { read: ["/a/../b"] } }, "$.files.read.0"],
  [{ limits: { memory: "much" } }, "$.limits.memory"],
  [{ limits: { memory: "1023K" } }, "memory: 1047552 bytes are too few for any program, at least 1M is needed"],
  [{ network: { allow: ["example.com"] } }, "$.network.allow.0"],
  [{ process: { exce: true } }, "$.process"],
])("%j is refused by its place", (policy, place) => {
  expect(() => loadPolicy(inline(policy))).toThrow(place);
});

test("a file's size is bounded by its limit, also where anything may be written, and there by no scratch folder", () => {
  const most = (extended: string, scratch: object | null, fileSize?: string): number | undefined =>
    plan(inline({ extends: extended, files: { scratch }, limits: { fileSize } })).rlimits.find(
      ({ resource }) => resource === 1, // RLIMIT_FSIZE
    )?.hard;
  expect(most("no-network", null, "1M")).toBe(1024 ** 2);
  expect(most("trusted", { size: "4K" }, "1M")).toBe(1024 ** 2);
  expect(most("trusted", { size: "4K" })).toBeUndefined();
  expect(most("strict", { size: "4K" }, "1M")).toBe(4096);
});

test("variables begin a path, and lists of a section replace those of what is extended", () => {
  const policy = loadPolicy(inline({ extends: "analysis", files: { read: ["${project}/data", "${home}"] } }), {
    project: "/srv/app/",
    home: "/home/me",
  });
  expect(policy.files.read.map(({ path }) => path)).toEqual(["/srv/app/data", "/home/me"]);
  expect(policy.files.scratch).toEqual({ size: 1024 ** 3, files: 65_536, mayExec: false }); // and other keys stay
  expect(policyJsonSchema()).toHaveProperty("properties.network");
  expect(parsePolicy('{"version":1}', "x")).toEqual({ version: 1 });
});

test("the policy that the documents show is one", () => {
  const text = readFileSync(join(import.meta.dir, "../../docs/security.md"), "utf8");
  const [, shown = ""] = /```json\n([^`]+)```/.exec(text) ?? [];
  const policy = loadPolicy(shown.trim());
  expect(policy.network.allow).toHaveLength(3);
  expect(policy.limits.wallMs).toBe(900_000);
});

test("random policies never become a plan that grants what they deny", () => {
  const kinds = fc.record({
    mode: fc.constantFrom("any", "none", "allow"),
    unix: fc.constantFrom("any", "none"),
    listen: fc.constantFrom("any", [], [8080]),
    read: fc.subarray(["/", "/etc", "/usr/share"]),
    write: fc.subarray(["/", "/var", "/dev/shm"]),
    metadata: fc.constantFrom("allow", "deny"),
    exec: fc.boolean(),
    fork: fc.boolean(),
    memory: fc.constantFrom("64M", null),
    scratch: fc.constantFrom(null, {}, { size: "1M" }),
    want: fc.subarray(["namespaces"]),
    landlockAbi: fc.integer({ min: 0, max: 9 }),
    namespacesLack: fc.constantFrom("", "EPERM"),
    arch: fc.constantFrom("x64", "arm64"),
    isRoot: fc.boolean(),
  });
  fc.assert(
    fc.property(kinds, (one) => {
      const text = inline({
        isolation: { want: one.want },
        network: { mode: one.mode, unix: one.unix, listen: one.listen },
        files: { read: one.read, write: one.write, exec: ["/"], scratch: one.scratch, metadata: one.metadata },
        process: { exec: one.exec, fork: one.fork, procfs: "all" },
        limits: { memory: one.memory },
      });
      let made: Plan;
      try {
        made = plan(text, { landlockAbi: one.landlockAbi, namespacesLack: one.namespacesLack, isRoot: one.isRoot });
      } catch (error) {
        expect((error as IpcError).code).toBe("POLICY_REFUSED");
        return;
      }
      if (!made.confinement) {
        // Only where there is nothing to deny.
        expect([one.mode, one.unix, one.listen, one.metadata, one.exec, one.fork]).toEqual([
          "any",
          "any",
          "any",
          "allow",
          true,
          true,
        ]);
        return;
      }
      const denied = (call: Call, ...args: number[]): void =>
        expect([call, verdict(made, call, ...args)]).not.toEqual([call, "allow"]);
      if (one.mode !== "any") {
        for (const [family, type] of [
          [2, 2],
          [10, 3],
          [16, 3],
          [17, 3],
          [40, 1],
        ] as const)
          denied("socket", family, type, 0);
        if (one.mode === "none" && one.listen.length === 0) denied("socket", 2, 1, 0);
        if (one.mode === "allow") denied("connect");
        if ((made.confinement.landlock.net & 2n) === 0n && verdict(made, "socket", 2, 1, 0) === "allow")
          denied("connect");
        if (one.unix === "none") denied("socket", 1, 1, 0);
      }
      if (!one.exec) denied("execve", 1, 2, 3, 4, 5);
      if (!one.exec) denied("execveat");
      if (!one.fork) for (const flags of [17, 0x4111]) denied("clone", flags);
      if (!one.fork) denied("fork");
      if (one.metadata === "deny") for (const call of ["fchmod", "fchown", "fsetxattr"] as const) denied(call);
      denied("ioctl", 0, 0x5412);
      denied("io_uring_setup");
      const { landlock, paths, mounts } = made.confinement;
      const readsAll = one.read.includes("/") || one.write.includes("/");
      if (!one.write.includes("/")) {
        expect(landlock.fs & 2n).toBe(2n);
        const shm = one.fork ? ["/dev/shm"] : [];
        const writable = new Set([
          ...one.write,
          ...shm,
          made.scratch,
          "/dev/null",
          "/dev/zero",
          "/dev/full",
          "/dev/tty",
        ]);
        for (const { path, access } of paths) if ((access & 2n) !== 0n) expect(writable).toContain(path);
        for (const step of mounts)
          if (step.kind === "bind" && step.isWritable) expect([...writable].includes(step.path)).toBe(true);
      }
      if (!readsAll) {
        expect(landlock.fs & 4n).toBe(4n);
        const readable = new Set([...one.read, ...one.write, ...CONTEXT.program, made.scratch]);
        for (const { path, access } of paths)
          if ((access & 4n) !== 0n && !path.startsWith("/dev/") && path !== "/proc" && !path.startsWith("/etc/"))
            expect(readable).toContain(path);
      }
    }),
    { numRuns: 500 },
  );
});

test("a program in JavaScript that starts no other is not shown what Python reads, and certificates only for a network", () => {
  const shown = (isPython: boolean, hasNetwork: boolean): string[] =>
    describeProgram(...([process.execPath, [], "/", {}, true, { cwd: "/", env: {} }] as const), {
      isPython,
      hasNetwork,
    }).readable.filter((path) => /python|mime|locale$|certs|certificates/.test(path));
  expect(shown(false, false)).toEqual([]);
  expect(shown(false, true).every((path) => /cert/.test(path))).toBe(true);
  expect(shown(true, false)).toContain("/usr/share/python-wheels");
});
