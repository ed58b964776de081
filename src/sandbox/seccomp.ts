/** Programs of seccomp: steps of classic BPF over a system call's number and arguments (seccomp(2)). */
import { ERRNO } from "../../contract/linux.ts";
import { IpcError } from "../base/errors.ts";
import { SYSTEM_CALLS, type Call } from "./system-calls.ts";

export type { Call } from "./system-calls.ts";

const LOAD = 0x20;
const IF_EQUAL = 0x15;
const IF_AT_LEAST = 0x35;
const IF_ANY_BIT = 0x45;
const JUMP = 0x05;
const RETURN = 0x06;
const ALLOW = 0x7fff_0000;
const KILL = 0x8000_0000;
const GIVE_ERROR = 0x0005_0000;
const NOTIFY = 0x7fc0_0000;

/**
 * So many calls are compared one after the other. (The kernel runs the program for every known call before it installs
 * it.)
 */
const TOGETHER = 16;

/** Offsets in `struct seccomp_data`; of an argument the low half, which is all that a callee reads of an int. */
const AT_NUMBER = 0;
const AT_ARCH = 4;
const atArgument = (index: number): number => 16 + 8 * index;

type Arch = { readonly audit: number; readonly column: 0 | 1 };
const ARCHS: Readonly<Record<string, Arch>> = {
  x64: { audit: 0xc000_003e, column: 0 },
  arm64: { audit: 0xc000_00b7, column: 1 },
};

/**
 * `notify`: the connect helper decides, or records and denies; without a helper the call fails with EPERM. `answer`: it
 * gives what nobody else can, also where nothing is recorded.
 */
export type Action = "allow" | "notify" | "answer" | number;

/** A condition on one argument. Only the shim knows `self` and `token`: see {@link Patch}. */
export type Test =
  | { readonly argument: number; readonly is: readonly number[] }
  | { readonly argument: number; readonly isNot: readonly number[] }
  | { readonly argument: number; readonly isFrom: number; readonly to: number }
  | { readonly argument: number; readonly hasNone: number }
  | { readonly argument: number; readonly hasAll: number }
  | { readonly argument: number; readonly isNull: boolean }
  | { readonly argument: number; readonly isSelf: true }
  | { readonly hasToken: true };

/** The first case whose tests all hold decides; if none does, `otherwise`. */
export type Rule = {
  readonly cases?: readonly { readonly when: readonly Test[]; readonly give: Action }[];
  readonly otherwise: Action;
};

export type Rules = ReadonlyMap<Call, Rule>;

/** Values of steps that the shim fills in before it installs the program. */
export const PATCH = { token: [0, 1, 2, 3], self: 4 } as const;
export type Patch = { readonly step: number; readonly what: number };
export type Program = { readonly steps: Uint8Array; readonly patches: readonly Patch[]; readonly isNotifying: boolean };

type Step = { code: number; yes: number; no: number; value: number; patch?: number };

/**
 * @param rules the action for each named call
 * @param known the action for all other calls that this version knows; calls that it does not know give ENOSYS if this
 * is not "allow"
 * @param isTold false: calls that would only be recorded are denied at once
 */
export function compileProgram(
  rules: Rules,
  known: Action,
  arch: string = process.arch,
  isTold: boolean = true,
): Program {
  const machine = ARCHS[arch];
  if (!machine)
    throw new IpcError(
      "POLICY_REFUSED",
      `policies cannot be enforced on ${arch}: ipcctl knows no system call filters for it`,
    );
  const steps: Step[] = [
    step(LOAD, 0, 0, AT_ARCH),
    step(IF_EQUAL, 1, 0, machine.audit),
    step(RETURN, 0, 0, KILL),
    step(LOAD, 0, 0, AT_NUMBER),
  ];
  if (arch === "x64") steps.push(step(IF_AT_LEAST, 0, 1, 0x4000_0000), step(RETURN, 0, 0, KILL)); // the x32 convention
  const numbered = [...rules]
    .map(([call, rule]) => ({ number: SYSTEM_CALLS[call][machine.column], rule }))
    .filter(({ number }) => number >= 0)
    .toSorted((a, b) => a.number - b.number);
  for (let at = 0; at < numbered.length; at += TOGETHER) {
    const group = numbered.slice(at, at + TOGETHER).flatMap(({ number, rule }) => {
      const body = ruleSteps(rule, isTold);
      return [step(IF_EQUAL, 0, body.length, number), ...body];
    });
    const next = numbered[at + TOGETHER];
    if (next)
      steps.push(step(IF_AT_LEAST, 0, 1, next.number), step(JUMP, 0, 0, group.length + 1), ...group, give(known));
    else steps.push(...group);
  }
  if (known !== "allow") {
    const highest = Math.max(...Object.values(SYSTEM_CALLS).map((numbers) => numbers[machine.column]));
    steps.push(step(IF_AT_LEAST, 0, 1, highest + 1), give(ERRNO.ENOSYS));
  }
  steps.push(give(known));
  const program = Buffer.alloc(steps.length * 8);
  const patches: Patch[] = [];
  for (const [index, { code, yes, no, value, patch }] of steps.entries()) {
    program.writeUInt16LE(code, index * 8);
    program.writeUInt8(yes, index * 8 + 2);
    program.writeUInt8(no, index * 8 + 3);
    program.writeUInt32LE(value >>> 0, index * 8 + 4);
    if (patch !== undefined) patches.push({ step: index, what: patch });
  }
  return { steps: program, patches, isNotifying: steps.some(({ code, value }) => code === RETURN && value === NOTIFY) };
}

