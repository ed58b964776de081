/**
 * The network of a worker under a host list, by native/fuzz/net_peer.c: the server that answers the worker's calls,
 * under sanitizers, and a filter. Names come from a hosts file and a name server of the test's.
 */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { auditRecord } from "../../src/audit/schema.ts";
import { fillDisk, mountDisk, unmountDisk } from "../disk.ts";
import { ROOT, waitUntil } from "../home.ts";
import { SYSTEM_PYTHON, canBeAnother, skipUnless } from "../needs.ts";

const ATTEMPTS = join(import.meta.dir, "net_attempts.py");
/**
 * Python itself: what a wrapper in PATH, a shell script often, asks of the network on its way would be counted as an
 * attempt's.
 */
const PYTHON = Bun.spawnSync(["python3", "-I", "-S", "-c", "import sys; print(sys.executable)"])
  .stdout.toString()
  .trim();
const NOBODY = 65_534;
const folder = mkdtempSync(join(tmpdir(), "ipcctl-net-"));
const binary = join(folder, "net-peer");
const audit = join(folder, "audit");
const fds = join(folder, "fds");
chmodSync(folder, 0o755);

type Server = { readonly port: number; readonly hits: () => number; readonly stop: () => void };
const servers: Server[] = [];

/** Says "pong" to everyone and counts them. */
function listen(hostname: string): Server {
  let hits = 0;
  const server = Bun.listen({
    hostname,
    port: 0,
    socket: {
      open(socket) {
        hits++;
        socket.end("pong");
      },
      data() {},
    },
  });
  const one = { port: server.port, hits: () => hits, stop: () => server.stop(true) };
  servers.push(one);
  return one;
}

const allowed = listen("127.0.0.1");
const forbidden = listen("127.0.0.1");
/** With version 6 off nobody listens there, and what is about it is left out. */
const hasSix = existsSync("/proc/net/if_inet6") && /^0{31}1 /m.test(readFileSync("/proc/net/if_inet6", "utf8"));
skipUnless(hasSix, "IPv6", "connections by IPv6");
const six = hasSix ? listen("::1") : { port: 1 };
const web = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response("pong") });
const unix = join(folder, "unix");
const unixServer = Bun.listen({ unix, socket: { data() {} } });

// ---- a name server ----

const ZONE: Record<string, { a?: string[]; aaaa?: string; alias?: string; isLarge?: boolean; hasNoAaaa?: boolean }> = {
  "good.test": { a: ["127.0.0.1"] },
  "alias.test": { alias: "good.test", a: ["127.0.0.1"] },
  "large.test": { a: ["127.0.0.1"], isLarge: true },
  "broken.test": { a: ["127.0.0.1"], hasNoAaaa: true },
  "dead.test": { a: ["127.0.0.2", "127.0.0.1"] },
  "mixed.test": { a: ["169.254.169.254", "127.0.0.1"] },
  "rebind.test": { a: ["127.0.0.1"] },
  "mapped.test": { aaaa: "00000000000000000000ffff7f000001" },
  "nat.test": { aaaa: "0064ff9b0000000000000000a9fea9fe" },
  "metadata.test": { a: ["169.254.169.254"] },
  "slow.test": { a: ["127.0.0.1"] },
  "six.test": { aaaa: "00000000000000000000000000000001" },
  "deep.wild.test": { a: ["127.0.0.1"] },
};
const asked: string[] = [];
/** What is not answered yet. */
let held: { readonly name: string; readonly until: Promise<void> } | undefined;

function encodeName(name: string): Buffer {
  const labels = name.split(".").map((label) => Buffer.from([label.length, ...Buffer.from(label)]));
  return Buffer.concat([...labels, Buffer.from([0])]);
}

function encodeRecord(owner: Buffer, type: number, data: Buffer): Buffer {
  const head = Buffer.alloc(10);
  head.writeUInt16BE(type, 0);
  head.writeUInt16BE(1, 2);
  head.writeUInt32BE(60, 4);
  head.writeUInt16BE(data.length, 8);
  return Buffer.concat([owner, head, data]);
}

