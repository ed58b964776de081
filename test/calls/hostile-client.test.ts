/**
 * A client that breaks the rules loses its own session only: an honest client of the same program is served meanwhile,
 * and no rejection is left unhandled, which would end the program.
 */
import { join } from "node:path";
import { duplexPair, type Duplex } from "node:stream";
import { setImmediate as turn } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { TO_CLIENT, TO_WORKER } from "../../contract/messages.ts";
import { limit } from "../../src/base/limits.ts";
import { frames, lines } from "../../src/calls/byte-transport.ts";
import { CallClient } from "../../src/calls/client.ts";
import { Frames } from "../../src/calls/frames.ts";
import { Lines } from "../../src/calls/lines.ts";
import { CallServer, callContext, type Exposed } from "../../src/calls/server.ts";
import { StreamRef } from "../../src/plane/values.ts";
import { waitUntil, within } from "../deadline.ts";

const UNREAD_BYTES_MAX = limit("unreadBytes");
const TRANSPORTS = { frames, lines } as const;

let closed = 0;
let running = 0;
const gate = { wait: Promise.resolve() };

const exposed = {
  add: (a: number, b: number) => a + b,
  echo: (value: unknown) => value,
  fail_later: async (message: string) => {
    await turn();
    throw new TypeError(message);
  },
  text_later: async (length: number) => {
    await gate.wait;
    return "x".repeat(length);
  },
  fail_behind: async (length: number) => {
    await gate.wait;
    throw new TypeError("x".repeat(length));
  },
  hold: async () => {
    running++;
    const { signal } = callContext();
    try {
      await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason as Error)));
    } finally {
      running--;
    }
  },
  endless: function* () {
    try {
      for (;;) yield 0;
    } finally {
      closed++;
    }
  },
  fails_as_stream: () => ({
    [Symbol.asyncIterator]: (): never => {
      throw new TypeError("no stream after all");
    },
  }),
  fails_as_stream_later: async () => {
    await turn();
    return exposed.fails_as_stream();
  },
  getter: () => ({
    get value(): never {
      throw new TypeError("of the getter");
    },
  }),
  trap: () =>
    new Proxy(
      {},
      {
        get: () => {
          throw new TypeError("of the proxy");
        },
        getPrototypeOf: () => {
          throw new TypeError("of the proxy");
        },
      },
    ),
  // oxlint-disable-next-line unicorn/no-thenable -- as the queries of many libraries are
  query: () => ({ then: (resolve: (rows: number) => void) => resolve(7) }),
  ignore: () => null,
  first: async (items: AsyncIterable<unknown>) => {
    for await (const item of items) return item;
    return null;
  },
} satisfies Exposed;

/** Speaks for itself, as no client of ours would. */
class Hostile {
  readonly server: CallServer;
  readonly #socket: Duplex;
  readonly #codec: Frames | Lines;
  readonly taken: (readonly unknown[])[] = [];
  over: Error | undefined;

  constructor(transport: keyof typeof TRANSPORTS) {
    const [ours, theirs] = duplexPair();
    this.#socket = ours;
    this.#codec = transport === "frames" ? new Frames() : new Lines();
    this.server = new CallServer(TRANSPORTS[transport](theirs, theirs), exposed);
    void this.server.closed.then((cause) => (this.over = cause));
    ours.on("error", () => undefined);
  }

  read(): void {
    this.#socket.on("data", (bytes: Uint8Array) => {
      this.#codec.push(bytes);
      for (let one = this.#codec.next(); one; one = this.#codec.next()) this.taken.push(one as readonly unknown[]);
    });
  }

  say(...message: unknown[]): void {
    this.write(this.#codec.encode(message as [number, number]));
  }

  write(bytes: Uint8Array | string): void {
    this.#socket.write(bytes);
  }

  async answer(number: number, ...kinds: number[]): Promise<readonly unknown[]> {
    const find = (): readonly unknown[] | undefined =>
      this.taken.find(([kind, of]) => of === number && (kinds.length === 0 || kinds.includes(kind as number)));
    await waitUntil(() => find() !== undefined || this.over !== undefined, `an answer to ${number}`);
    if (!find()) throw new Error(`no answer to ${number}: ${this.over?.message}`);
    return find()!;
  }

  closed(): Promise<Error> {
    return within(10_000, "the hostile client's session is over", this.server.closed);
  }
}