function step(code: number, yes: number, no: number, value: number, patch?: number): Step {
  return patch === undefined ? { code, yes, no, value } : { code, yes, no, value, patch };
}

function give(action: Action, isTold: boolean = true): Step {
  if (action === "answer") return step(RETURN, 0, 0, NOTIFY);
  if (action === "notify") return step(RETURN, 0, 0, isTold ? NOTIFY : GIVE_ERROR | ERRNO.EPERM);
  return step(RETURN, 0, 0, action === "allow" ? ALLOW : GIVE_ERROR | action);
}

function ruleSteps({ cases = [], otherwise }: Rule, isTold: boolean): Step[] {
  const steps: Step[] = [];
  for (const { when, give: action } of cases) {
    const parts = when.map(testSteps);
    let rest = parts.reduce((sum, part) => sum + part.length, 0) + 1; // the tests and the return
    for (const part of parts) {
      for (const [index, one] of part.entries()) {
        rest -= 1;
        const left = part.length - index - 1;
        // -1: skip the rest of this case; -2: this test holds
        const jump = (to: number): number => (to === -1 ? rest : to === -2 ? left : to);
        steps.push({ ...one, yes: jump(one.yes), no: jump(one.no) });
      }
    }
    steps.push(give(action, isTold));
  }
  steps.push(give(otherwise, isTold));
  return steps;
}

/**
 * The steps of a test. A jump of -2 means that it holds, -1 that it does not; running off the end means that it holds.
 */
function testSteps(test: Test): Step[] {
  if ("hasToken" in test)
    return PATCH.token.flatMap((what) => [
      step(LOAD, 0, 0, atArgument(3) + 4 * what), // the fourth and fifth argument, which the kernel ignores
      step(IF_EQUAL, 0, -1, 0, what),
    ]);
  const load = step(LOAD, 0, 0, atArgument(test.argument));
  if ("is" in test)
    return [load, ...test.is.map((value, index) => step(IF_EQUAL, -2, index === test.is.length - 1 ? -1 : 0, value))];
  if ("isNot" in test) return [load, ...test.isNot.map((value) => step(IF_EQUAL, -1, 0, value))];
  if ("isFrom" in test) return [load, step(IF_AT_LEAST, 0, -1, test.isFrom), step(IF_AT_LEAST, -1, 0, test.to + 1)];
  if ("hasNone" in test) return [load, step(IF_ANY_BIT, -1, 0, test.hasNone)];
  if ("hasAll" in test) return [load, ...bitsOf(test.hasAll).map((bit) => step(IF_ANY_BIT, 0, -1, bit))];
  if ("isSelf" in test) return [load, step(IF_EQUAL, 0, -1, 0, PATCH.self)];
  const high = step(LOAD, 0, 0, atArgument(test.argument) + 4);
  return test.isNull
    ? [load, step(IF_EQUAL, 0, -1, 0), high, step(IF_EQUAL, 0, -1, 0)]
    : [load, step(IF_EQUAL, 0, -2, 0), high, step(IF_EQUAL, -1, 0, 0)];
}

function bitsOf(mask: number): number[] {
  return Array.from({ length: 32 }, (_, index) => (1 << index) >>> 0).filter((bit) => (mask & bit) !== 0);
}