function answerQuestion(query: Buffer, isTcp: boolean): Buffer {
  const labels: string[] = [];
  let at = 12;
  for (let length = query[at]!; length > 0; length = query[at]!) {
    labels.push(query.toString("latin1", at + 1, at + 1 + length));
    at += length + 1;
  }
  const name = labels.join(".");
  const type = query.readUInt16BE(at + 1);
  asked.push(name);
  const entry = ZONE[name];
  const records: Buffer[] = [];
  let owner = Buffer.from([0xc0, 12]);
  if (entry?.alias !== undefined) {
    records.push(encodeRecord(owner, 5, encodeName(entry.alias)));
    owner = encodeName(entry.alias) as Buffer<ArrayBuffer>;
  }
  if (type === 1)
    for (const one of entry?.a ?? []) records.push(encodeRecord(owner, 1, Buffer.from(one.split(".").map(Number))));
  if (type === 28 && entry?.aaaa !== undefined) records.push(encodeRecord(owner, 28, Buffer.from(entry.aaaa, "hex")));
  const head = Buffer.from(query.subarray(0, 12));
  const isCut = entry?.isLarge === true && !isTcp;
  head[2] = 0x81 | (isCut ? 2 : 0);
  head[3] = 0x80 | (entry === undefined ? 3 : type === 28 && entry.hasNoAaaa === true ? 2 : 0);
  head.writeUInt16BE(isCut ? 0 : records.length, 6);
  return Buffer.concat([head, query.subarray(12, at + 5), ...(isCut ? [] : records)]);
}

/** By UDP and, at the same number, by TCP. */
async function serveNames(): Promise<{ port: number; stop: () => void }> {
  for (;;) {
    const udp = await Bun.udpSocket({
      hostname: "127.0.0.1",
      socket: {
        data(socket, data, port, address) {
          const query = Buffer.from(data);
          const whole = answerQuestion(query, false);
          const forged = Buffer.concat([Buffer.from([0, 0]), whole.subarray(2)]);
          const say = (): void => {
            for (const answer of [forged, whole])
              try {
                socket.send(answer, port, address);
              } catch {
                // who asked has what it needs, and the socket says so of an answer before
              }
          };
          if (held && query.includes(encodeName(held.name))) void held.until.then(say);
          else say();
        },
        error() {},
      },
    });
    try {
      const tcp = Bun.listen({
        hostname: "127.0.0.1",
        port: udp.port,
        socket: {
          data(socket, data) {
            for (let at = 0; at + 2 <= data.length;) {
              const length = data.readUInt16BE(at);
              const answer = answerQuestion(data.subarray(at + 2, at + 2 + length) as Buffer<ArrayBuffer>, true);
              const size = Buffer.from([answer.length >> 8, answer.length & 255]);
              for (const byte of [...size, ...answer]) socket.write(Buffer.from([byte])); // in pieces
              at += 2 + length;
            }
          },
        },
      });
      return {
        port: udp.port,
        stop: () => {
          udp.close();
          tcp.stop(true);
        },
      };
    } catch {
      udp.close(); // taken by somebody's TCP
    }
  }
}

