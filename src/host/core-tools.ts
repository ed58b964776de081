/** Tools that every session has, answered by the host itself. They tell a worker nothing but what is about itself. */
import type { Rate } from "./buckets.ts";
import { CORE, hostTool, type HostTool, type ToolManifest } from "./host-tools.ts";

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
  readonly calls: number;
  readonly under_way: number;
  /** By codes. */
  readonly refused: Readonly<Record<string, number>>;
};

const ANSWERS: Readonly<Record<string, readonly [description: string, answer: (facts: SessionFacts) => unknown]>> = {
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
  Object.entries(ANSWERS).map(([name, [description]]) => {
    const tool = hostTool(CORE, {
      ...{ name, description, risk_level: "low", idempotent: true },
      arguments_schema: { type: "object", properties: {}, additionalProperties: false },
    });
    return [tool.manifest.name, tool];
  }),
);

export function runCore(tool: HostTool, facts: SessionFacts): unknown {
  return ANSWERS[tool.manifest.name.slice(CORE.length + 1)]![1](facts); // it is one of these
}
