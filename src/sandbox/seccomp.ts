/** Programs of seccomp: steps of classic BPF over a system call's number and arguments (seccomp(2)). */
import { IpcError } from "../base/errors.ts";

const LOAD = 0x20;
const IF_EQUAL = 0x15;
const IF_AT_LEAST = 0x35;
const RETURN = 0x06;
const ALLOW = 0x7fff_0000;
const KILL = 0x8000_0000;
const ERRNO = 0x0005_0000;
export const EPERM = 1;
export const ENOSYS = 38;

/** Offsets in `struct seccomp_data`; of an argument the low half, all that its callee takes of an int. */
const AT_NUMBER = 0;
const AT_ARCH = 4;
const atArgument = (index: number): number => 16 + 8 * index;

type Machine = { readonly audit: number; readonly column: 0 | 1 };
const MACHINES: Readonly<Record<string, Machine>> = {
  x64: { audit: 0xc000_003e, column: 0 },
  arm64: { audit: 0xc000_00b7, column: 1 },
};

/** Numbers on x86-64 and on arm64; -1 where it is not there. */
const CALLS = {
  socket: [41, 198],
  socketpair: [53, 199],
  ioctl: [16, 29],
  prlimit64: [302, 261],
  io_uring_setup: [425, 425],
  io_uring_enter: [426, 426],
  io_uring_register: [427, 427],
  chmod: [90, -1],
  fchmod: [91, 52],
  fchmodat: [268, 53],
  fchmodat2: [452, 452],
  chown: [92, -1],
  fchown: [93, 55],
  lchown: [94, -1],
  fchownat: [260, 54],
  utime: [132, -1],
  utimes: [235, -1],
  futimesat: [261, -1],
  utimensat: [280, 88],
  setxattr: [188, 5],
  lsetxattr: [189, 6],
  fsetxattr: [190, 7],
  removexattr: [197, 14],
  lremovexattr: [198, 15],
  fremovexattr: [199, 16],
  setxattrat: [463, 463],
  removexattrat: [466, 466],
  file_setattr: [469, 469],
} as const;

export type Call = keyof typeof CALLS;

/** What happens to a call; the last that is not listed is allowed. */
export type Rule = {
  readonly call: Call;
  readonly errno: number;
  /** Not denied where this argument (its low 32 bits) is one of these. */
  readonly unless?: { readonly argument: number; readonly is: readonly number[] };
  /** Denied only there. */
  readonly when?: { readonly argument: number; readonly is: readonly number[] };
};

/** The program that denies what the rules say and allows the rest. Foreign calling conventions of the same kernel end the process. */
export function denyProgram(rules: readonly Rule[], arch: string = process.arch): Uint8Array {
  const machine = MACHINES[arch];
  if (!machine) throw new IpcError("POLICY_REFUSED", `no filters of system calls are known for ${arch}`);
  const steps: [code: number, yes: number, no: number, value: number][] = [
    [LOAD, 0, 0, AT_ARCH],
    [IF_EQUAL, 1, 0, machine.audit],
    [RETURN, 0, 0, KILL],
    [LOAD, 0, 0, AT_NUMBER],
  ];
  if (arch === "x64") steps.push([IF_AT_LEAST, 0, 1, 0x4000_0000], [RETURN, 0, 0, KILL]); // the x32 convention
  for (const { call, errno, unless, when } of rules) {
    const number = CALLS[call][machine.column];
    if (number < 0) continue;
    const deny: (typeof steps)[number] = [RETURN, 0, 0, ERRNO | errno];
    const allow: (typeof steps)[number] = [RETURN, 0, 0, ALLOW];
    const test = unless ?? when;
    const body: typeof steps = test
      ? [
          [LOAD, 0, 0, atArgument(test.argument)],
          ...test.is.map((value, index): (typeof steps)[number] => [IF_EQUAL, test.is.length - index, 0, value]),
          ...(unless ? [deny, allow] : [allow, deny]),
        ]
      : [deny];
    steps.push([IF_EQUAL, 0, body.length, number], ...body);
  }
  steps.push([RETURN, 0, 0, ALLOW]);
  const program = Buffer.alloc(steps.length * 8);
  for (const [index, [code, yes, no, value]] of steps.entries()) {
    program.writeUInt16LE(code, index * 8);
    program.writeUInt8(yes, index * 8 + 2);
    program.writeUInt8(no, index * 8 + 3);
    program.writeUInt32LE(value >>> 0, index * 8 + 4);
  }
  return program;
}

const AF_UNIX = 1;

/** No sockets but Unix ones, and no second way to make them. */
export const NO_NETWORK: readonly Rule[] = [
  { call: "socket", errno: EPERM, unless: { argument: 0, is: [AF_UNIX] } },
  { call: "socketpair", errno: EPERM, unless: { argument: 0, is: [AF_UNIX] } },
  { call: "io_uring_setup", errno: ENOSYS },
  { call: "io_uring_enter", errno: ENOSYS },
  { call: "io_uring_register", errno: ENOSYS },
];

const TIOCSTI = 0x5412;
const TIOCLINUX = 0x541c;

/** What is typed into the user's terminal runs outside of any confinement. */
export const NO_TYPING: readonly Rule[] = [
  { call: "ioctl", errno: EPERM, when: { argument: 1, is: [TIOCSTI, TIOCLINUX] } },
];

/** Limits of other processes. */
export const NO_LIMITS_OF_OTHERS: readonly Rule[] = [
  { call: "prlimit64", errno: EPERM, unless: { argument: 0, is: [0] } },
];

const FS_IOC_SETFLAGS = 0x4008_6602;
const FS_IOC_FSSETXATTR = 0x401c_5820;
const METADATA: readonly Call[] = [
  "chmod",
  "fchmod",
  "fchmodat",
  "fchmodat2",
  "chown",
  "fchown",
  "lchown",
  "fchownat",
  "utime",
  "utimes",
  "futimesat",
  "utimensat",
  "setxattr",
  "lsetxattr",
  "fsetxattr",
  "removexattr",
  "lremovexattr",
  "fremovexattr",
  "setxattrat",
  "removexattrat",
  "file_setattr",
];

/** Modes, owners, times and attributes: what Landlock does not guard. */
export const NO_METADATA: readonly Rule[] = [
  ...METADATA.map((call) => ({ call, errno: EPERM })),
  { call: "ioctl", errno: EPERM, when: { argument: 1, is: [TIOCSTI, TIOCLINUX, FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR] } },
];
