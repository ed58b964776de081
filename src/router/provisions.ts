/**
 * Tools that programs provide themselves, without a plugin: each for the workers that its program owns, or for those of
 * some tool groups. Such a program serves a channel that it has handed to this router, after the daemon has announced
 * it; with the channel its tools are gone. For those workers they may stand in the place of a plugin of this router.
 */
import { z } from "zod";
import { IpcError } from "../base/errors.ts";
import { limit } from "../base/limits.ts";
import { atMost } from "../base/patience.ts";
import { ChannelTransport } from "../calls/channel-transport.ts";
import type { CallClient } from "../calls/client.ts";
import { hostTool, type HostTool } from "../host/host-tools.ts";
import { foldName } from "../host/manifest.ts";
import type { Call, Session } from "../host/pipeline.ts";
import { Refusal } from "../host/wire.ts";
import { Channel } from "../plane/channel.ts";
import type { OpenSegment } from "../plane/meet.ts";
import { dispatch, Gone, news, openClient, provided, type Plugin } from "./plugin-link.ts";

/** How long what was provided to the router before is waited for. Its program notices that end at once. */
const RETURN_MS = 10_000;
/** How long a program may take to hand over the channel that was announced. */
const OFFERED_MS = 60_000;
/** How long it may take to hear that its tools are there. */
const TELL_MS = 10_000;

const offer = provided.extend({
  /** The process whose workers may call it; null if groups say who may. */
  owner: z.int().nullable(),
  groups: z.array(z.string()),
});
type Offer = z.infer<typeof offer>;

/** What says of a worker what is provided for it. */
type Audience = Pick<Session, "owner" | "group">;

export class Provisions {
  readonly #save: (offers: readonly Offer[]) => void;
  readonly #all = new Set<Provision>();
  readonly #offered = new Map<string, Offer>();

  /** @param save keeps what is provided now, for the next router */
  constructor(save: (offers: readonly Offer[]) => void) {
    this.#save = save;
  }

  /** What was provided to the router before: calls wait for it a little. */
  restore(saved: readonly unknown[]): void {
    for (const value of saved) {
      const { success, data } = offer.safeParse(value);
      if (!success) continue; // of another version
      const one = new Provision(data);
      this.#all.add(one);
      const giveUp = (): void => {
        if (!one.isOpen) this.#remove(one);
      };
      setTimeout(giveUp, RETURN_MS).unref();
    }
  }

