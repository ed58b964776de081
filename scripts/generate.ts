/** Writes the documents that are generated from tables in the code. A test compares them with what this would write. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Command } from "commander";
import { ERROR_CODES } from "../src/base/errors.ts";
import { LIMITS } from "../contract/limits.ts";
import { VERSION } from "../src/base/version.ts";
import { policyJsonSchema } from "../src/sandbox/policy.ts";
import { hostConfigJsonSchema } from "../src/host/host-config.ts";
import { manifestJsonSchema } from "../src/host/manifest.ts";
import { projectJsonSchema } from "../src/protocol/project.ts";
import { buildProgram } from "../src/cli/command-table.ts";
import { contractHeader, contractModule, DOCUMENTS, editionModule, withTables } from "./contract.ts";
import { pluginDeclarations } from "./declarations.ts";
import { pythonTypes } from "./verbs.ts";
import { EFFECTS, EVENTS, STATES, TABLE, type Event, type State } from "../src/workers/states.ts";

const NOTICE = "<!-- Written by scripts/generate.ts; change the table in the code instead. -->";

/** `docs/internals/worker-states.md`. */
export function statesDocument(): string {
  const rows = (table: Record<string, string>): string =>
    Object.entries(table)
      .map(([key, text]) => `| \`${key}\` | ${text} |`)
      .join("\n");
  const states = Object.keys(STATES) as State[]; // keys of a closed table
  const events = Object.keys(EVENTS) as Event[]; // likewise
  const cell = (state: State, event: Event): string => {
    const { next, effects } = TABLE[state][event];
    return next === state && effects.length === 0
      ? "·"
      : `${next}${effects.length > 0 ? ` (${effects.join(", ")})` : ""}`;
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

/** `docs/ipcctl.schema.json`: for editors, named in `$schema`. */
export function schemaDocument(): string {
  return `${JSON.stringify(projectJsonSchema(), null, 2)}\n`;
}

/** `docs/policy.schema.json`: of a policy, likewise. */
export function policySchemaDocument(): string {
  return `${JSON.stringify(policyJsonSchema(), null, 2)}\n`;
}

/** `docs/plugin.schema.json`: of a plugin's manifest, likewise. */
export function pluginSchemaDocument(): string {
  return `${JSON.stringify(manifestJsonSchema(), null, 2)}\n`;
}

/** `docs/host.schema.json`: of `host.json`, likewise. */
export function hostSchemaDocument(): string {
  return `${JSON.stringify(hostConfigJsonSchema(), null, 2)}\n`;
}

/** `docs/internals/limits.md`. */
export function limitsDocument(): string {
  const rows = Object.entries(LIMITS)
    .map(([name, { value, why }]) => `| \`${name}\` | ${value} | ${why} |`)
    .join("\n");
  return `# Limits\n\n${NOTICE}\n\n| limit | value | why |\n|---|---|---|\n${rows}\n`;
}

/** `docs/ipcctl.1`: the manual page, from the command table. */
export function manualPage(): string {
  const escape = (text: string): string =>
    text
      .replaceAll("\\", "\\e")
      .replaceAll("-", "\\-")
      .replace(/^([.'])/gm, "\\&$1");
  const program = buildProgram(() => Promise.resolve());
  const options = (command: Command): string =>
    command.options
      .filter((option) => !option.hidden)
      .map((option) => `.TP\n.B ${escape(option.flags)}\n${escape(option.description)}\n`)
      .join("");
  const section = (command: Command, prefix: string): string =>
    `.SS "${escape(`${prefix}${command.name()} ${command.usage().replace("[options] ", "").replace("[options]", "")}`.trim())}"\n${escape(command.description())}\n${options(command)}` +
    command.commands.map((inner) => section(inner, `${prefix}${command.name()} `)).join("");
  const codes = [...new Map(Object.values(ERROR_CODES).map(({ exit, meaning }) => [exit, meaning]))].toSorted(
    ([a], [b]) => a - b,
  );
  return `.\\" Written by scripts/generate.ts from the command table.
.TH IPCCTL 1 "" "ipcctl ${VERSION}" "User Commands"
.SH NAME
ipcctl \\- ${escape(program.description())}
.SH SYNOPSIS
.B ipcctl
[options] command [arguments]
.SH OPTIONS
${options(program)}.SH COMMANDS
${program.commands.map((command) => section(command, "")).join("")}.SH ENVIRONMENT
.TP
.B IPCCTL_SOCKET
control socket of the daemon
.TP
.B IPCCTL_HOME
one directory for everything the daemon writes
.TP
.B IPCCTL_LOG_LEVEL
level of the daemon's own log (default: info)
.SH EXIT STATUS
.TP
.B 0
done
${codes.map(([exit, meaning]) => `.TP\n.B ${exit}\n${escape(exit === 1 ? "the operation failed" : meaning)}\n`).join("")}.TP
.B 128+n
.B run
ended by signal n
`;
}

if (import.meta.main) {
  const root = join(import.meta.dir, "..");
  const docs = join(root, "docs");
  writeFileSync(join(root, "contract/edition.ts"), editionModule());
  writeFileSync(join(root, "native/contract.h"), contractHeader());
  writeFileSync(join(root, "python/ipcctl/_contract.py"), contractModule());
  writeFileSync(join(root, "python/ipcctl/_verbs.py"), pythonTypes());
  writeFileSync(join(root, "src/cli/plugin-declarations.ts"), pluginDeclarations());
  for (const file of Object.keys(DOCUMENTS)) {
    const path = join(docs, file);
    writeFileSync(path, withTables(file, readFileSync(path, "utf8")));
  }
  writeFileSync(join(docs, "internals/worker-states.md"), statesDocument());
  writeFileSync(join(docs, "internals/limits.md"), limitsDocument());
  writeFileSync(join(docs, "ipcctl.1"), manualPage());
  writeFileSync(join(docs, "ipcctl.schema.json"), schemaDocument());
  writeFileSync(join(docs, "policy.schema.json"), policySchemaDocument());
  writeFileSync(join(docs, "plugin.schema.json"), pluginSchemaDocument());
  writeFileSync(join(docs, "host.schema.json"), hostSchemaDocument());
}
