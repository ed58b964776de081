/** The rules of `host.json`, which stands beside config.json: which events start which script. Data, never code. */
import { statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { z } from "zod";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { findWorkerId } from "../base/names.ts";
import { readConfigJson } from "../protocol/json-keys.ts";
import { toGroup } from "../stores/database.ts";
import { TopicPattern } from "./topics.ts";

/** What a session knows of those before it: nothing; what its group has said; the one that the event names. */
export const MODES = ["fresh", "resume", "explicit"] as const;

/** Turns what a parser of ours throws into an issue with a place. */
const checked = (check: (text: string) => unknown) =>
  z.string().superRefine((text, context) => {
    try {
      check(text);
    } catch (error) {
      context.addIssue({ code: "custom", message: (error as Error).message });
    }
  });

const ruleShape = z.strictObject({
  name: z.string().refine((text) => findWorkerId(text) === text, "use a to z, digits, '.', '_' and '-'"),
  on: checked((text) => new TopicPattern(text)),
  start: z.strictObject({
    script: z.string().min(1),
    policy: z.string().min(1).nullable().default(null),
    group: checked(toGroup).nullable().default(null),
    mode: z.enum(MODES).default("fresh"),
  }),
  max: z.int().min(1).max(limit("ruleSessions")).default(1),
  queue: z.int().min(1).max(limit("eventsWaiting")).default(limit("eventsWaiting")),
});

/** Other fields of the file are for others. */
const fileShape = z.looseObject({
  rules: z.array(ruleShape).max(limit("rules")).default([]),
  prompt: z.string().nullable().default(null),
});

export type Rule = {
  readonly name: string;
  readonly on: string;
  readonly start: {
    /** An absolute path. */
    readonly script: string;
    /** Null for what its script gets otherwise. */
    readonly policy: string | null;
    readonly group: string;
    readonly mode: (typeof MODES)[number];
  };
  /** It starts a session only where fewer than so many of its group run. */
  readonly max: number;
  /** So many of its events may wait. */
  readonly queue: number;
};

export class HostRules {
  readonly #rules: readonly (readonly [TopicPattern, Rule])[];
  /** The name of the rule that a prompt is for. */
  readonly prompt: string | null;

  private constructor(rules: readonly Rule[], prompt: string | null) {
    this.#rules = rules.map((rule) => [new TopicPattern(rule.on), rule]);
    this.prompt = prompt;
  }

  /** Without a file there are none. @throws IpcError BAD_CONFIG naming file, place and value */
  static read(path: string): HostRules {
    if (statSync(path, { throwIfNoEntry: false }) === undefined) return new HostRules([], null);
    return HostRules.#check(
      path,
      readConfigJson(path, (why) => new IpcError("BAD_CONFIG", `${path}: ${why}`)),
    );
  }

  /** In the order of the file. */
  match(topic: string): Rule[] {
    return this.#rules.filter(([pattern]) => pattern.matches(topic)).map(([, rule]) => rule);
  }

  find(name: string): Rule | undefined {
    return this.#rules.find(([, rule]) => rule.name === name)?.[1];
  }

  static #check(path: string, value: unknown): HostRules {
    const result = fileShape.safeParse(value);
    if (!result.success) {
      const { path: place, message } = result.error.issues[0]!;
      throw wrong(path, place, value, message);
    }
    const { rules, prompt } = result.data;
    const names = rules.map(({ name }) => name);
    const twice = names.findIndex((name, at) => names.indexOf(name) !== at);
    if (twice >= 0) throw wrong(path, ["rules", twice, "name"], value, "another rule has this name");
    if (prompt !== null && !names.includes(prompt)) throw wrong(path, ["prompt"], value, "no rule has this name");
    const folder = dirname(resolve(path));
    return new HostRules(
      rules.map(({ start, ...rule }) => ({
        ...rule,
        start: { ...start, script: resolve(folder, start.script), group: toGroup(start.group ?? rule.name) },
      })),
      prompt,
    );
  }
}

/** `host.json: rules[1].max: 0: …` */
function wrong(file: string, place: readonly PropertyKey[], whole: unknown, why: string): IpcError {
  const found = place.reduce<unknown>((at, key) => (at as Record<PropertyKey, unknown> | undefined)?.[key], whole);
  const where = place.map((key) => (typeof key === "number" ? `[${key}]` : `.${String(key)}`)).join("");
  const text = found === undefined ? "" : `${JSON.stringify(found).slice(0, 128)}: `;
  return new IpcError("BAD_CONFIG", `${file}: ${where === "" ? "" : `${where.slice(1)}: `}${text}${why}`);
}