setDefaultTimeout(60_000);
let names: Awaited<ReturnType<typeof serveNames>>;
beforeAll(async () => {
  const sources = readdirSync(join(ROOT, "native/net")).filter((name) => name.endsWith(".c"));
  const { exitCode, stderr } = Bun.spawnSync([
    ...["cc", "-std=c11", "-D_GNU_SOURCE", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    ...["-o", binary, join(ROOT, "native/fuzz/net_peer.c"), ...sources.map((name) => join(ROOT, "native/net", name))],
  ]);
  expect({ exitCode, stderr: stderr.toString() }).toEqual({ exitCode: 0, stderr: "" });
  names = await serveNames();
  writeFileSync(join(folder, "hosts"), "127.0.0.1 localhost listed.test # and no more\n::1 sixlisted.test\n");
  writeFileSync(join(folder, "resolv.conf"), "# a comment\nsearch example.org\nnameserver 127.0.0.1\n");
  writeFileSync(join(folder, "net_attempts.py"), readFileSync(ATTEMPTS, "utf8"));
});
afterAll(async () => {
  for (const server of servers) server.stop();
  await web.stop(true);
  unixServer.stop(true);
  names.stop();
  rmSync(folder, { recursive: true, force: true });
});

type Line = {
  event: string;
  host: string | null;
  address: string | null;
  port: number | null;
  verdict: string;
  reason: string;
  call?: string;
  suppressed?: number;
  writer: string;
  seq: number;
};
type Ended<T> = { readonly got: T; readonly status: number; readonly lines: Line[] };
type Options = {
  readonly env?: Record<string, string>;
  readonly uid?: number;
  readonly onLine?: (line: string) => void;
  /** Where it is recorded, else in a file that is made anew. */
  readonly audit?: string;
  /** What stands in the file already, without its end. */
  readonly torn?: string;
};

function readAudit({ audit: path = audit, torn }: Options): Line[] {
  if (!existsSync(path)) return [];
  const all = readFileSync(path, "latin1").trimEnd().split("\n");
  const lines = torn === undefined ? all : all.slice(1);
  for (const line of lines)
    if (line.length >= 1024 || !/^[\x20-\x7e]*$/.test(line)) throw new Error(`not a line of an audit: ${line}`);
  return lines.map((line) => JSON.parse(line) as Line);
}

/** One attempt under the rules; its descriptors are looked at afterwards. */
async function attempt<T = unknown>(
  rules: string[],
  what: string,
  args: unknown[],
  options: Options = {},
): Promise<Ended<T>> {
  for (const path of [audit, fds]) rmSync(path, { force: true });
  if (options.uid !== undefined)
    for (const path of [audit, fds]) {
      writeFileSync(path, "");
      chmodSync(path, 0o666);
    }
  if (options.torn !== undefined) writeFileSync(audit, options.torn);
  const python = options.uid === undefined ? PYTHON : SYSTEM_PYTHON;
  const user =
    options.uid === undefined ? [] : ["setpriv", `--reuid=${options.uid}`, `--regid=${options.uid}`, "--clear-groups"];
  const child = Bun.spawn(
    [...user, binary, ...rules, "--", python, join(folder, "net_attempts.py"), what, JSON.stringify(args)],
    {
      stdio: ["ignore", "pipe", "inherit"],
      env: {
        // Without a home Python asks who it is, and the name service its sockets.
        ...{ PATH: process.env.PATH, HOME: folder },
        ...{
          NET_PEER_HOSTS: join(folder, "hosts"),
          NET_PEER_RESOLV_CONF: join(folder, "resolv.conf"),
          NET_PEER_DNS_PORT: `${names.port}`,
        },
        ...{ NET_PEER_AUDIT: options.audit ?? audit, NET_PEER_FDS: fds, ASAN_OPTIONS: "detect_leaks=0" },
        ...options.env,
      },
    },
  );
  let text = "";
  for await (const piece of child.stdout) {
    text += Buffer.from(piece).toString();
    for (let end = text.indexOf("\n"); end >= 0 && text.slice(0, end) === "alarm"; end = text.indexOf("\n")) {
      options.onLine?.("alarm");
      text = text.slice(end + 1);
    }
  }
  const status = await child.exited;
  const [before, after] = readFileSync(fds, "utf8").trim().split(" ");
  expect(after).toBe(before);
  return { got: text === "" ? undefined : JSON.parse(text), status, lines: readAudit(options) };
}

const denials = (lines: Line[]): string[] =>
  lines
    .filter((line) => line.verdict === "denied" && line.event !== "call")
    .map((line) => `${line.event} ${line.host} ${line.address} ${line.port}: ${line.reason}`);

test("the usual clients get through, by address and by name", async () => {
  const { got, lines } = await attempt([`127.0.0.1:${web.port}`], "clients", ["127.0.0.1", web.port]);
  expect(got).toEqual(["pong", "pong", "pong", "pong"]);
  expect(lines.every((line) => line.verdict === "granted" || line.event === "call")).toBe(true);
  for (const name of ["good.test", "alias.test", "large.test", "broken.test", "listed.test", "deep.wild.test"]) {
    const rule = name.replace("deep", "*");
    const named = await attempt<string[]>([`${rule}:${web.port}`], "clients", [name, web.port], {
      env: { NET_PEER_DENIED: "0" },
    });
    expect([name, ...named.got]).toEqual([name, "pong", "pong", "pong", "pong"]);
    expect(
      named.lines
        .filter((line) => line.event === "connect")
        .map((line) => `${line.host} ${line.address} ${line.verdict}`),
    ).toEqual(Array(4).fill(`${name} 127.0.0.1 granted`));
  }
});

test("what no rule names is denied, and nobody is asked for it", async () => {
  asked.length = 0;
  const { port } = allowed;
  const rules = [
    `good.test:${port}`,
    `rebind.test:${port}`,
    `*.wild.test:${port}`,
    `metadata.test`,
    `nat.test`,
    `mapped.test`,
  ];
  const before = [allowed.hits(), forbidden.hits()];
  const refused = ["EACCES", "EACCES"];
  const unknown = ["no such name", "no such name"];
  const names = await attempt(rules, "connects", [
    ...[
      ["evil.test", port],
      ["good.test", forbidden.port],
      ["rebind.test", port],
      ["metadata.test", 80],
    ],
    ...[
      ["nat.test", 80],
      ["mapped.test", port],
      ["wild.test", port],
    ],
  ]);
  expect(names.got).toEqual([unknown, refused, refused, refused, refused, refused, unknown]);
  const addresses = [
    ["127.0.0.1", port],
    ["169.254.169.254", 80],
    ["198.18.77.77", port],
    ["x.good.test", port],
  ];
  const { got, lines } = await attempt(rules, "connects", addresses);
  expect(got).toEqual([refused, refused, refused, unknown]);
  expect([allowed.hits(), forbidden.hits()]).toEqual(before);
  expect(asked.filter((name) => name === "evil.test" || name === "wild.test")).toEqual([]);
  const reasons = denials([...names.lines, ...lines]);
  for (const reason of [
    "dns evil.test null null: no rule names it",
    `connect good.test null ${forbidden.port}: no rule names this port`,
    `connect rebind.test 127.0.0.1 ${port}: address is loopback`,
    "connect metadata.test 169.254.169.254 80: address is metadata",
    "connect nat.test 64:ff9b::a9fe:a9fe 80: address is metadata",
    `connect null 127.0.0.1 ${port}: no rule names it`,
    "connect null 169.254.169.254 80: no rule names it",
    `connect null 198.18.77.77 ${port}: no name has this address`,
  ])
    expect(reasons).toContain(reason);
});

test("an address is dialed only if it was checked; the next one is tried", async () => {
  const { port } = allowed;
  const rules = [`dead.test`, `mixed.test`, `127.0.0.1:${port}`, `127.0.0.2:${port}`, `missing.test`];
  const { got, lines } = await attempt(rules, "connects", [
    ["mixed.test", port],
    ["missing.test", port],
  ]);
  expect(got).toEqual([
    ["pong", "pong"],
    ["no such name", "no such name"],
  ]);
  expect(denials(lines)).toContain(`connect mixed.test 169.254.169.254 ${port}: address is metadata`);
  const dead = await attempt(rules, "connects", [["dead.test", port]]);
  expect(dead.got).toEqual([["ECONNREFUSED", "pong"]]); // who does not wait gets the first one
  const unserved = await attempt(rules, "connects", [["missing.test", port]], { env: { NET_PEER_DNS_PORT: "1" } });
  expect(unserved.got).toEqual([["no such name", "no such name"]]);
  const unfiltered = await attempt(
    [],
    "connects",
    [
      ["good.test", port],
      ["127.0.0.1", port],
      ["169.254.169.254", 80],
    ],
    { env: { NET_PEER_ANY: "1" } },
  );
  expect(unfiltered.got).toEqual([1, 2, 3].map(() => ["EACCES", "EACCES"]));
  const open = await attempt(
    [],
    "connects",
    [
      ["good.test", port],
      ["127.0.0.1", port],
    ],
    { env: { NET_PEER_ANY: "1", NET_PEER_DENIED: "8" } },
  );
  expect(open.got).toEqual([1, 2].map(() => ["pong", "pong"]));
});

/** The name is not found before somebody has been at the port. */
async function whileHeld(name: string, run: (gate: number) => Promise<void>): Promise<void> {
  const gate = Promise.withResolvers<void>();
  const server = Bun.listen({
    hostname: "127.0.0.1",
    port: 0,
    socket: {
      open(socket) {
        gate.resolve();
        socket.end("pong");
      },
      data() {},
    },
  });
  held = { name, until: gate.promise };
  asked.length = 0;
  try {
    await run(server.port);
  } finally {
    held = undefined;
    server.stop(true);
  }
}

test("who looks up a name in a thread does not wait when it connects", () =>
  whileHeld("slow.test", async (gate) => {
    const { got } = await attempt([`slow.test`, `127.0.0.1:${gate}`], "meanwhile", ["slow.test", allowed.port, gate], {
      env: { NET_PEER_DENIED: "0" },
    });
    expect(got).toEqual(["pong", "pong", "pong"]);
    expect(asked.filter((name) => name === "slow.test")).toHaveLength(2); // A and AAAA, for all of them
  }));

test("questions that nobody waits for any more", () =>
  whileHeld("slow.test", async (gate) => {
    const rules = [`slow.test`, `good.test`, `127.0.0.1:${gate}`];
    const { got } = await attempt(rules, "abandoned", ["slow.test", "good.test", gate]);
    expect(got).toEqual(["pong", [2], 1]);
  }));

test("both versions, mapped ones, the machine's own addresses, localhost", async () => {
  if (hasSix) {
    const names = ["six.test", "sixlisted.test"].map((name) => [name, six.port]);
    const { got } = await attempt([`six.test:${six.port}`, `sixlisted.test`], "connects", names, {
      env: { NET_PEER_DENIED: "0" },
    });
    expect(got).toEqual([1, 2].map(() => ["pong", "pong"]));
  }
  const all: [host: string, port: number, local: string][] = [
    ["127.0.0.1", allowed.port, "pong"],
    ["::ffff:127.0.0.1", allowed.port, "pong"],
    ["::1", six.port, "pong"],
    ["::127.0.0.1", allowed.port, "EACCES"],
    ["0.0.0.0", allowed.port, "EACCES"],
    ["::", six.port, "EACCES"],
  ];
  const here = all.filter(([host]) => hasSix || !host.includes(":"));
  const targets = here.map(([host, port]) => [host, port]);
  const local = await attempt([`localhost`], "literals", targets);
  expect(local.got).toEqual(here.map(([, , answer]) => answer));
  const none = await attempt([`0.0.0.0/0`, `::/0`], "literals", targets);
  expect(none.got).toEqual(here.map(() => "EACCES"));
  const reached = here.filter(([, , answer]) => answer === "pong").map(([host, port]) => [host, port]);
  const range = await attempt([`127.0.0.0/8`, `::1`], "literals", reached);
  expect(range.got).toEqual(reached.map(() => "pong"));
  // 16: only what is the machine's own
  const own = await attempt([], "literals", reached, { env: { NET_PEER_ANY: "1", NET_PEER_DENIED: "16" } });
  expect(own.got).toEqual(reached.map(() => "EACCES"));
  expect(denials(own.lines)[0]).toBe(`connect null 127.0.0.1 ${allowed.port}: address is self`);
});

test("a socket that does not block, and what was set on it", async () => {
  for (const host of ["127.0.0.1", "good.test"]) {
    const { got } = await attempt([host, "127.0.0.1"], "nonblocking", [host, allowed.port]);
    expect(got).toEqual({
      ...{
        first: "EINPROGRESS",
        error: 0,
        again: "EISCONN",
        options: [1, 1, 7, 60_000],
        inheritable: [false, true],
        blocking: [false, true],
      },
      ...{ peer: ["127.0.0.1", allowed.port], refused: ["EINPROGRESS", "ECONNREFUSED", "ECONNREFUSED"] },
    });
  }
});

test("a hundred at once, in threads and in a loop", async () => {
  for (const host of ["127.0.0.1", "good.test"]) {
    const { got } = await attempt([host, "127.0.0.1"], "parallel", [host, allowed.port, 100]);
    expect(got).toEqual([["pong"], ["pong"]]);
  }
});

test("an address that changes during the call", async () => {
  const before = forbidden.hits();
  const { got, status } = await attempt<Record<"connected" | "denied", number>>([`127.0.0.1:${allowed.port}`], "race", [
    allowed.port,
    forbidden.port,
    3000,
  ]);
  expect([status, forbidden.hits() - before]).toEqual([0, 0]);
  expect(Math.min(got.connected, got.denied)).toBeGreaterThan(0); // or it was no race
});

test("questions that are none, halves, and floods", async () => {
  const fake = [0, 1, "c6120001"];
  const { got, lines } = await attempt(["good.test"], "dns", ["good.test"]);
  expect(got).toEqual({
    ...{
      whole: fake,
      upper: fake,
      bytewise: fake,
      aaaa: [0, 0, ""],
      https: [0, 0, ""],
      other: [3, 0, ""],
      tunnel: [3, 0, ""],
    },
    ...{
      long: "closed",
      short: "closed",
      garbage: [4, 0, ""],
      pointer: [1, 0, ""],
      answer: "closed",
      "is stopped": true,
      after: fake,
    },
  });
  expect(denials(lines)[1]).toBe(`dns \\010\\034\\255${"a".repeat(50)}.evil.example null null: no rule names it`);
});

test("ways round it", async () => {
  const where = { port: allowed.port, unix };
  const control = Bun.spawnSync([PYTHON, ATTEMPTS, "refusals", JSON.stringify([where])]);
  const free = JSON.parse(control.stdout.toString()) as Record<string, string>;
  for (const one of ["udp", "unix", "listen", "bind", "datagram_pair"])
    expect([one, free[one]]).toEqual([one, expect.not.stringMatching(/^E/)]);
  const aim = listen("127.0.0.1"); // the control run may still be counted at the other one
  const { got, lines } = await attempt([`127.0.0.1:${aim.port}`], "refusals", [{ port: aim.port, unix }]);
  expect(got).toEqual({
    ...{
      udp: "EPERM",
      unix: "EPERM",
      unix_by_tcp: "EACCES",
      fastopen: "EPERM",
      fastopen_message: "EPERM",
      listen: "EPERM",
      bind: "EPERM",
    },
    ...{ io_uring: "ENOSYS", datagram_pair: "EPERM", mptcp: "EPERM", source_route: "EPERM" },
  });
  expect(aim.hits()).toBe(0);
  expect(lines.filter((line) => line.event === "call").map((line) => line.call)).toEqual([
    ...["socket AF_INET SOCK_DGRAM", "socket AF_UNIX SOCK_STREAM", "listen", "bind", "socket AF_INET SOCK_STREAM"],
  ]);
  expect(lines.find((line) => line.event === "connect")?.reason).toBe("address of AF_UNIX");
  const again = await attempt([`127.0.0.1:${allowed.port}`], "reconnect", [allowed.port]);
  expect(again.got).toEqual(["EACCES", "EISCONN", "EACCES", "EPERM", "pong"]);
});

test("datagrams ask for names, tell one's own address, and go nowhere else", async () => {
  let received = 0;
  const outside = await Bun.udpSocket({ hostname: "127.0.0.1", socket: { data: () => void received++ } });
  const free = Bun.spawnSync([PYTHON, ATTEMPTS, "own_address", "[]"]).stdout.toString();
  const own = free === "" ? "127.0.0.1" : (JSON.parse(free) as string); // where there is no way out
  const rules = [`good.test:${allowed.port}`, `127.0.0.1:${allowed.port}`];
  const hasOther = await canBeAnother("datagrams as another user");
  for (const uid of hasOther ? [undefined, NOBODY] : [undefined]) {
    const { got, lines } = await attempt(rules, "datagrams", ["good.test", allowed.port, outside.port], {
      env: { NET_PEER_DATAGRAMS: "1" },
      ...(uid === undefined ? {} : { uid }),
    });
    const fake = expect.stringMatching(/^198\.18\./);
    expect(got).toEqual({
      ...{ own, known: [0, fake, true], unknown: [3, "", true], by_tcp: [own, true, 0], talk: "pong" },
      ...{ send: "ECONNREFUSED", message: "3", raw: "EPERM", flipped: 0 },
    });
    const calls = lines.filter((line) => line.event === "call").map((line) => line.call);
    expect(calls).toContain(`UDP to 127.0.0.1:${outside.port}`);
  }
  expect(received).toBe(0);
  outside.close();
});

test("calls that are wrong in themselves get the kernel's errors", async () => {
  const { got } = await attempt<string[]>([`127.0.0.1:${allowed.port}`], "malformed", [allowed.port]);
  const control = Bun.spawnSync([PYTHON, ATTEMPTS, "malformed", JSON.stringify([allowed.port])]);
  const free = JSON.parse(control.stdout.toString()) as string[];
  expect(got).toEqual(free.map((one, index) => (index === 9 ? "EAFNOSUPPORT" : one)));
  expect(got.at(-1)).toBe("ok");
});

test("ten thousand, one after the other", async () => {
  const { got, lines } = await attempt([`127.0.0.1:${allowed.port}`], "many", [allowed.port, 10_000]);
  expect(got).toBe(10_000);
  const suppressed = lines.reduce((sum, line) => sum + (line.suppressed ?? 0), 0);
  expect(suppressed + lines.length).toBe(10_000);
});

test("an audit does not grow without end, and counts what it leaves out", async () => {
  const started = performance.now();
  const { lines } = await attempt([], "deny_many", [10_000]);
  const seconds = (performance.now() - started) / 1000;
  expect(lines.length).toBeLessThanOrEqual(21 * (Math.ceil(seconds) + 1));
  expect(lines.reduce((sum, line) => sum + (line.suppressed ?? 0), lines.length)).toBe(10_000);
  // In place of auditBytes, which is much.
  const limited = await attempt([], "deny_many", [100], { env: { NET_PEER_AUDIT_MAX: "1000" } });
  expect(readFileSync(audit).length).toBeLessThan(1300);
  expect(limited.lines.length).toBeGreaterThan(3);
});

test("each record has its writer and its number, also where one was torn before it", async () => {
  const torn = '{"time":"2026-01-01T00:00:00.000Z","wor';
  const { lines } = await attempt([], "deny_many", [3], { torn });
  expect(readFileSync(audit, "latin1").split("\n")[0]).toBe(torn);
  const writer = lines[0]!.writer;
  expect(writer).toMatch(/^answer-\d+-\d{13}$/);
  expect(lines.map((line) => [line.writer, line.seq])).toEqual([1, 2, 3].map((seq) => [writer, seq]));
  for (const line of lines) expect(auditRecord.safeParse(line).error).toBeUndefined();
});

test("what a full disk has no room for is a gap between numbers", async () => {
  const disk = join(folder, "disk");
  mkdirSync(disk);
  if (!mountDisk(disk, "64k", "records of denials on a full disk")) return;
  try {
    writeFileSync(join(disk, "audit"), "");
    fillDisk(disk);
    const { lines } = await attempt([], "deny_around", [join(disk, "filling")], { audit: join(disk, "audit") });
    expect(lines.map(({ seq }) => seq)).toEqual([4, 5]);
  } finally {
    unmountDisk(disk);
  }
});

test("denials are told", async () => {
  const path = join(folder, "told");
  writeFileSync(path, "");
  const child = Bun.spawn(
    [
      "sh",
      "-c",
      `exec 9>>"$0"; exec "$@"`,
      path,
      binary,
      "--",
      PYTHON,
      ATTEMPTS,
      "connects",
      `[["evil.test",1],["192.0.2.1",80],["fd00::1",443]]`,
    ],
    {
      env: { ...process.env, NET_PEER_TOLD: "9", ASAN_OPTIONS: "detect_leaks=0" },
      stdio: ["ignore", "ignore", "inherit"],
    },
  );
  await child.exited;
  const told = readFileSync(path, "utf8")
    .split("\n")
    .map((line) => line.split("\t")[0]);
  for (const line of ["network evil.test", "network 192.0.2.1:80", "network [fd00::1]:443"])
    expect(told).toContain(line);
});

// ---- connects that are not through ----

async function fullServer(): Promise<{ port: number; open: () => void; stop: () => void }> {
  const child = Bun.spawn([PYTHON, ATTEMPTS, "full_server"], { stdio: ["pipe", "pipe", "inherit"] });
  const reader = child.stdout.getReader();
  const { value } = await reader.read();
  return {
    port: Number(Buffer.from(value!).toString()),
    open: () => {
      void child.stdin.write("\n");
      void child.stdin.flush();
    },
    stop: () => child.kill("SIGKILL"),
  };
}

test("connects that wait: too many, interrupted, limited in time, and a worker that is killed among them", async () => {
  const files = Number(Bun.spawnSync(["sh", "-c", "ulimit -Hn"]).stdout.toString()); // not a number: without a limit
  if (skipUnless(!(files < 1024), "1024 open files", "more connects than may wait")) return;
  const server = await fullServer();
  try {
    const { got, status } = await attempt([`127.0.0.1`], "pending", [server.port, 280]);
    expect(status).toBe(137);
    expect(got).toEqual({
      limited: "EINPROGRESS",
      interrupted: true,
      timeout: "ETIMEDOUT",
      "too many": "ENOBUFS",
      others: "no such name",
    });
  } finally {
    server.stop();
  }
});

for (const how of ["interrupted", "restarted"])
  test(`a connect that is ${how} ends well`, async () => {
    const server = await fullServer();
    try {
      const { got } = await attempt([`127.0.0.1`], how, [server.port], { onLine: server.open });
      expect(got).toBe("pong");
    } finally {
      server.stop();
    }
  });

/** Says when its handler runs, and goes on; killed by what raises. */
const SIGNALLED = `
import signal, socket, sys
def handler(*_):
    print("handled", flush=True)
    if sys.argv[2] == "raise": raise KeyboardInterrupt
signal.signal(signal.SIGUSR1, handler)
print("begins", flush=True)
try: print(socket.create_connection(("127.0.0.1", int(sys.argv[1]))).recv(4).decode(), flush=True)
except KeyboardInterrupt: print("stopped", flush=True)
`;

/** Processes below one, itself included. */
function treeOf(pid: number): number[] {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "latin1").trim().split(" ").filter(Boolean);
  return [pid, ...children.flatMap((child) => treeOf(Number(child)))];
}

