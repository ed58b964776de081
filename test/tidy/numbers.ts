/** Bare numbers that are values of the contract: they are taken from there, or are a coincidence that stands here. */
import { only } from "./rules.ts";

/** Smaller ones mean anything, anywhere. */
const LEAST = 16;

/** All numbers of a module of the contract, with where they stand. */
export function valuesOf(modules: Readonly<Record<string, unknown>>): Map<number, string> {
  const values = new Map<number, string>();
  const walk = (value: unknown, name: string): void => {
    if (typeof value === "number" && value >= LEAST) values.set(value, values.get(value) ?? name);
    if (typeof value === "object" && value !== null)
      for (const [key, one] of Object.entries(value)) walk(one, `${name}.${key}`);
  };
  for (const [name, value] of Object.entries(modules)) walk(value, name);
  return values;
}

/** Lines on which a number is of a kind of its own, whatever it is. */
const KINDS: Readonly<Record<string, RegExp>> = {
  "the size of a buffer": /\b(?:char|uint8_t|int)\b[^;=]*\[\d+\]/,
  "bits of a shift of what is only known later": /[\w)\]] *(?:<<|>>>?) *\d/,
  "a mask, or the end of a byte": /0x[fF_]{2,}\b|< 0x1_?0/,
  "a unit of memory": /\b1024u?\b/,
  "a constant with a name of its own, which contract.test.ts compares with those of the contract; not a limit":
    /(?:\bconst|#define) (?![A-Z_0-9]*_MAX\b)[A-Z_0-9]{3,}\b|^_?(?![A-Z_]*_MAX\b)[A-Z_]+(?:: \w+)? = /,
};

const NUMBER = /(?<![\w.$])(?:0x[\da-f_]+|0o[0-7_]+|\d[\d_]*)(?=[uUlL]*\b)(?!\.\d)/gi;

/** A power that is written out counts as its value: `1 << 20`, `1024 ** 2`. */
const POWER = /(?<![\w.$])(\d[\d_]*)[uUlL]* *(<<|\*\*) *(\d+)[uUlL]*/g;
const worth = (_: string, base: string, operator: string, exponent: string): string => {
  const number = Number(base.replaceAll("_", ""));
  return `${operator === "**" ? number ** Number(exponent) : number * 2 ** Number(exponent)}`;
};

export function bareNumbers(
  file: string,
  text: string,
  values: ReadonlyMap<number, string>,
  known: readonly number[] = [],
): string[] {
  return only("code", file, text)
    .split("\n")
    .map((line) => line.replaceAll(POWER, worth))
    .flatMap((line, index) =>
      [...line.matchAll(NUMBER)].flatMap(([written]) => {
        const number = Number(written.replaceAll("_", ""));
        const name = values.get(number);
        if (name === undefined || known.includes(number) || Object.values(KINDS).some((kind) => kind.test(line)))
          return [];
        return [`${file}:${index + 1}: ${written}: take ${name} from contract/, or say in numbers.ts what else it is`];
      }),
    );
}

/** Files whose numbers are all of one kind that is not the contract's. */
export const OF_ONE_KIND: Readonly<Record<string, string>> = {
  "src/sandbox/system-calls.ts": "numbers of system calls, by architecture",
};