const GARBAGE: [what: string, message: unknown[], says: RegExp][] = [
  ["an unknown kind", [99, 1], /unknown kind of message: 99/],
  ["a kind that is no number", [{ toString: 1 }, 1], /unknown kind of message: object/],
  ["no kind", [null, 1], /unknown kind of message/],
  ["a number below 0", [TO_WORKER.cancel, -1], /integer from 0/],
  ["a number with a fraction", [TO_WORKER.cancel, 1.5], /integer from 0/],
  ["a number that is text", [TO_WORKER.cancel, "1"], /malformed message/],
  ["only a kind", [TO_WORKER.cancel], /malformed message/],
  ["a map", [{}], /malformed message/],
  ["a name to bind that is no text", [TO_WORKER.bind, 0, { toString: 1 }], /name/],
  ["a name to bind without an end", [TO_WORKER.bind, 0, "x".repeat(100_000)], /name/],
  ["a name to unbind that is no text", [TO_WORKER.unbind, 0, 7], /name/],
];

for (const transport of Object.keys(TRANSPORTS) as (keyof typeof TRANSPORTS)[])
  describe(`over ${transport}`, () => {
    let other: CallServer;
    let honest: CallClient;
    let hostile: Hostile;
    const unheard: unknown[] = [];
    const hear = (error: unknown): void => void unheard.push(error);

    beforeEach(async () => {
      process.on("unhandledRejection", hear).on("uncaughtException", hear);
      const [ours, theirs] = duplexPair();
      other = new CallServer(TRANSPORTS[transport](theirs, theirs), exposed);
      honest = new CallClient(TRANSPORTS[transport](ours, ours), { name: "served" });
      await honest.hello;
      hostile = new Hostile(transport);
    });

    /** Whatever was done to the server before. */
    afterEach(async () => {
      expect(await within(30_000, "an honest client's answer", honest.call("add", [2, 3]))).toBe(5);
      for (let at = 0; at < 3; at++) await turn();
      honest[Symbol.dispose]();
      await other.closed;
      hostile.server[Symbol.dispose]();
      process.off("unhandledRejection", hear).off("uncaughtException", hear);
      expect(unheard.splice(0)).toEqual([]);
    });

    for (const [what, message, says] of GARBAGE)
      test(`${what} ends the session`, async () => {
        hostile.say(...message);
        expect((await hostile.closed()).message).toMatch(says);
      });

    for (const credit of [0, -1, 1.5, 2 ** 21, 2 ** 53, "1", null, undefined].filter(
      (one) => transport === "frames" || (one !== undefined && one !== 2 ** 53),
    ))
      test(`a credit of ${JSON.stringify(credit)} ends the session`, async () => {
        hostile.read();
        hostile.say(TO_WORKER.call, 1, "endless", [], null);
        await hostile.answer(1, TO_CLIENT.stream);
        hostile.say(TO_WORKER.credit, 1, credit);
        expect((await hostile.closed()).message).toMatch(/credit/);
      });

    test("a function has no name of a prototype's", async () => {
      hostile.read();
      const names = ["toString", "constructor", "__proto__", "hasOwnProperty", "valueOf", ""];
      for (const [at, name] of names.entries()) hostile.say(TO_WORKER.call, at + 1, name, [], null);
      for (const [at] of names.entries())
        expect(await hostile.answer(at + 1)).toEqual([
          TO_CLIENT.error,
          at + 1,
          expect.objectContaining({ type: "IpcError" }),
        ]);
    });

    for (const [what, again] of [
      ["a call", [TO_WORKER.call, 1, "add", [1, 2], null]],
      ["code", [TO_WORKER.eval, 1, "1", {}]],
    ] as const)
      for (const first of ["hold", "endless"])
        test(`the number of a request under way, again for ${what}, ends the session: ${first}`, async () => {
          hostile.read();
          const before = closed;
          hostile.say(TO_WORKER.call, 1, first, [], null);
          if (first === "hold") await waitUntil(() => running === 1, "the function runs");
          else await hostile.answer(1, TO_CLIENT.stream);
          hostile.say(...again);
          expect((await hostile.closed()).message).toMatch(/request 1 is in progress already/);
          if (first === "hold") await waitUntil(() => running === 0, "the function was told");
          else await waitUntil(() => closed === before, "a generator that has not begun is just dropped");
        });

    test("what fails only when it is to become a stream, or to be sent, is the error of the call", async () => {
      hostile.read();
      for (const [at, name] of ["fails_as_stream", "fails_as_stream_later", "getter", "trap"].entries()) {
        hostile.say(TO_WORKER.call, at + 1, name, [], null);
        expect(await hostile.answer(at + 1)).toEqual([
          TO_CLIENT.error,
          at + 1,
          expect.objectContaining({ type: "TypeError" }),
        ]);
      }
    });

    test("what can be waited for is waited for, also if it is no promise", async () => {
      expect(await honest.call("query", [])).toBe(7);
    });

    test("answers that are not read end the session, also where the last one is an error", async () => {
      const open = Promise.withResolvers<void>();
      gate.wait = open.promise;
      const length = 1 << 22;
      const count = UNREAD_BYTES_MAX / length + 2;
      for (let at = 0; at < count; at++) hostile.say(TO_WORKER.call, at + 1, "text_later", [length], null);
      for (let at = 0; at < 4; at++) hostile.say(TO_WORKER.call, count + at + 1, "fail_behind", [length], null);
      for (let at = 0; at < 3; at++) await turn();
      open.resolve();
      expect((await hostile.closed()).message).toMatch(/unread/);
    });

    test("errors that are not read end the session", async () => {
      const length = 1 << 21;
      const text = "x".repeat(length);
      for (let at = 0; at < (2 * UNREAD_BYTES_MAX) / length; at++)
        hostile.say(TO_WORKER.call, at + 1, "fail_later", [text], null);
      expect((await hostile.closed()).message).toMatch(/unread/);
    });

    test("a stream with much credit leaves others their turn, and can be left", async () => {
      const before = closed;
      hostile.read();
      hostile.say(TO_WORKER.call, 1, "endless", [], null);
      await hostile.answer(1, TO_CLIENT.stream);
      for (let at = 0; at < 16; at++) hostile.say(TO_WORKER.credit, 1, 1 << 20);
      await hostile.answer(1, TO_CLIENT.item);
      expect(await honest.call("add", [2, 3])).toBe(5);
      hostile.say(TO_WORKER.cancel, 1);
      await hostile.answer(1, TO_CLIENT.end);
      expect(closed).toBe(before + 1);
      expect(hostile.taken.length).toBeLessThan(1 << 20);
    });

    test("items that nobody asked for end the session", async () => {
      hostile.read();
      hostile.say(TO_WORKER.call, 1, "ignore", [new StreamRef(1)], null);
      hostile.say(TO_WORKER.push, 1, 0);
      expect((await hostile.closed()).message).toMatch(/more items of a stream than were requested/);
    });

    test("a stream that is there twice ends the session", async () => {
      hostile.say(TO_WORKER.call, 1, "first", [new StreamRef(1), new StreamRef(1)], null);
      expect((await hostile.closed()).message).toMatch(/stream 1 of the client/);
    });

    test("answers, items and ends of what is not there are nothing", async () => {
      hostile.read();
      for (const kind of ["cancel", "return", "throw", "push", "close", "fail", "forget", "credit"] as const)
        hostile.say(TO_WORKER[kind], 77, 1);
      hostile.say(TO_WORKER.call, 1, "add", [1, 2], null);
      expect(await hostile.answer(1)).toEqual([TO_CLIENT.result, 1, 3]);
    });
  });

