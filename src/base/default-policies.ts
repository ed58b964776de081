/** The policy of a worker whose definition names none. */
import { absolutePath } from "./working-directory.ts";

/** For a `command`, for scripts of other languages, and for `Start` requests of bunctl clients. */
export const DEFAULT_POLICY = "trusted";
/** For a Python script that is started. */
export const SCRIPT_POLICY = "no-network";
/** For code that is run once. */
export const CODE_POLICY = "strict";

/** The default that the user chose instead: a name, or the absolute path of a file. */
export function chosenDefault(
  env: Readonly<Record<string, string | undefined>>,
  here: string | undefined,
): string | undefined {
  const chosen = env.POLICY_FILE;
  if (chosen === undefined || chosen === "") return undefined;
  return chosen.includes("/") || chosen.endsWith(".json") ? absolutePath(chosen, here) : chosen;
}
