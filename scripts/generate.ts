/** Writes the documents that are drawn from tables in the code. A test holds them to what this would write. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { LIMITS } from "../src/base/limits.ts";
import { EFFECTS, EVENTS, STATES, TABLE, type Event, type State } from "../src/workers/machine.ts";

const NOTICE = "<!-- Written by scripts/generate.ts; change the table in the code instead. -->";

/** `docs/worker-states.md`. */
export function statesDocument(): string {
  const rows = (table: Record<string, string>): string => Object.entries(table).map(([key, text]) => `| \`${key}\` | ${text} |`).join("\n");
  const states = Object.keys(STATES) as State[]; // keys of a closed table
  const events = Object.keys(EVENTS) as Event[]; // likewise
  const cell = (state: State, event: Event): string => {
    const { next, effects } = TABLE[state][event];
    return next === state && effects.length === 0 ? "·" : `${next}${effects.length > 0 ? ` (${effects.join(", ")})` : ""}`;
  };
  return `# Worker states

${NOTICE}

## States

| state | shown as | meaning |
|---|---|---|
${states.map((state) => `| \`${state}\` | ${STATES[state].word} | ${STATES[state].meaning} |`).join("\n")}

## Events

| event | comes from |
|---|---|
${rows(EVENTS)}

## Effects

| effect | does |
|---|---|
${rows(EFFECTS)}

## Table

Next state, and effects in their order. A dot: nothing happens.

| | ${states.map((state) => `\`${state}\``).join(" | ")} |
|---|${states.map(() => "---|").join("")}
${events.map((event) => `| \`${event}\` | ${states.map((state) => cell(state, event)).join(" | ")} |`).join("\n")}
`;
}

/** `docs/limits.md`. */
export function limitsDocument(): string {
  const rows = Object.entries(LIMITS).map(([name, { value, why }]) => `| \`${name}\` | ${value} | ${why} |`).join("\n");
  return `# Limits\n\n${NOTICE}\n\n| limit | value | why |\n|---|---|---|\n${rows}\n`;
}

if (import.meta.main) {
  const docs = join(import.meta.dir, "..", "docs");
  writeFileSync(join(docs, "worker-states.md"), statesDocument());
  writeFileSync(join(docs, "limits.md"), limitsDocument());
}