test("functions that are lent without an end end the session", async () => {
  const hostile = new Hostile("frames");
  for (let at = 0; at <= limit("requests"); at++) hostile.say(TO_WORKER.bind, 0, `f${at}`);
  expect((await hostile.closed()).message).toMatch(/functions are lent/);
});

/** What is no message at all. */
const deep = (open: string, close: string, levels: number): string => open.repeat(levels) + "1" + close.repeat(levels);
const NO_LINES: [what: string, bytes: Uint8Array | string, says: RegExp][] = [
  ["an empty line", "\n", /not JSON/],
  ["no JSON", "hello\n", /a line that is not JSON: "hello"/],
  ["no UTF-8", Uint8Array.of(0x22, 0xff, 0x22, 10), /not JSON/],
  ["no message", '{"toString":1}\n', /malformed message/],
  ["an argument too deep", `[1,1,"echo",${deep("[", "]", 200)},null]\n`, /more than 128 levels/],
  ["an object too deep", `[1,1,"echo",[${deep('{"a":', "}", 200)}],null]\n`, /more than 128 levels/],
  ["an argument without an end", `[1,1,"echo",${deep("[", "]", 1_000_000)},null]\n`, /levels|not JSON/],
];
for (const [what, bytes, says] of NO_LINES)
  test(`a line with ${what} ends the session`, async () => {
    const hostile = new Hostile("lines");
    hostile.write(bytes);
    expect((await hostile.closed()).message).toMatch(says);
  });

