/** Which policy a worker has whose definition names none. */
import { absolutePath } from "./working-directory.ts";

/** Of a `command`, of a script of another language, and of a `Start` of a bunctl client. */
export const DEFAULT_POLICY = "trusted";
/** Of a Python script that is started. */
export const SCRIPT_POLICY = "no-network";
/** Of code that is run once. */
export const CODE_POLICY = "strict";

/** The user's choice of another default: a name, or the absolute path of a file. */
export function chosenDefault(
  env: Readonly<Record<string, string | undefined>>,
  here: string | undefined,
): string | undefined {
  const chosen = env.POLICY_FILE;
  if (chosen === undefined || chosen === "") return undefined;
  return chosen.includes("/") || chosen.endsWith(".json") ? absolutePath(chosen, here) : chosen;
}
