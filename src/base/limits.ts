/** A limit by its name; the table of all of them, with reasons, is that of the contract. */
import { LIMITS } from "../../contract/limits.ts";

/** The number behind a name of {@link LIMITS}. */
export function limit(name: keyof typeof LIMITS): number {
  return LIMITS[name].value;
}
