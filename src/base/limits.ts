/** A limit by its name. The table of all limits, with reasons, is in the contract. */
import { LIMITS } from "../../contract/limits.ts";

/** The value of an entry of {@link LIMITS}. */
export function limit(name: keyof typeof LIMITS): number {
  return LIMITS[name].value;
}
