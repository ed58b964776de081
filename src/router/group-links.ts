/**
 * A plugin that reads the files of whoever asks: each group has a process of it of its own, under a policy that shows
 * those files and no others. One that nobody has asked anything for a while is ended.
 */
import { limit } from "../base/limits.ts";
import type { HostTool } from "../host/host-tools.ts";
import type { Call } from "../host/pipeline.ts";
import { Refusal } from "../host/wire.ts";
import type { LinkedPlugin, PluginLink } from "./plugin-link.ts";

/** For which a process of a group waits for the next call. */
const IDLE_MS = 300_000;

type Linked = { readonly link: PluginLink; running: number; timer: Timer | undefined };

export class GroupLinks implements LinkedPlugin {
  readonly tools: readonly HostTool[];
  readonly #open: (group: string) => PluginLink;
  readonly #end: (group: string) => void;
  /** The least recently used first. */
  readonly #linked = new Map<string, Linked>();
  #isHeld = false;

  /** @param end ends the process of a group, of which nothing is under way */
  constructor(tools: readonly HostTool[], open: (group: string) => PluginLink, end: (group: string) => void) {
    this.tools = tools;
    this.#open = open;
    this.#end = end;
  }

  get state(): string {
    return [...this.#linked.values()].some(({ link }) => link.state === "ready") ? "ready" : "idle";
  }

  linkOf(group: string | undefined): PluginLink | undefined {
    return group === undefined ? undefined : this.#linked.get(group)?.link;
  }

  async call(call: Call, begin: () => void): Promise<unknown> {
    const { group } = call;
    const one = this.#take(group);
    if (one === undefined)
      return new Refusal("RATE_LIMITED", `${limit("pluginGroups")} groups use the plugin at once`, { retryAfter: 1 });
    one.running++;
    clearTimeout(one.timer);
    try {
      return await one.link.call(call, begin);
    } finally {
      if (--one.running === 0) {
        one.timer = setTimeout(() => this.#drop(group, one), IDLE_MS);
        one.timer.unref();
      }
    }
  }

  #take(group: string): Linked | undefined {
    let one = this.#linked.get(group);
    this.#linked.delete(group);
    if (one === undefined) {
      if (this.#linked.size >= limit("pluginGroups") && !this.#dropIdle()) return undefined;
      one = { link: this.#open(group), running: 0, timer: undefined };
      if (this.#isHeld) void one.link.hold(0);
    }
    this.#linked.set(group, one);
    return one;
  }

  #dropIdle(): boolean {
    for (const [group, one] of this.#linked) if (one.running === 0) return this.#drop(group, one);
    return false;
  }

  #drop(group: string, one: Linked): true {
    clearTimeout(one.timer);
    if (this.#linked.get(group) === one) this.#linked.delete(group);
    one.link.close();
    this.#end(group);
    return true;
  }

  async hold(drainMs: number): Promise<void> {
    this.#isHeld = true;
    await Promise.all([...this.#linked.values()].map(({ link }) => link.hold(drainMs)));
  }

  release(): void {
    this.#isHeld = false;
    for (const { link } of this.#linked.values()) link.release();
  }

  close(): void {
    for (const { link, timer } of this.#linked.values()) {
      clearTimeout(timer);
      link.close();
    }
  }
}
