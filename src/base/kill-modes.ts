/** Which processes get the signal that asks a worker to end. SIGKILL always goes to the whole tree. */
import { KILL_MODE } from "../../contract/shim.ts";

export type KillMode = keyof typeof KILL_MODE;
export const KILL_MODES = Object.keys(KILL_MODE) as KillMode[]; // keys of a closed table
