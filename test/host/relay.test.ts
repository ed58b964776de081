/** What a listener holds of the daemon, and of those that ask, whoever ends meanwhile; with a daemon that is none. */
import { heapStats } from "bun:jsc";
import { expect, test } from "bun:test";
import { LIMITS } from "../../contract/limits.ts";
import { IpcError } from "../../src/base/errors.ts";
import { Relay } from "../../src/listener/relay.ts";
import type { Connection } from "../../src/sdk/connection.ts";
import { waitUntil } from "../deadline.ts";

type Message = { readonly HostAsk?: { readonly again?: boolean }; readonly HostListen?: unknown };

/** A daemon, as a listener sees it. */
class Daemon {
  readonly asked: Message[] = [];
  readonly open = new Set<Connection>();
  answer: (message: Message) => unknown = () => ({ Data: { data: { answer: "" } } });
  readonly #ends = new Map<Connection, () => void>();

  readonly connect = (): Promise<Connection> => {
    const { open } = this;
    const one = {
      get isOpen() {
        return open.has(one);
      },
      request: async (message: Message) => {
        if (!open.has(one)) throw new IpcError("CONNECTION_LOST", "the daemon has ended");
        this.asked.push(message);
        return await this.answer(message);
      },
      onEvents: (_: unknown, onClose: () => void) => void this.#ends.set(one, onClose),
      close: () => void open.delete(one),
      [Symbol.dispose]: () => void open.delete(one),
    } as unknown as Connection;
    open.add(one);
    return Promise.resolve(one);
  };

  end(): void {
    const ended = [...this.open];
    this.open.clear();
    for (const one of ended) this.#ends.get(one)?.();
  }
}

const PORT = 4000;
const NEVER = new AbortController().signal;
const send = (relay: Relay, token: string): Promise<{ readonly status: number }> => {
  const headers = { authorization: `Bearer ${token}`, "content-type": "application/json", host: `127.0.0.1:${PORT}` };
  const body = Buffer.from(JSON.stringify({ id: "1", method: "a.b", params: {} }));
  return relay.answer({ method: "POST", target: "/call", headers }, () => Promise.resolve(body), NEVER);
};
const tokenOf = (number: number): string => number.toString(16).padStart(64, "0");

test("a daemon that takes no listener is asked again, and no connection to it is left", async () => {
  const daemon = new Daemon();
  using _ = await Relay.open(daemon.connect, PORT);
  let count = 0;
  daemon.answer = () => {
    if (++count < 3) throw new IpcError("BAD_REQUEST", "HostListen: no such verb");
    return {};
  };
  daemon.end();
  await waitUntil(() => count === 3 && daemon.open.size === 1, "the third one takes it");
});

test("a listener that ends while it registers has no connection left", async () => {
  const daemon = new Daemon();
  const relay = await Relay.open(daemon.connect, PORT);
  const late = Promise.withResolvers<object>();
  daemon.answer = () => late.promise;
  daemon.end();
  await waitUntil(() => daemon.asked.length === 2, "it registers again");
  relay[Symbol.dispose]();
  late.resolve({});
  await waitUntil(() => daemon.open.size === 0, "its connection is closed");
});

test("what was never sent to a daemon that has ended is asked of the next one as for the first time", async () => {
  const daemon = new Daemon();
  using relay = await Relay.open(daemon.connect, PORT);
  await Promise.all([1, 2, 3].map((one) => send(relay, tokenOf(one))));
  daemon.end();
  daemon.asked.length = 0;
  await send(relay, tokenOf(1));
  const asks = daemon.asked.flatMap(({ HostAsk }) => HostAsk ?? []);
  expect(asks.map(({ again = false }) => again)).toEqual([false]);
});

test("whoever is refused because too many ask leaves nothing behind", async () => {
  const daemon = new Daemon();
  using relay = await Relay.open(daemon.connect, PORT);
  const held = Promise.withResolvers<object>();
  daemon.answer = () => held.promise;
  const most = LIMITS.connections.value / 2;
  const first = Array.from({ length: most }, (_, at) => send(relay, tokenOf(at)));
  await waitUntil(() => daemon.asked.length === 1 + most, "as many as may ask");
  const flood = async (from: number): Promise<number> => {
    for (let at = from; at < from + 2000; at++) expect((await send(relay, tokenOf(1000 + at))).status).toBe(429);
    Bun.gc(true);
    return heapStats().objectTypeCounts.Array!;
  };
  const before = await flood(0);
  expect((await flood(2000)) - before).toBeLessThan(1000);
  held.resolve({ Data: { data: { answer: "" } } });
  await Promise.all(first);
});
