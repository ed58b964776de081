/** Errors of this program, told from what the guest throws without running any code of the guest. */
import { isProxy } from "node:util/types";

/** As `instanceof`, which asks traps of proxies. */
export function isOwn<T>(error: unknown, kind: abstract new (...args: never[]) => T): error is T {
  let one = error;
  while ((typeof one === "object" || typeof one === "function") && one !== null && !isProxy(one)) {
    if (one === kind.prototype) return true;
    one = Reflect.getPrototypeOf(one);
  }
  return false;
}

/** Of code that must end: nobody may go on after it. */
export function isEnding(error: unknown): boolean {
  return isInterrupt(error) || isTimeout(error);
}

export function isInterrupt(error: unknown): boolean {
  return codeOf(error) === "ERR_SCRIPT_EXECUTION_INTERRUPTED";
}

export function isTimeout(error: unknown): boolean {
  return codeOf(error) === "ERR_SCRIPT_EXECUTION_TIMEOUT";
}

function codeOf(error: unknown): unknown {
  return isOwn(error, Error) ? (error as { code?: unknown }).code : undefined;
}
