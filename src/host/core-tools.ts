/** Tools that every session has, answered by the host itself. They tell a worker nothing but what is about itself. */
import { ENGINE_START } from "../../contract/engine.ts";
import { EXPLAIN_RUNTIME, INTERRUPT_RUNTIME, START_RUNTIME } from "../../contract/host.ts";
import { limit } from "../base/limits.ts";
import type { Rate } from "./buckets.ts";
import { CORE, hostTool, type HostTool, type ToolManifest } from "./host-tools.ts";
import type { JsonObject } from "./wire.ts";

export type SessionFacts = {
  readonly worker: string;
  readonly session: string;
  readonly group: string;
  readonly opened_at: string;
  /** Those that are granted. */
  readonly tools: readonly (ToolManifest & {
    readonly plugin: string;
    readonly rate: Rate | undefined;
    readonly state: string;
  })[];
  /** When to call the tools of a plugin. */
  readonly skillOf: (plugin: string) => string | undefined;
  readonly calls: number;
  readonly under_way: number;
  /** By codes. */
  readonly refused: Readonly<Record<string, number>>;
};

type Answer = readonly [
  description: string,
  answer: (facts: SessionFacts, args: { readonly after?: string }) => unknown,
  properties?: Readonly<Record<string, object>>,
];

/** So that an answer of skill texts fits, whatever JSON makes of them. */
const SKILLS_CHARS = limit("hostMessageBytes") / 12;

const ANSWERS: Readonly<Record<string, Answer>> = {
  get_diagnostics: [
    "Your tools' plugins and their state, and how many calls you have made, have under way, and were refused, by code.",
    ({ tools, calls, under_way, refused }) => ({
      plugins: Object.fromEntries(tools.map(({ plugin, state }) => [plugin, state])),
      ...{ calls, under_way, refused },
    }),
  ],
  list_tools: [
    "The tools that you may call and the schemas of their arguments. One of high risk waits for a person's yes.",
    ({ tools }) => ({
      tools: tools.map(({ name, description, risk_level, idempotent, arguments_schema }) => ({
        ...{ name, description, risk_level, idempotent, arguments_schema },
      })),
    }),
  ],
  get_skills: [
    "Of each plugin whose tools you may call the text that says when to call which. If `next` is not null, there are more: `after` it.",
    ({ tools, skillOf }, { after = "" }) => {
      const skills: Record<string, string> = {};
      let chars = 0;
      for (const plugin of [...new Set(tools.map((tool) => tool.plugin))].toSorted()) {
        const text = plugin > after ? skillOf(plugin) : undefined;
        if (text === undefined) continue;
        if (chars > SKILLS_CHARS) return { skills, next: Object.keys(skills).at(-1) };
        skills[plugin] = text;
        chars += text.length;
      }
      return { skills, next: null };
    },
    { after: { type: "string" } },
  ],
  get_session_info: [
    "Who you are to the host: your worker's name, session and group, and how often you may call which tool.",
    ({ worker, session, group, opened_at, tools }) => ({
      ...{ worker, session, group, opened_at },
      rates: Object.fromEntries(
        tools.flatMap(({ name, rate }) =>
          rate === undefined ? [] : [[name, { calls: rate.calls, seconds: rate.periodMs / 1000 }]],
        ),
      ),
    }),
  ],
};

export const CORE_TOOLS: ReadonlyMap<string, HostTool> = new Map(
  Object.entries(ANSWERS).map(([name, [description, , properties = {}]]) => {
    const tool = hostTool(CORE, {
      ...{ name, description, risk_level: "low", idempotent: true },
      arguments_schema: { type: "object", properties, additionalProperties: false },
    });
    return [tool.manifest.name, tool];
  }),
);

const NAMES_MAX = limit("policyHosts");

const NAMED = {
  ...{ type: "object", additionalProperties: false, required: ["name"] },
  properties: { name: { type: "string" } },
};

/** For a worker whose policy grants runtimes of JavaScript: the package asks, and the daemon carries it out. */
export const RUNTIME_TOOLS: ReadonlyMap<string, HostTool> = new Map(
  [
    {
      ...{ name: START_RUNTIME, description: "A runtime of JavaScript, by a channel that is handed to the package." },
      arguments_schema: {
        ...{ type: "object", additionalProperties: false },
        properties: {
          engine: { enum: ["bun", "v8"] },
          max_memory: { type: "integer", minimum: 1 },
          max_cpu: { type: "number", exclusiveMinimum: 0 },
          allow_net: { type: "array", maxItems: NAMES_MAX, items: { type: "string" } },
          allow_read: { type: "array", maxItems: NAMES_MAX, items: { type: "string" } },
          env: {
            ...{ type: "object", additionalProperties: false },
            properties: Object.fromEntries(ENGINE_START.passed.map((name) => [name, { type: "string" }])),
          },
        },
      },
    },
    {
      ...{ name: INTERRUPT_RUNTIME, description: "Ends what code of a runtime computes." },
      arguments_schema: NAMED,
    },
    {
      ...{ name: EXPLAIN_RUNTIME, description: "Why a runtime was ended, if that was for a limit of its worker." },
      arguments_schema: NAMED,
    },
  ].map(({ name, ...manifest }) => {
    const whole = { ...manifest, name: name.slice(CORE.length + 1), risk_level: "low", idempotent: true } as const;
    return [name, hostTool(CORE, whole)];
  }),
);

export function runCore(tool: HostTool, facts: SessionFacts, args: JsonObject): unknown {
  return ANSWERS[tool.manifest.name.slice(CORE.length + 1)]![1](facts, args); // it is one of these
}
