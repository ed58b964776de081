/** From a policy and a machine to what the shim carries out, and to the same in words. */
import { IpcError } from "../base/errors.ts";
import {
  ABI_OF_SCOPES,
  ABI_OF_TCP,
  ABI_OF_WRITING,
  changingRights,
  SCOPE_ABSTRACT_SOCKETS,
  SCOPE_SIGNALS,
  TCP_RIGHTS,
  tokenRight,
  writingRights,
} from "./landlock.ts";
import type { Machine } from "./machine.ts";
import type { Policy } from "./policy.ts";
import { denyProgram, NO_LIMITS_OF_OTHERS, NO_METADATA, NO_NETWORK, NO_TYPING, type Rule } from "./seccomp.ts";

/** One grant or denial. */
export type PlanItem = {
  readonly item: string;
  readonly verdict: "granted" | "denied";
  /** Which mechanism of the kernel sees to it, and what is not covered. */
  readonly by: string;
};

export type Plan = {
  readonly items: readonly PlanItem[];
  /** Undefined where nothing is confined. */
  readonly confinement?: {
    readonly dropsCapabilities: boolean;
    readonly landlock: { readonly fs: bigint; readonly net: bigint; readonly scoped: bigint };
    readonly paths: readonly { readonly access: bigint; readonly path: string; readonly isOptional: boolean }[];
    readonly filters: readonly Uint8Array[];
  };
  /** The worker wants a folder of its own to write into. */
  readonly hasScratch: boolean;
};

/** Devices that programs write to without changing anything. */
const HARMLESS_DEVICES = ["/dev/null", "/dev/zero", "/dev/full", "/dev/tty"];

/**
 * @param scratch the worker's own folder
 * @throws IpcError POLICY_REFUSED naming the item, the reason and the remedy, if the kernel cannot enforce it
 */
export function compilePlan(policy: Policy, machine: Machine, scratch: string): Plan {
  const mayWriteAll = policy.write.includes("/");
  if (!policy.read.includes("/"))
    throw refused(policy, "files.read", "reading cannot be limited by this version", 'grant "/"');
  const isConfined = policy.network === "none" || !mayWriteAll || policy.metadata === "deny";
  const items: PlanItem[] = [];
  const say = (item: string, verdict: PlanItem["verdict"], by: string): void => void items.push({ item, verdict, by });
  say("files.read /", "granted", "what the user may read");
  if (!isConfined) {
    say("files.write /", "granted", "what the user may write");
    say("network", "granted", "nothing confines it");
    return { items, hasScratch: false };
  }
  if (!machine.hasSeccomp)
    throw refused(policy, "network", "the kernel has no seccomp filters", "a kernel with CONFIG_SECCOMP_FILTER");
  if (machine.landlockAbi === 0)
    throw refused(policy, "isolation", "the kernel has no Landlock, or it is off", "Linux 5.13, and lsm=landlock,…");
  if (!mayWriteAll && machine.landlockAbi < ABI_OF_WRITING)
    throw refused(policy, "files.write", `Landlock ${machine.landlockAbi} cannot deny truncation`, "Linux 6.2");
  const rules: Rule[] = [];
  let [fs, net, scoped] = [0n, 0n, 0n];
  if (policy.network === "none") {
    rules.push(...NO_NETWORK);
    const hasTcp = machine.landlockAbi >= ABI_OF_TCP;
    const hasScopes = machine.landlockAbi >= ABI_OF_SCOPES;
    if (hasTcp) net = TCP_RIGHTS;
    if (hasScopes) scoped |= SCOPE_ABSTRACT_SOCKETS;
    say("network", "denied", `seccomp: no sockets but Unix ones; no io_uring${hasTcp ? "; Landlock: TCP" : ""}`);
    say(
      "Unix sockets",
      "granted",
      `those with a path, as the user may${hasScopes ? "; Landlock: none with an abstract name" : ", and abstract names"}`,
    );
  } else say("network", "granted", "nothing confines it");
  const paths: { access: bigint; path: string; isOptional: boolean }[] = [];
  if (mayWriteAll) say("files.write /", "granted", "what the user may write");
  else {
    fs = changingRights(machine.landlockAbi);
    say("files.write", "denied", "Landlock, but for what follows");
    for (const path of policy.write) paths.push({ access: fs, path, isOptional: false });
    if (policy.hasScratch) paths.push({ access: fs, path: scratch, isOptional: false });
    for (const path of HARMLESS_DEVICES)
      paths.push({ access: writingRights(machine.landlockAbi), path, isOptional: true });
    for (const { path } of paths) say(`files.write ${path}`, "granted", "Landlock");
    rules.push(...NO_LIMITS_OF_OTHERS);
    if (machine.landlockAbi >= ABI_OF_SCOPES) {
      scoped |= SCOPE_SIGNALS;
      say("signals to others", "denied", "Landlock");
    }
  }
  if (policy.metadata === "deny") {
    rules.push(...NO_METADATA); // which has the terminal's as well: of two rules for one call the first would count
    say("files.metadata", "denied", "seccomp: modes, owners, times and attributes, in the scratch folder too");
  } else {
    rules.push(...NO_TYPING);
    say("files.metadata", "granted", "what the user may change");
  }
  if (fs === 0n && net === 0n && scoped === 0n) fs = tokenRight();
  say("typing into the terminal", "denied", "seccomp: TIOCSTI, TIOCLINUX");
  say("tracing of other processes, their memory", "denied", "Landlock: only those of the worker");
  say("new privileges (setuid, capabilities)", "denied", "no_new_privs; all capabilities are dropped");
  return {
    items,
    hasScratch: policy.hasScratch,
    confinement: {
      dropsCapabilities: true,
      landlock: { fs, net, scoped },
      paths,
      filters: [denyProgram(rules, machine.arch)],
    },
  };
}

function refused(policy: Policy, item: string, reason: string, remedy: string): IpcError {
  return new IpcError("POLICY_REFUSED", `policy ${policy.name}: ${item} cannot be enforced: ${reason}`, {
    hint: `needed: ${remedy}; or --policy trusted, which confines nothing`,
  });
}
