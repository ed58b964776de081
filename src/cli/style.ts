/**
 * Styles text for a terminal. Chalk is loaded only if the output may be one: `status` in a script, and `run`, start
 * without it.
 */
import type { ChalkInstance } from "chalk";

const NAMES = ["dim", "red", "green", "yellow", "blue", "magenta", "cyan"] as const;

export type Style = Readonly<Record<(typeof NAMES)[number], (text: string) => string>>;

/** Leaves text plain. */
export const PLAIN = Object.fromEntries(NAMES.map((name) => [name, (text: string) => text])) as Style;

let chalk: ChalkInstance | undefined;

/** To be called before any text that may be coloured. */
export async function loadColours(): Promise<void> {
  const { Chalk } = await import("chalk");
  chalk = new Chalk({ level: 1 });
}

/** @throws Error if they were not loaded: {@link mayHaveColour} missed a case */
export function colours(): Style {
  if (chalk === undefined) throw new Error("colours are not loaded");
  return chalk;
}
