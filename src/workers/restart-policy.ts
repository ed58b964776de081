/** Whether an ended run is started again, and when. Pure: the random number is an argument. */
import type { RestartPolicy } from "../base/restart-policies.ts";
import type { Backoff } from "../protocol/app-config.ts";

/** A run of at least this length counts as stable: the next failure starts over with the first delay. */
export const STABLE_MS = 10_000;

/** What matters here of an ended run. */
export type Ending = { readonly isSuccess: boolean; readonly ranMs: number };

export type Verdict =
  | { readonly event: "ended" }
  | { readonly event: "ended_retry"; readonly attempt: number; readonly delayMs: number }
  | { readonly event: "ended_exhausted"; readonly attempt: number };

/**
 * @param attempts restarts in a row so far, without a stable run between them
 * @param random uniform in [0, 1); spreads the delays of workers that fail together
 */
export function decide(
  policy: RestartPolicy,
  backoff: Backoff,
  ending: Ending,
  attempts: number,
  random: number,
): Verdict {
  if (policy === "no" || (policy === "on-failure" && ending.isSuccess)) return { event: "ended" };
  const attempt = (ending.ranMs >= STABLE_MS ? 0 : attempts) + 1;
  if (backoff.max_attempts !== null && attempt > backoff.max_attempts) {
    return { event: "ended_exhausted", attempt: attempt - 1 };
  }
  return { event: "ended_retry", attempt, delayMs: delayMs(backoff, attempt, random) };
}

/** `base × multiplier^(attempt−1)`, capped at the maximum and spread by ± jitter; never over the maximum. */
export function delayMs(backoff: Backoff, attempt: number, random: number): number {
  const grown = Math.min(backoff.max_delay_ms, backoff.base_delay_ms * backoff.multiplier ** (attempt - 1));
  const spread = grown * (1 + backoff.jitter * (2 * random - 1));
  return Math.round(Math.min(backoff.max_delay_ms, Math.max(0, spread)));
}