const frame = (hex: string): Uint8Array => {
  const body = Buffer.from(hex, "hex");
  const head = Buffer.alloc(4);
  head.writeUInt32LE(body.length);
  return Buffer.concat([head, body]);
};
const NO_FRAMES: [what: string, bytes: Uint8Array, says: RegExp][] = [
  ["nothing", frame(""), /malformed message/],
  ["a length beyond the limit", Uint8Array.of(1, 0, 0, 16), /a message of more than/],
  ["the largest length", Uint8Array.of(255, 255, 255, 255), /a message of more than/],
  ["a reserved byte", frame("ff"), /malformed message/],
  ["something behind the message", frame("82030100"), /after the value/],
  ["a length larger than the frame", frame("9bffffffffffffffff"), /malformed message/],
  ["arrays without an end", frame("81".repeat(1_000_000)), /more than 128 levels/],
  ["sets without an end", frame("d90102".repeat(1_000_000)), /tag 258 on something other/],
  ["a stream that is none", frame("8501016465636f6881d81b826d69706363746c2e53747265616d6161f6"), /malformed message/],
  ["shared memory", frame("8301016765"), /malformed message/],
];
for (const [what, bytes, says] of NO_FRAMES)
  test(`a frame with ${what} ends the session`, async () => {
    const hostile = new Hostile("frames");
    hostile.write(bytes);
    expect((await hostile.closed()).message).toMatch(says);
  });

test("a line without an end ends the session before it is put together", async () => {
  const hostile = new Hostile("lines");
  const piece = Buffer.alloc(1 << 24, "x");
  for (let at = 0; at <= limit("messageBytes") / piece.length; at++) hostile.write(piece);
  expect((await hostile.closed()).message).toMatch(/a line of more than/);
});

