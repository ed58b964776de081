/**
 * Text as it looks on a terminal. Chalk is loaded only where there may be one: `status` in a script, and `run`, begin
 * without it.
 */
import type { ChalkInstance } from "chalk";

const NAMES = ["dim", "red", "green", "yellow", "blue", "magenta", "cyan"] as const;

export type Style = Readonly<Record<(typeof NAMES)[number], (text: string) => string>>;

/** The text alone. */
export const PLAIN = Object.fromEntries(NAMES.map((name) => [name, (text: string) => text])) as Style;

let chalk: ChalkInstance | undefined;

/** Before the first text that may be coloured. */
export async function loadColours(): Promise<void> {
  const { Chalk } = await import("chalk");
  chalk = new Chalk({ level: 1 });
}

/** @throws Error where they were not loaded: somebody asks for colours in a way that nobody foresaw */
export function colours(): Style {
  if (chalk === undefined) throw new Error("colours are not loaded");
  return chalk;
}
