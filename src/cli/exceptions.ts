/** `--policy` and the flags that grant an exception, to one policy. */
import { IpcError } from "../base/errors.ts";
import { parseCount } from "../base/units.ts";
import type { Context } from "./context.ts";

export type PolicyFlags = {
  policy?: string;
  allowNet?: string | boolean;
  allowListen?: string | boolean;
  allowRead?: string[];
  allowWrite?: string[];
};

/** A name stays; the path of a policy file is relative to where we are. */
export function policyPath(context: Context, policy: string | undefined): string | undefined {
  return policy?.includes("/") && !policy.startsWith("{") ? context.resolve(policy) : policy;
}

/**
 * @param chosen what the flags are exceptions to
 * @returns `chosen` itself where there are none, else a policy that extends it, as JSON text
 */
export async function withExceptions(context: Context, flags: PolicyFlags, chosen: string): Promise<string> {
  const { allowRead = [], allowWrite = [] } = flags;
  const [allowNet, allowListen] = [flags.allowNet, flags.allowListen].map((one) => (one === "" ? true : one));
  if (allowNet === undefined && allowListen === undefined && allowRead.length + allowWrite.length === 0) return chosen;
  const { loadPolicy, splitHost } = await import("../sandbox/policy.ts");
  const { network, files } = loadPolicy(chosen, { project: context.cwd, home: process.env.HOME ?? "/" });
  for (const [flag, list] of [
    ["--allow-read", allowRead],
    ["--allow-write", allowWrite],
  ] as const)
    if (list.includes("")) throw new IpcError("USAGE", `${flag}: a path is missing`);
  const hosts = typeof allowNet === "string" ? allowNet.split(",").map((one) => one.trim()) : [];
  const bad = hosts.find((host) => splitHost(host) === undefined);
  if (bad !== undefined)
    throw new IpcError("USAGE", `--allow-net: ${JSON.stringify(bad)} is not HOST:PORT`, {
      hint: "for example --allow-net=api.example.com:443,10.0.0.0/8:5432; --allow-net alone grants all of the network",
    });
  const listen =
    typeof allowListen === "string"
      ? allowListen.split(",").map((port) => parseCount(port, "--allow-listen", 1, 65_535))
      : [];
  const known = network.allow.map(
    ({ host, port }) => `${host.includes(":") ? `[${host}]` : host}:${port === 0 ? "*" : port}`,
  );
  const paths = (more: string[], old: readonly { path: string; isOptional: boolean }[]): object[] => [
    ...old.map(({ path, isOptional }) => ({ path, optional: isOptional })),
    ...more.map((path) => ({ path: context.resolve(path) })),
  ];
  return JSON.stringify({
    version: 1,
    extends: chosen,
    network: {
      ...(hosts.length > 0 && network.mode !== "any" ? { mode: "allow", allow: [...known, ...hosts] } : {}),
      ...(allowNet === true ? { mode: "any" } : {}),
      ...(allowListen === true ? { listen: "any" } : {}),
      ...(listen.length > 0 && network.listen !== "any"
        ? { listen: [...new Set([...network.listen, ...listen])] }
        : {}),
    },
    files: {
      ...(allowRead.length > 0 ? { read: paths(allowRead, files.read) } : {}),
      ...(allowWrite.length > 0 ? { write: paths(allowWrite, files.write) } : {}),
    },
  });
}