  /**
   * The channel that comes under this label serves these tools.
   * @param isPlugin whether a plugin keeps everybody else from this name
   * @throws IpcError BAD_REQUEST; FAILED if others have the name; LIMIT
   */
  offer(label: string, value: unknown, isPlugin: (name: string) => boolean): void {
    const { success, data, error } = offer.safeParse(value);
    if (!success) throw new IpcError("BAD_REQUEST", `offer: ${error.issues[0]!.message}`);
    this.#requireFree(data, isPlugin);
    this.#offered.set(label, data);
    setTimeout(() => this.#offered.delete(label), OFFERED_MS).unref();
  }

  isOffered(label: string): boolean {
    return this.#offered.has(label);
  }

  /** Its channel has come. What cannot be provided any more is closed: its program asks again, and hears why. */
  async relay(label: string, segment: OpenSegment, isPlugin: (name: string) => boolean): Promise<void> {
    const data = this.#offered.get(label)!; // somebody has asked whether it is
    this.#offered.delete(label);
    let one: Provision | undefined;
    let isOver = false;
    const transport = await ChannelTransport.open((listener) => Channel.client(segment, listener));
    const client = await openClient(transport, data.name, () => {
      isOver = true;
      if (one !== undefined) this.#remove(one);
    });
    try {
      this.#requireFree(data, isPlugin);
    } catch {
      return client[Symbol.dispose]();
    }
    if (isOver) return;
    one = this.#like(data) ?? new Provision(data);
    one.attach(client);
    this.#all.add(one);
    this.#keep();
    // A program that is slow to hear it provides all the same.
    await client.call("provided", [], null, { timeout: TELL_MS }).catch(() => undefined);
  }

  /** What such a program may call. One that its own program provides comes before one of its group. */
  find(session: Session, name: string): HostTool | undefined {
    return this.#for(session).flatMap((one) => one.tools.find((tool) => tool.manifest.name === name) ?? [])[0];
  }

  has(of: Audience, plugin: string): boolean {
    return this.#for(of).some(({ offer: { name } }) => name === plugin);
  }

  all(session: Session): HostTool[] {
    const found = new Map<string, HostTool>();
    for (const one of this.#for(session))
      for (const tool of one.tools) if (!found.has(tool.manifest.name)) found.set(tool.manifest.name, tool);
    return [...found.values()];
  }

  /** When to call what is provided under this name. */
  skillOf(name: string, session: Session): string | undefined {
    return this.#for(session).find(({ offer: { name: one } }) => one === name)?.offer.skill ?? undefined;
  }

  /** Who carries it out; undefined for a tool of a plugin, which may have the same name. */
  providerOf(tool: HostTool): Plugin | undefined {
    for (const one of this.#all) if (one.offer.name === tool.plugin && one.tools.includes(tool)) return one;
    return undefined;
  }

  /** A plugin with a name that reads like this has come. */
  yield(name: string): void {
    for (const one of this.#all) if (foldName(one.offer.name) === foldName(name)) this.#remove(one);
  }

  #for({ owner, group }: Audience): Provision[] {
    if (this.#all.size === 0) return []; // as for most calls
    const all = [...this.#all];
    return [
      ...all.filter(({ offer: { owner: own } }) => own !== null && own === owner),
      ...all.filter(({ offer: { owner: own, groups } }) => own === null && groups.includes(group)),
    ];
  }

  /** What the same program provided to the router before. */
  #like(data: Offer): Provision | undefined {
    const text = JSON.stringify(data);
    return [...this.#all].find((one) => !one.isOpen && JSON.stringify(one.offer) === text);
  }

  #requireFree(data: Offer, isPlugin: (name: string) => boolean): void {
    const { name } = data;
    if (isPlugin(name))
      throw new IpcError("FAILED", `provide ${name}: a plugin has this name, or one that reads like it`);
    const others = [...this.#all].filter((one) => one !== this.#like(data));
    for (const { offer: other, isOpen } of others) {
      if (foldName(other.name) !== foldName(name)) continue;
      if (other.name !== name)
        throw new IpcError("FAILED", `provide ${name}: a program provides ${other.name}, which reads like it`);
      if (!isOpen || !isOverlapping(other, data)) continue;
      const whom = data.owner === null ? `the group ${data.groups.find((one) => other.groups.includes(one))}` : "it";
      throw new IpcError("FAILED", `provide ${name}: a program provides ${name} for ${whom} already`);
    }
    if (others.length >= limit("provisions"))
      throw new IpcError(
        "LIMIT",
        `provide ${name}: programs provide ${limit("provisions")} already, which is the most`,
      );
  }

  #remove(one: Provision): void {
    if (!this.#all.delete(one)) return;
    one.close();
    this.#keep();
  }

  #keep(): void {
    this.#save([...this.#all].map((one) => one.offer));
  }
}

function isOverlapping(one: Offer, other: Offer): boolean {
  return one.owner === other.owner && (one.owner !== null || one.groups.some((group) => other.groups.includes(group)));
}

/** What one program provides under one name. */
class Provision implements Plugin {
  readonly offer: Offer;
  readonly tools: readonly HostTool[];
  #client: CallClient | undefined;
  readonly #arrival = Promise.withResolvers<CallClient | undefined>();

  constructor(data: Offer) {
    this.offer = data;
    this.tools = data.tools.map((tool) => hostTool(data.name, tool));
  }

  get isOpen(): boolean {
    return this.#client?.isOpen === true;
  }

  get state(): string {
    return this.isOpen ? "ready" : "idle";
  }

  attach(client: CallClient): void {
    this.#client = client;
    this.#arrival.resolve(client);
  }

  close(): void {
    this.#arrival.resolve(undefined);
    this.#client?.[Symbol.dispose]();
  }

  async call(call: Call, begin: () => void): Promise<unknown> {
    const { name, tools } = this.offer;
    if (!call.tool!.manifest.idempotent) await news();
    const client = this.#client ?? (await atMost(RETURN_MS, this.#arrival.promise));
    if (client?.isOpen !== true)
      return new Refusal("PLUGIN_UNAVAILABLE", `the program that provides ${name} has ended`);
    if (call.isGivenUp) return new Refusal("CANCELLED", "the worker gave it up before it was carried out");
    const { idempotent, name: whole } = call.tool!.manifest; // a stage before has found it
    const timeoutMs = tools.find((tool) => `${name}.${tool.name}` === whole)!.timeout_s * 1000; // it is one of these
    begin();
    try {
      // Nobody can end a program of the user's: its signal tells it that nobody waits any more.
      return await dispatch(client, call, { plugin: name, timeoutMs, onLate: () => undefined });
    } catch (error) {
      if (!(error instanceof Gone)) throw error;
      const why = `the program that provides ${name} ended while it carried this out`;
      return new Refusal(idempotent && !call.isGivenUp ? "PLUGIN_UNAVAILABLE" : "UNKNOWN_OUTCOME", why);
    }
  }
}