/** Numbers that only look like one of the contract. */
export const COINCIDENCES: Readonly<Record<string, readonly [numbers: readonly number[], why: string]>> = {
  "src/duckdb/arrow.ts": [[16, 128], "bytes and bits of the longest integers and intervals"],
  "src/duckdb/instance.ts": [[24, 25, 26, 28, 29, 30, 32, 33, 35, 41], "numbers of types of DuckDB"],
  "src/plane/sealed-writer.ts": [[16], "bytes of an entry of writev"],
  "src/sql/arrow-ipc.ts": [
    [16, 17, 18, 19, 20, 21, 32, 64, 128],
    "numbers of types in the format of Arrow, sizes of integers and of pairs",
  ],
  "native/fuzz/fuzz.c": [
    [16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 28, 29, 32, 38, 40, 41, 255, 256, 512, 30_000, 100_000],
    "a peer that is independent on purpose, and random sizes",
  ],
  "native/fuzz/net_fuzz.c": [
    [16, 20, 38, 40, 128, 192, 250, 256, 65_536],
    "a peer that is independent on purpose, and random sizes",
  ],
  "native/fuzz/net_peer.c": [
    [16, 17, 32, 128, 1_073_741_824],
    "a peer that is independent on purpose, and random sizes",
  ],
  "native/fuzz/ring_peer.c": [[64, 256], "a line of the cache; an offset of its own"],
  "native/fuzz/vectors.c": [[32], "fields of a case at most"],
  "native/lines/answers.c": [[32], "milliseconds of the longest pause"],
  "native/net/audit.c": [[32], "the first character that is printed"],
  "native/net/calls.c": [[44], "a family of sockets"],
  "native/net/datagrams.c": [[16, 32], "datagrams in a row; room for words around an address"],
  "native/net/dial.c": [[16], "bytes of an address of IPv6"],
  "native/net/dns.c": [[16, 32, 128, 192, 255], "offsets, sizes and flags in messages of the name service"],
  "native/net/island.c": [[16, 17, 18, 19, 20, 28, 32, 60, 72], "addresses, and offsets in headers of IP"],
  "native/net/names.c": [[18, 60, 198], "the range 198.18.0.0/15; seconds for which a name is held"],
  "native/net/net.h": [[32, 256, 4096], "connections, conversations and names at once"],
  "native/net/parts.h": [
    [28, 64, 192, 512, 4096],
    "a type of record of the name service, and sizes of its messages; parts of a line of the audit",
  ],
  "native/net/pending.c": [[16], "a base of digits"],
  "native/net/rules.c": [[16, 32, 128], "bytes and bits of an address"],
  "native/net/server.h": [[16], "bytes of an answer more than of its question"],
  "native/net/stub.c": [[16], "questions in a row"],
  "native/net/target.c": [[16], "bytes of an address of IPv6"],
  "native/python/cbor.c": [
    [20, 21, 22, 23, 24, 25, 26, 27, 31, 37, 40, 64, 68, 69, 70, 71, 72, 78, 84, 85, 255],
    "heads, tags and simple values of CBOR",
  ],
  "native/python/server.c": [[64], "bits of a word"],
  "native/ring/ring.c": [[64], "bytes of a line of the cache"],
  "native/shim/helper.c": [[64, 4096], "a descriptor above those that are given; where to stop closing"],
  "native/shim/clients.c": [[16], "bytes of two numbers"],
  "native/shim/confine.c": [[16, 24, 16_384, 32_768], "sizes of Landlock's structure by its version; rights to files"],
  "native/shim/denials.c": [[32], "the first character that is printed"],
  "native/shim/caller.c": [[128], "what a shell adds to the number of a signal"],
  "native/shim/ipc.h": [[16], "kinds of denials that are kept"],
  "native/shim/isolate.c": [[16, 4096, 65_536, 1_048_576], "sizes and files of small mounts; a flag of the kernel"],
  "native/shim/log.c": [[29, 32, 64], "an offset in a record; sizes of buffers"],
  "native/shim/meet.c": [[31], "a factor of a sum that tells states apart"],
  "native/shim/record.c": [[64], "the size of a buffer"],
  "native/shim/spec.c": [[16, 20, 24, 28, 29], "offsets in payloads, and their sizes"],
  "native/shim/start.c": [[16], "connections that may wait"],
  "native/shim/stop.c": [[64], "room to begin with"],
  "native/shim/supervise.c": [[512], "bytes of a status that a worker tells, in docs/internals/shim.md"],
  "native/shim/tree.c": [[64, 512, 4096], "room to begin with; a depth that ends a circle"],
  "python/boot/_ipcctl_refusal.py": [[64, 4096], "more than a message has; bytes of a reason"],
  "python/ipcctl/js/_errors.py": [[16], "levels of causes"],
  "python/ipcctl/js/_runtime.py": [[27], "a tag of CBOR"],
  "python/ipcctl/js/_session.py": [[256], "bytes of what is short, and errors that are kept"],
  "python/ipcctl/js/_values.py": [[16, 24, 27], "tags of CBOR, and costs of values"],
  "python/ipcctl/js/_websocket.py": [[256], "bits of a byte"],
  "python/ipcctl/_bridge.py": [[16], "more than such a message has"],
  "python/ipcctl/_channel.py": [[24, 25, 26, 27, 31, 64], "heads of CBOR; bells at once"],
  "python/ipcctl/_client.py": [[20, 1_048_576], "lines that are shown unless asked otherwise; bytes of a read"],
  "python/ipcctl/_end.py": [[64, 4096], "bells at once; bytes of a read"],
  "python/ipcctl/_errors.py": [[256], "places in code that are kept"],
  "python/ipcctl/_evaluate.py": [[64], "sources kept for tracebacks"],
  "python/ipcctl/_pipe.py": [[64], "bells at once"],
  "python/ipcctl/_pure.py": [[20, 21, 22, 23, 24, 25, 26, 27, 31, 40, 64], "heads, tags and simple values of CBOR"],
  "python/ipcctl/_redact.py": [[16, 0xc0], "the base of hex; the first byte of a character; characters of a line"],
  "python/ipcctl/_serving.py": [[20, 64], "a time; more than a message has"],
  "python/ipcctl/_shared.py": [[27, 64, 69, 70, 71, 72, 78, 84, 85], "tags of CBOR"],
  "python/ipcctl/_types.py": [
    [16, 18, 27, 37, 40, 60, 64, 68, 69, 70, 71, 72, 78, 84, 85],
    "tags of CBOR, and parts of times",
  ],
  "python/run/zygote.py": [[64], "connections that may wait; bytes of a seed"],
  "src/base/bytes.ts": [[32, 39], "characters"],
  "src/base/install.ts": [[18, 40, 60], "offsets in the head of an ELF file"],
  "src/base/shell-words.ts": [[16], "a base of digits"],
  "src/base/signals.ts": [[64], "the highest signal of Linux"],
  "src/base/socket-path.ts": [[107], "bytes of an address of Unix sockets, less a zero"],
  "src/base/units.ts": [[60], "seconds of a minute"],
  "src/calls/lines.ts": [[60], "characters that an error shows"],
  "src/cli/doctor.ts": [[18], "bits of a file's mode"],
  "src/cli/policy.ts": [[24], "columns"],
  "src/cli/start.ts": [[100_000, 4_294_967_295], "percent of processor time; the largest count"],
  "src/cli/tool-types.ts": [[16], "a base of digits"],
  "src/cli/visible.ts": [[66], "bytes of an escape sequence that has begun"],
  "src/cli/weaker.ts": [[36, 64], "a base of digits; states that are remembered"],
  "src/daemon/control-server.ts": [[18, 512], "bits of a file's mode"],
  "src/daemon/exit-with.ts": [[128], "what a shell adds to the number of a signal"],
  "src/desk/keys.ts": [[4096], "more than a key file has"],
  "src/engine/guest-values.ts": [[16, 27, 68, 69, 70, 71, 72, 78, 84, 85], "tags of CBOR, and costs of values"],
  "src/engine/thrown.ts": [[32], "properties of an error"],
  "src/launch/languages.ts": [[16, 256, 4096], "wrappers in a row; characters of a first line, and bytes of a read"],
  "src/launch/scratch.ts": [[18], "bits of a file's mode"],
  "src/logs/cri.ts": [
    [20, 66, 70, 128, 192],
    "the length of a time and of an escape sequence; characters; bytes of UTF-8",
  ],
  "src/logs/files.ts": [[32_768], "more bytes than a record has"],
  "src/plane/busy-poll.ts": [[16], "misses in a row"],
  "src/plane/cbor-decode.ts": [[24, 25, 26, 27, 31, 32, 37, 40], "heads of CBOR"],
  "src/plane/cbor-encode.ts": [[27, 40, 64], "heads of CBOR"],
  "src/plane/cbor-write.ts": [[16, 24, 25, 26, 27, 64], "heads of CBOR, hexadecimal digits, a string that is short"],
  "src/plane/pipe.ts": [[1_073_741_824], "a wait that a timer can hold"],
  "src/plane/ring.ts": [[64], "bytes of a line of the cache; a copy that is quicker by hand"],
  "src/plane/system-node.ts": [[64, 128, 4096], "bells at once; bytes of a packet and of a read"],
  "src/plane/system.ts": [
    [16, 24, 32, 40, 48, 64, 128, 4096],
    "offsets in structures of the kernel; bytes of a packet",
  ],
  "src/plane/values.ts": [[64, 68, 69, 70, 71, 72, 78, 84, 85], "tags of CBOR"],
  "src/protocol/app-config.ts": [
    [30_000, 100_000, 10_485_760, 4_294_967_295],
    "what holds unless a definition says otherwise, and the largest counts",
  ],
  "src/protocol/verbs.ts": [[128], "characters of a client's name"],
  "src/runtime/watch.ts": [[20], "lines that are shown unless asked otherwise"],
  "src/sandbox/hosts.ts": [[32, 128], "bits of an address"],
  "src/sandbox/mounts.ts": [[40], "links in a row, as the kernel follows"],
  "src/sandbox/policy.ts": [[16, 256, 100_000, 1_048_576, 4_194_304], "the least and the most that a policy may set"],
  "src/sandbox/rules.ts": [[27, 41], "arguments of system calls"],
  "src/sandbox/seccomp.ts": [[16, 1_073_741_824], "offsets and flags of BPF"],
  "src/sdk/connection.ts": [[18], "bits of a file's mode"],
  "src/shim/frame-stream.ts": [[65_536], "bytes of a frame, after which a shim is taken for broken"],
  "src/shim/proc.ts": [[16, 19, 21, 4096], "fields of /proc; sizes of the kernel"],
  "src/shim/records.ts": [[16_384], "bytes of what is read of denials"],
  "src/workers/reserve.ts": [[65_536], "bytes of a write"],
  "src/workers/run.ts": [[20], "a time"],
};
