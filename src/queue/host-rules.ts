/** The rules of `host.json`, by the topics of events. */
import type { HostConfig, Rule } from "../host/host-config.ts";
import { TopicPattern } from "../base/topics.ts";

export class HostRules {
  readonly #rules: readonly (readonly [TopicPattern, Rule])[];
  /** The name of the rule that a prompt is for. */
  readonly prompt: string | null;

  constructor({ rules, prompt }: Pick<HostConfig, "rules" | "prompt">) {
    this.#rules = rules.map((rule) => [new TopicPattern(rule.on), rule]);
    this.prompt = prompt ?? null;
  }

  /** In the order of the file. */
  match(topic: string): Rule[] {
    return this.#rules.filter(([pattern]) => pattern.matches(topic)).map(([, rule]) => rule);
  }

  find(name: string): Rule | undefined {
    return this.#rules.find(([, rule]) => rule.name === name)?.[1];
  }

  get names(): string[] {
    return this.#rules.map(([, { name }]) => name);
  }
}
