/** `policy list|show|explain|check`: what there is, what one says, what it means on this machine, whether a file is one. */
import { existsSync, readFileSync } from "node:fs";
import { IpcError } from "../base/errors.ts";
import { thisMachine } from "../sandbox/machine.ts";
import { compilePlan } from "../sandbox/plan.ts";
import { loadPolicy, parsePolicy, shippedPolicies, type Variables } from "../sandbox/policy.ts";
import { isTerminal, terminalWidth, type Context } from "./context.ts";
import { policyPath } from "./exceptions.ts";

export function listPolicies(context: Context): number {
  const all = shippedPolicies().map((name) => ({ name, description: loadPolicy(name).description }));
  if (context.isJson) context.print(JSON.stringify(all));
  else for (const { name, description } of all) context.print(`${name.padEnd(13)}  ${description}`);
  return 0;
}

/** With all that it extends. */
export function showPolicy(context: Context, name: string): number {
  context.print(JSON.stringify(loadPolicy(policyPath(context, name)!, variables(context)), null, 2));
  return 0;
}

/** Each grant and each denial with the mechanism that enforces it on this machine. */
export function explainPolicy(context: Context, name: string): number {
  const policy = loadPolicy(policyPath(context, name)!, variables(context));
  const { items } = compilePlan(policy, thisMachine(), { scratch: "SCRATCH", program: [], cwd: context.cwd });
  if (context.isJson) context.print(JSON.stringify(items));
  else
    for (const { item, verdict, by } of items) {
      const head = `${mark(context, verdict)} ${item.padEnd(42)}  ${verdict}: `;
      context.print(isTerminal(1) ? head + hang(by, terminalWidth()) : head + by);
    }
  return 0;
}

/** Behind the head of its line where that leaves room, and with an indentation below it. */
function hang(text: string, width: number): string {
  const lines: string[] = [""];
  let room = width - HEAD_COLUMNS;
  if (room < 24) {
    lines.push("");
    room = width - INDENT.length;
  }
  for (const word of text.split(" ")) {
    const line = lines.at(-1)!;
    if (line !== "" && line.length + 1 + word.length > room) {
      lines.push(word);
      room = width - INDENT.length;
    } else lines[lines.length - 1] = line === "" ? word : `${line} ${word}`;
  }
  return lines.join(`\n${INDENT}`);
}

const HEAD_COLUMNS = 55;
const INDENT = " ".repeat(6);

/** A sign, and its colour (SGR): red, green, yellow. */
const MARKS = { denied: ["-", 31], granted: ["+", 32], limited: ["~", 33] } as const;

function mark(context: Context, verdict: keyof typeof MARKS): string {
  const [sign, color] = MARKS[verdict];
  return context.style(color, sign);
}

function variables(context: Context): Variables {
  return { project: context.cwd, home: process.env.HOME ?? "/" };
}

export function checkPolicy(context: Context, file: string): number {
  const path = context.resolve(file);
  if (!existsSync(path)) throw new IpcError("NOT_FOUND", `policy check: ${path} is not there`);
  parsePolicy(readFileSync(path, "utf8"), file);
  compilePlan(loadPolicy(path, variables(context)), thisMachine(), { scratch: "/", program: [], cwd: context.cwd }); // and this machine can enforce it
  context.print(context.isJson ? JSON.stringify({ ok: true }) : `${file} is a policy that this machine can enforce`);
  return 0;
}
