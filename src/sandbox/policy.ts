/**
 * Policies: what a worker may do. This version has no sandbox yet and knows one policy, `trusted` (supervised, not
 * confined). Any other is refused, never ignored: a worker must not run with less confinement than was asked for.
 */
import { IpcError } from "../base/errors.ts";

/** The policy of a definition that names none. */
export const DEFAULT_POLICY = "trusted";

/** Returns the policy to run under. @throws IpcError POLICY_REFUSED for one that cannot be enforced. */
export function choosePolicy(wanted: string | null): string {
  const policy = wanted ?? DEFAULT_POLICY;
  if (policy === DEFAULT_POLICY) return policy;
  throw new IpcError(
    "POLICY_REFUSED",
    `policy ${JSON.stringify(policy)} cannot be enforced by this version, which has no sandbox`,
    {
      hint: "only --policy trusted (supervised, not confined) is there to choose",
    },
  );
}