for (const what of ["return", "raise"])
  test(`a connect that another process makes for it goes on through signals whose handlers ${what}`, async () => {
    const [major, minor] = readFileSync("/proc/sys/kernel/osrelease", "latin1").split(".").map(Number);
    if (skipUnless(major! > 5 || (major === 5 && minor! >= 19), "Linux 5.19", "signals in the midst of a connect"))
      return;
    if (skipUnless(process.getuid!() === 0, "root", "who connects for a worker is stopped")) return;
    const server = await fullServer();
    const script = join(folder, "signalled.py");
    writeFileSync(script, SIGNALLED);
    chmodSync(folder, 0o755);
    const child = Bun.spawn(
      [
        ...[join(ROOT, "bin/ipcctl"), "run", "--interpreter", PYTHON, `--allow-net=127.0.0.1:${server.port}`],
        ...[script, "--", `${server.port}`, what],
      ],
      { env: { ...process.env, IPCCTL_HOME: join(folder, "home") }, stdio: ["ignore", "pipe", "inherit"] },
    );
    let text = "";
    const read = (async () => {
      for await (const piece of child.stdout) text += Buffer.from(piece).toString();
    })();
    await waitUntil(() => text === "begins\n", "it begins");
    const link = (path: string): string => {
      try {
        return readlinkSync(path);
      } catch {
        return "";
      }
    };
    const tree = treeOf(child.pid);
    const answerer = tree.find((pid) => link(`/proc/${pid}/fd/3`).includes("seccomp"))!;
    const worker = tree.find((pid) => /python/.test(link(`/proc/${pid}/exe`)))!;
    const isDialing = (): boolean =>
      readdirSync(`/proc/${answerer}/fd`).filter((fd) => link(`/proc/${answerer}/fd/${fd}`).startsWith("socket:"))
        .length >= 3;
    await waitUntil(isDialing, "it connects");
    process.kill(answerer, "SIGSTOP");
    process.kill(worker, "SIGUSR1");
    // Nobody can end the call now, and nothing of it is lost.
    const state = (): string => /^State:\t(\S)/m.exec(readFileSync(`/proc/${worker}/status`, "utf8"))![1]!;
    await waitUntil(() => state() === "D", "it goes on to wait");
    expect(text).toBe("begins\n");
    process.kill(answerer, "SIGCONT");
    await waitUntil(
      () => text.startsWith("begins\nhandled\n"),
      "the handler runs, although nobody takes the connection",
    );
    server.open();
    await read;
    await child.exited;
    server.stop();
    expect(text).toBe(what === "raise" ? "begins\nhandled\nstopped\n" : "begins\nhandled\npong\n");
  });

test("as a user without privileges", async () => {
  if (!(await canBeAnother("the network as another user"))) return;
  const { got } = await attempt(
    [`good.test:${web.port}`, `127.0.0.1:${web.port}`],
    "clients",
    ["good.test", web.port],
    { uid: NOBODY },
  );
  expect(got).toEqual(["pong", "pong", "pong", "pong"]);
  const parallel = await attempt(["127.0.0.1"], "parallel", ["127.0.0.1", allowed.port, 50], { uid: NOBODY });
  expect(parallel.got).toEqual([["pong"], ["pong"]]);
});
