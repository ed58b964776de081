/** `--policy`, and the flags that grant exceptions to it. */
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { parseCount } from "../base/units.ts";
import type { Grants } from "../protocol/app-config.ts";
import { requireHosts } from "../sandbox/hosts.ts";
import type { Context } from "./context.ts";

export type PolicyFlags = {
  policy?: string;
  allowNet?: string | boolean;
  allowListen?: string | boolean;
  allowRead?: string[];
  allowWrite?: string[];
  allowRuntimes?: string;
};

/** A name stays as it is; the path of a policy file is relative to the working directory. */
export function policyPath(context: Context, policy: string | undefined): string | undefined {
  return policy?.includes("/") && !policy.startsWith("{") ? context.resolve(policy) : policy;
}

/** What the flags grant; undefined if there are none. @throws IpcError USAGE */
export function grantsOf(context: Context, flags: PolicyFlags): Grants | undefined {
  const { allowRead = [], allowWrite = [], allowRuntimes } = flags;
  const [allowNet, allowListen] = [flags.allowNet, flags.allowListen].map((one) => (one === "" ? true : one));
  const isNone = [allowNet, allowListen, allowRuntimes].every((one) => one === undefined);
  if (isNone && allowRead.length + allowWrite.length === 0) return undefined;
  for (const [flag, list] of [
    ["--allow-read", allowRead],
    ["--allow-write", allowWrite],
  ] as const)
    if (list.includes("")) throw new IpcError("USAGE", `${flag}: the path is empty`);
  const hosts = typeof allowNet === "string" ? allowNet.split(",").map((one) => one.trim()) : [];
  requireHosts(hosts);
  const ports =
    typeof allowListen === "string"
      ? allowListen.split(",").map((port) => parseCount(port, "--allow-listen", 1, 65_535))
      : [];
  const grants: Grants = {
    ...(allowNet === true ? { net: true } : hosts.length > 0 ? { net: hosts } : {}),
    ...(allowListen === true ? { listen: true } : ports.length > 0 ? { listen: ports } : {}),
    ...(allowRead.length > 0 ? { read: allowRead.map((path) => context.resolve(path)) } : {}),
    ...(allowWrite.length > 0 ? { write: allowWrite.map((path) => context.resolve(path)) } : {}),
    ...(allowRuntimes === undefined
      ? {}
      : { runtimes: parseCount(allowRuntimes, "--allow-runtimes", 0, limit("policyRuntimes")) }),
  };
  return grants;
}

/** A policy and the exceptions of the flags, as one policy. */
export async function withExceptions(context: Context, flags: PolicyFlags, chosen: string): Promise<string> {
  const { withGrants } = await import("../launch/effective-policy.ts");
  const variables = { project: context.cwd, home: process.env.HOME ?? "/" };
  return withGrants(chosen, grantsOf(context, flags) ?? null, variables);
}
