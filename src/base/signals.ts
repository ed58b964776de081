/** Signal numbers by name, as Linux has them on x86-64 and arm64. */
import { constants } from "node:os";
import { IpcError } from "./errors.ts";

/** `SIGTERM`, `TERM` or `15` → 15. @throws IpcError USAGE */
export function signalNumber(text: string): number {
  const upper = text.trim().toUpperCase();
  if (/^\d+$/.test(upper)) {
    const number = Number(upper);
    if (number >= 1 && number <= 64) return number;
  }
  const name = upper.startsWith("SIG") ? upper : `SIG${upper}`;
  const number = (constants.signals as Record<string, number>)[name];
  if (number === undefined) {
    throw new IpcError(
      "USAGE",
      `signal ${JSON.stringify(text)} is unknown, write for example HUP, TERM, USR1 or a number from 1 to 64`,
    );
  }
  return number;
}

/** 15 → `SIGTERM`; a real-time signal as `SIG35`. */
export function signalName(number: number): string {
  const found = Object.entries(constants.signals).find(([, value]) => value === number);
  return found ? found[0] : `SIG${number}`;
}
