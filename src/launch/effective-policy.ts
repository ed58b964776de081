/** Which policy a worker has, and what is granted on top of it. */
import { DEFAULT_POLICY } from "../base/default-policies.ts";
import type { Transport } from "../base/transports.ts";
import type { Grants } from "../protocol/app-config.ts";
import { requireHosts } from "../sandbox/hosts.ts";
import { loadPolicy, type Variables } from "../sandbox/policy.ts";
import type { Running } from "./languages.ts";

/** Lets what runs decide the policy. */
export const AUTO = "auto";

export type Governed = {
  readonly policy: string | null;
  /** What the definition said, if the daemon has decided since. */
  readonly policy_wanted?: string | null;
  /** What `auto` means for a Python script: the user's choice. */
  readonly default_policy?: string | null;
  readonly allow?: Grants | null | undefined;
  readonly tools?: readonly string[];
  readonly tool_group?: string | null;
  /** How it asks for them. */
  readonly transport?: Transport | null;
};

export type HostGrants = { readonly tools: readonly string[]; readonly group: string | null };

/**
 * Name, path or text of the policy that it runs under.
 * @throws IpcError as loadPolicy does if grants must be added
 */
export function policyOf(app: Governed, { policy: byDefault }: Running, variables: Variables, isOnce = false): string {
  const wanted = app.policy_wanted ?? app.policy ?? AUTO;
  // The user's default applies to Python scripts, and to everything that is run once.
  const auto = byDefault === DEFAULT_POLICY && !isOnce ? byDefault : (app.default_policy ?? byDefault);
  const host = { tools: app.tools ?? [], group: app.tool_group ?? null };
  return withGrants(wanted === AUTO ? auto : wanted, app.allow ?? null, variables, host);
}

const NO_TOOLS: HostGrants = { tools: [], group: null };

/**
 * @param chosen the policy that the grants are added to
 * @returns `chosen` itself if there are none, else a policy that extends it, as JSON text
 * @throws IpcError USAGE for an entry that is not a host
 */
export function withGrants(
  chosen: string,
  grants: Grants | null,
  variables: Variables,
  { tools, group }: HostGrants = NO_TOOLS,
): string {
  const { net = [], listen = [], read = [], write = [], runtimes } = grants ?? {};
  const isNothing = [net, listen, read, write].every((one) => one !== true && one.length === 0);
  if (isNothing && tools.length === 0 && group === null && runtimes === undefined) return chosen;
  const { network, files, host } = loadPolicy(chosen, variables);
  const hosts = net === true ? [] : net;
  requireHosts(hosts);
  const ports = listen === true ? [] : listen;
  const known = network.allow.map(
    ({ host, port }) => `${host.includes(":") ? `[${host}]` : host}:${port === 0 ? "*" : port}`,
  );
  const paths = (more: readonly string[], old: readonly { path: string; isOptional: boolean }[]): object[] => [
    ...old.map(({ path, isOptional }) => ({ path, optional: isOptional })),
    ...more.map((path) => ({ path })),
  ];
  return JSON.stringify({
    version: 1,
    extends: chosen,
    network: {
      ...(hosts.length > 0 && network.mode !== "any" ? { mode: "allow", allow: [...known, ...hosts] } : {}),
      ...(net === true ? { mode: "any" } : {}),
      ...(listen === true ? { listen: "any" } : {}),
      ...(ports.length > 0 && network.listen !== "any" ? { listen: [...new Set([...network.listen, ...ports])] } : {}),
    },
    files: {
      ...(read.length > 0 ? { read: paths(read, files.read) } : {}),
      ...(write.length > 0 ? { write: paths(write, files.write) } : {}),
    },
    ...(tools.length === 0 && group === null && runtimes === undefined
      ? {}
      : {
          host: {
            ...(tools.length > 0 ? { tools: [...new Set([...host.tools, ...tools])] } : {}),
            ...(group === null ? {} : { group }),
            ...(runtimes === undefined ? {} : { runtimes }),
          },
        }),
  });
}