/** What follows the number in a request that is not one. */
const MALFORMED: [what: string, kind: number, fields: unknown[]][] = [
  ["a call without a name", TO_WORKER.call, []],
  ["a call of a number", TO_WORKER.call, [2, [], null]],
  ["a call with arguments that are a map", TO_WORKER.call, ["add", { 0: 1 }, null]],
  ["a call with arguments that are text", TO_WORKER.call, ["named", "ab", null]],
  ["a call with arguments that are text, and streams", TO_WORKER.call, ["named", "ab", null, []]],
  ["a call with keywords that are a list", TO_WORKER.call, ["named", [1], [2]]],
  ["a call with keywords that are text", TO_WORKER.call, ["named", [1], "ab"]],
  ["a call without keywords", TO_WORKER.call, ["nothing", []]],
  ["a call with one field too many", TO_WORKER.call, ["nothing", [], null, null]],
  ["a call with two fields too many", TO_WORKER.call, ["nothing", [], null, [], null]],
  ["a call with a stream that is not an argument", TO_WORKER.call, ["first", [], null, [[0, 1]]]],
  ["a call with a stream in a place of prototypes", TO_WORKER.call, ["first", [null], null, [["length", 1]]]],
  ["a call with streams that are numbers", TO_WORKER.call, ["first", [null], null, [3]]],
  ["an evaluation without code", TO_WORKER.eval, []],
  ["an evaluation of a number", TO_WORKER.eval, [1, {}]],
  ["an evaluation whose options are text", TO_WORKER.eval, ["1", "exec"]],
];
const SERVERS = { TypeScript: {}, "Python in C": { IPCCTL_PURE: "0" }, "pure Python": { IPCCTL_PURE: "1" } } as const;
for (const [server, env] of Object.entries(SERVERS))
  for (const transport of Object.keys(TRANSPORTS) as (keyof typeof TRANSPORTS)[])
    test(`${server} over ${transport}: what is not a request is an error of that request`, async () => {
      const peer = server === "TypeScript" ? [process.execPath, "--no-env-file", "peer.ts"] : ["python3", "peer.py"];
      const served = Bun.spawn([...peer, "serve", transport], {
        ...{ cwd: import.meta.dir, stdin: "pipe", stdout: "pipe", stderr: "inherit" },
        env: { ...process.env, ...env },
      });
      const codec = transport === "frames" ? new Frames() : new Lines();
      const answers: (readonly unknown[])[] = [];
      const read = async (): Promise<void> => {
        for await (const bytes of served.stdout) {
          codec.push(bytes);
          for (let one = codec.next(); one; one = codec.next()) answers.push(one as readonly unknown[]);
          if (answers.length > MALFORMED.length + 1) return; // hello, and all answers
        }
      };
      try {
        for (const [at, [, kind, fields]] of MALFORMED.entries())
          void served.stdin.write(codec.encode([kind, at + 1, ...fields]).slice());
        void served.stdin.write(codec.encode([TO_WORKER.call, MALFORMED.length + 1, "add", [2, 3], null]).slice());
        await served.stdin.flush();
        await within(20_000, "all are answered", read());
        const told = MALFORMED.map(([what], at) => {
          const [kind, , error] = answers.find(([, number]) => number === at + 1)!;
          const { code, message } = error as { code: string; message: string };
          return [what, kind, code, message.split(":")[0]];
        });
        expect(told).toEqual(
          MALFORMED.map(([what, kind]) =>
            kind === TO_WORKER.eval && server === "TypeScript"
              ? [what, TO_CLIENT.error, "FAILED", "this worker does not evaluate code"]
              : [what, TO_CLIENT.error, "BAD_REQUEST", "malformed"],
          ),
        );
        expect(answers.at(-1)).toEqual([TO_CLIENT.result, MALFORMED.length + 1, 5]);
      } finally {
        served.kill("SIGKILL");
      }
    });

/** What ends a session of a server in Python, and with it the process, which serves nobody else. */
const call = (number: number, name: string, args: unknown[]): unknown[] => [TO_WORKER.call, number, name, args, null];
const RULES_OF_PYTHON: [what: string, messages: unknown[][]][] = [
  ["a number used twice by async functions", [call(1, "sleep_later", [60]), call(1, "sleep_later", [60])]],
  ["a number used twice by streams", [call(1, "count_for_ever", []), call(1, "count_for_ever", [])]],
  ["a stream that is there twice", [call(1, "first", [new StreamRef(5), new StreamRef(5)])]],
];
const TO_PYTHON: [string, string, Uint8Array | string][] = [
  ...RULES_OF_PYTHON.map(([what, messages]): [string, string, Uint8Array] => ["frames", what, framed(messages)]),
  ["frames", "sets without an end", frame("d90102".repeat(1_000_000))],
  ["lines", "an argument too deep", `[1,1,"echo",${deep("[", "]", 200)},null]\n`],
];
function framed(messages: unknown[][]): Uint8Array {
  const codec = new Frames();
  return Buffer.concat(messages.map((one) => codec.encode(one as [number, number])));
}
for (const pure of ["0", "1"])
  for (const [transport, what, bytes] of TO_PYTHON)
    test(`Python, ${pure === "1" ? "pure" : "in C"}, over ${transport}: ${what} ends the session`, async () => {
      const env = { ...process.env, IPCCTL_PURE: pure };
      const served = Bun.spawn(["python3", join(import.meta.dir, "peer.py"), "serve", transport], {
        stdin: "pipe",
        stdout: "ignore",
        stderr: "pipe",
        env,
      });
      try {
        void served.stdin.write(bytes);
        await served.stdin.flush();
        await within(10_000, "the server has ended", served.exited);
        expect(await new Response(served.stderr).text()).not.toContain("Traceback");
        expect(served.exitCode).toBe(0);
      } finally {
        served.kill("SIGKILL");
      }
    });
