/**
 * Generates files from `contract/`: the header for C, the module for Python, and the tables in the documents, including
 * those of the verbs.
 */
import { ADDRESS_CARRIERS, ADDRESS_RANGES, type AddressClass } from "../contract/addresses.ts";
import { AUDIT_EVENTS, AUDIT_FIELDS } from "../contract/audit.ts";
import {
  CANCEL_TOPIC,
  EXPLAIN_RUNTIME,
  HOST_CODES,
  HOST_EXITS,
  HOST_RING_BYTES,
  INTERRUPT_RUNTIME,
  LET_GO_TOPIC,
  RUNTIMES_VARIABLE,
  START_RUNTIME,
  TOOL_TOPIC,
} from "../contract/host.ts";
import { LIMITS } from "../contract/limits.ts";
import { ARCHITECTURES, PARTS_FOLDERS } from "../contract/parts.ts";
import * as engine from "../contract/engine.ts";
import * as messages from "../contract/messages.ts";
import * as segment from "../contract/segment.ts";
import * as shim from "../contract/shim.ts";
import { parseAddress, parseRange } from "../src/base/addresses.ts";
import { SOCKET_PATH_BYTES_MAX } from "../src/base/socket-path.ts";
import { VERSION } from "../src/base/version.ts";
import { PROTOCOL, SUBSCRIPTIONS } from "../src/protocol/responses.ts";
import { answerTable, requestTable } from "./verbs.ts";
import { layerRows } from "./layers.ts";

type Table = Readonly<Record<string, number>>;
/**
 * Names and numbers. `*` in the name of a table stands for the key; the name of a single number has none.
 */
type Part = {
  readonly name: string;
  readonly numbers: number | Table;
  readonly says: string;
  /** The name of the type, if code in C has variables of it. */
  readonly type?: string;
  /** Whether Python needs it; C gets everything. */
  readonly isForPython?: boolean;
};

const limits = (...names: (keyof typeof LIMITS)[]): Table =>
  Object.fromEntries(names.map((name) => [name, LIMITS[name].value]));
const { answered, errors, bytesIn, bytesOut, latencies, nanoseconds, words } = segment.STATISTICS;

const PARTS: readonly Part[] = [
  { name: "SHIM_VERSION", numbers: shim.SHIM_VERSION, says: "The shim's contract.", isForPython: true },
  { name: "SHIM_VERSION_MIN", numbers: shim.SHIM_VERSION_MIN, says: "The oldest one that is spoken." },
  { name: "SPEC_*", numbers: shim.SPEC, says: "Frames of the start specification.", isForPython: true },
  { name: "REQUEST_*", numbers: shim.REQUEST, says: "Requests to the shim.", isForPython: true },
  { name: "REPLY_*", numbers: shim.REPLY, says: "What it tells and answers.", isForPython: true },
  { name: "STATE_*", numbers: shim.STATE, says: "Offsets in STATE, and its length.", isForPython: true },
  { name: "SCOPE_*", numbers: shim.SCOPE, says: "Whom a signal is for." },
  { name: "KILL_*", numbers: shim.KILL_MODE, says: "Whom the signal of a stop is for." },
  { name: "MOUNT_*", numbers: shim.MOUNT, says: "How a part of the root is made.", type: "ipc_mount_kind" },
  { name: "MOUNT_FLAG_*", numbers: shim.MOUNT_FLAG, says: "Bits of a mount." },
  { name: "NET_*", numbers: shim.ADDRESS_CLASS, says: "Classes of addresses." },
  { name: "RAW_*", numbers: shim.RAW_STREAM, says: "Streams of a raw log." },
  {
    name: "MEETING_*",
    numbers: shim.MEETING,
    says: "What a runtime sends where it meets the shim.",
    isForPython: true,
  },
  { name: "*_FD", numbers: shim.SHIM_FD, says: "Descriptors that its starter opens for the shim." },
  { name: "*_FD", numbers: shim.WORKER_FD, says: "Descriptors of the worker.", isForPython: true },
  { name: "COMMAND_PROTOCOL", numbers: shim.COMMAND_PROTOCOL, says: "Of a socket by which a program asks the host." },
  { name: "CHANNEL_FDS", numbers: shim.CHANNEL_FDS, says: "Descriptors that come with OPEN.", isForPython: true },
  {
    name: "CHANNEL_FDS_FORWARDED",
    numbers: shim.CHANNEL_FDS_FORWARDED,
    says: "Those of them that the runtime gets.",
    isForPython: true,
  },
  { name: "EXIT_*", numbers: shim.SHIM_EXIT, says: "Exit statuses of the shim." },
  { name: "STEP_*", numbers: shim.STEP, says: "Steps between fork and exec.", type: "ipc_step" },
  { name: "*_MAX", numbers: shim.SHIM_MAX, says: "How much of each the shim takes." },
  {
    name: "*_MAX",
    numbers: limits(
      ...(["specBytes", "channels", "auditBytes", "hostMessageBytes", "hostCommands"] as const),
      ...(["correlationChars", "topicChars", "stdioRequests", "stdioBytes", "stdioCalls", "stdioIdBytes"] as const),
    ),
    says: "Limits, as docs/internals/limits.md has them.",
  },
  { name: "*_MAX", numbers: limits("valueDepth"), says: "Limits of both sides of a call.", isForPython: true },
  {
    name: "SEGMENT_VERSION",
    numbers: segment.SEGMENT_VERSION,
    says: "The layout of a channel.",
    isForPython: true,
  },
  {
    name: "SEGMENT_VERSION_MIN",
    numbers: segment.SEGMENT_VERSION_MIN,
    says: "The oldest one that is served.",
    isForPython: true,
  },
  {
    name: "SEGMENT_VERSION_SLOTS",
    numbers: segment.SEGMENT_VERSION_SLOTS,
    says: "The first one with slots.",
    isForPython: true,
  },
  { name: "SEGMENT_*", numbers: segment.SEGMENT, says: "Offsets in the segment.", isForPython: true },
  { name: "SLOTS", numbers: segment.SLOTS, says: "Numbers that are to be interrupted.", isForPython: true },
  { name: "GONE", numbers: segment.GONE, says: "The client is.", isForPython: true },
  { name: "ENDED_*", numbers: segment.ENDED, says: "Why the worker has ended a channel.", isForPython: true },
  { name: "RING_*", numbers: segment.RING, says: "Offsets in a control block, and its size.", isForPython: true },
  { name: "RING_CAPACITY_MIN", numbers: segment.RING_CAPACITY_MIN, says: "Bytes of a ring.", isForPython: true },
  { name: "RING_CAPACITY_MAX", numbers: segment.RING_CAPACITY_MAX, says: "Likewise.", isForPython: true },
  {
    name: "STATISTICS_*",
    numbers: { answered, errors, bytesIn, bytesOut, latencies, nanoseconds, words },
    says: "Words of the statistics, 64 bits each, and how many they are.",
    isForPython: true,
  },
  { name: "STATISTICS_WORDS_1", numbers: segment.STATISTICS_WORDS_1, says: "As many in version 1 of the shim." },
  { name: "LATENCY_CLASSES", numbers: segment.LATENCY_CLASSES, says: "Powers of two of a µs.", isForPython: true },
  { name: "OPEN_*", numbers: segment.OPEN, says: "Offsets in the payload of OPEN.", isForPython: true },
  { name: "CHANNEL_*", numbers: segment.CHANNEL_KIND, says: "What a segment is for.", isForPython: true },
  { name: "PART_*", numbers: segment.PART, says: "First bytes of parts of a message.", isForPython: true },
  { name: "TO_WORKER_*", numbers: messages.TO_WORKER, says: "Messages of clients.", isForPython: true },
  { name: "TO_CLIENT_*", numbers: messages.TO_CLIENT, says: "Messages of workers.", isForPython: true },
  { name: "TO_ENGINE_*", numbers: engine.TO_ENGINE, says: "Messages to JavaScript.", isForPython: true },
  { name: "FROM_ENGINE_*", numbers: engine.FROM_ENGINE, says: "Messages of JavaScript.", isForPython: true },
  { name: "ENGINE_FAULT_*", numbers: engine.ENGINE_FAULT, says: "What its errors are about.", isForPython: true },
  { name: "REFERENCE_*", numbers: engine.REFERENCE, says: "What values refer to.", isForPython: true },
  { name: "VALUE_*", numbers: engine.VALUE_LIMITS, says: "Limits of values of JavaScript.", isForPython: true },
  { name: "LARGE_BYTES_*", numbers: engine.LARGE_BYTES, says: "Cross in memory of their own.", isForPython: true },
  {
    name: "KEPT_ROOM_BYTES",
    numbers: engine.KEPT_ROOM.bytes,
    says: "Of memory that an engine keeps.",
    isForPython: true,
  },
  { name: "ROOM_OPERATION", numbers: engine.ROOM_OPERATION, says: "Asks for such memory.", isForPython: true },
];
/** Limits that only Python needs a copy of. */
const PYTHON_LIMITS = limits(
  "frameBytes",
  "filePieceBytes",
  "messageBytes",
  "unreadBytes",
  "unreadMs",
  "interrupts",
  "pipeMessageBytes",
  "pipeNameBytes",
  "pipesUntaken",
  "segments",
  "streamItems",
  "streamCredit",
  "boundNameBytes",
  "requests",
  "errorLevels",
  "errorParts",
  "errorChars",
  "hostMessageBytes",
  "stdioCalls",
  "policyRuntimes",
  "runtimesReady",
  "runtimeKindsReady",
  "runtimeTemplates",
);

/** `bytesIn` → `BYTES_IN` */
function upper(key: string): string {
  return key.replaceAll(/[A-Z]/g, "_$&").replaceAll("-", "_").toUpperCase();
}

function namesOf({ name, numbers }: Part): [name: string, value: number][] {
  if (typeof numbers === "number") return [[name, numbers]];
  return Object.entries(numbers).map(([key, value]) => [name.replace("*", upper(key)), value]);
}

/** The version of the package, and a hash of all that compiled parts and the code that loads them must agree on. */
export function edition(): string {
  const addresses = [ADDRESS_RANGES, ADDRESS_CARRIERS];
  const contract = JSON.stringify([segment.MAGIC, PARTS, PYTHON_LIMITS, AUDIT_FIELDS, AUDIT_EVENTS, addresses]);
  return `${VERSION}+${Bun.SHA256.hash(contract, "hex").slice(0, 8)}`;
}

/** `contract/edition.ts`. */
export function editionModule(): string {
  return `/**
 * Written by scripts/generate.ts. Compiled parts of another edition are refused: an installation may have been replaced
 * only in part.
 */
export const EDITION = ${JSON.stringify(edition())};
`;
}

/** What the connect helper writes. */
const AUDIT_IN_C = [
  ...(["time", "writer", "seq", "worker", "event", "verdict", "reason"] as const),
  ...(["host", "address", "port", "call", "suppressed"] as const),
] satisfies (keyof typeof AUDIT_FIELDS)[];
const AUDIT_EVENTS_IN_C = ["connect", "dns", "call"] satisfies (keyof typeof AUDIT_EVENTS)[];

/** The tables of addresses, as initializers of arrays in C. */
function addressesInC(): string {
  const bytes = (address: Uint8Array): string =>
    `{ ${[...address].map((byte) => `0x${byte.toString(16).padStart(2, "0")}`).join(", ")} }`;
  const lines = (name: string, rows: readonly string[]): string =>
    `#define IPC_${name} \\\n${rows.map((one) => `\t{ ${one} }, \\\n`).join("")}\n`;
  const classes = (names: readonly AddressClass[]): string => names.map((name) => `IPC_NET_${upper(name)}`).join(" | ");
  return `
/* Prefix, its bits, and the classes of the addresses that begin so. */
${lines(
  "ADDRESS_RANGES",
  ADDRESS_RANGES.map(({ range, classes: names }) => {
    const { prefix, bits } = parseRange(range);
    return `${bytes(prefix)}, ${bits}, ${classes(names)}`;
  }),
)}
/* Value, mask, where the IPv4 address begins in what equals the value under the mask, and with what its bytes are flipped. */
${lines(
  "ADDRESS_CARRIERS",
  ADDRESS_CARRIERS.map(
    ({ value, mask, at, inverted }) =>
      `${bytes(parseAddress(value)!)}, ${bytes(parseAddress(mask)!)}, ${at}, ${inverted ? "0xff" : "0"}`,
  ),
)}`;
}

/** `native/contract.h`. */
export function contractHeader(): string {
  const literal = (value: number): string => (value > 0x7fff_ffff ? `0x${value.toString(16)}u` : `${value}`);
  const part = (one: Part): string => {
    if (typeof one.numbers === "number") return `#define IPC_${one.name} ${literal(one.numbers)} /* ${one.says} */\n`;
    const lines = namesOf(one).map(([name, value]) => `\tIPC_${name} = ${literal(value)},\n`);
    return `\n/* ${one.says} */\nenum ${one.type === undefined ? "" : `${one.type} `}{\n${lines.join("")}};\n`;
  };
  const words = (prefix: string, names: readonly string[]): string =>
    names.map((name) => `#define IPC_${prefix}_${upper(name)} "${name}"\n`).join("");
  const exits = Object.entries(HOST_EXITS).map(([code, status]) => `{ "${code}", ${status} }`);
  const steps = Object.keys(shim.STEP).map((name) => `"${name}"`);
  return `/* Written by scripts/generate.ts from contract/; change the tables there. */
#ifndef IPC_CONTRACT_H
#define IPC_CONTRACT_H

#define IPC_EDITION "${edition()}" /* Of what is compiled, for the code that loads it. */
#define IPC_STEP_NAMES ${steps.join(", ")}

/* What a worker asks the host for, and exit statuses by the codes of its answers; of any other one it is 1. */
#define IPC_TOOL_TOPIC "${TOOL_TOPIC}"
#define IPC_CANCEL_TOPIC "${CANCEL_TOPIC}"
#define IPC_HOST_EXITS ${exits.join(", ")}

/* Fields and events of the audit. */
${words("AUDIT", AUDIT_IN_C)}${words("AUDIT_EVENT", AUDIT_EVENTS_IN_C)}${PARTS.map(part).join("")}${addressesInC()}
#endif
`;
}

/** `python/ipcctl/_contract.py`. */
export function contractModule(): string {
  const literal = (value: number): string => (value > 0x7fff_ffff ? `0x${value.toString(16)}` : `${value}`);
  const text = (one: Part): string =>
    `\n# ${one.says}\n${namesOf(one)
      .map(([name, value]) => `${name} = ${literal(value)}\n`)
      .join("")}`;
  return `"""Numbers and names that this package shares with its clients and with the shim.

Written by scripts/generate.ts from contract/; change the tables there.
"""

# Of the compiled part that is used.
EDITION = "${edition()}"

# The control protocol: its version, the topics of events by the name that a request gives them, and the length of a
# socket's address.
PROTOCOL = ${PROTOCOL}
SUBSCRIPTIONS = {${Object.entries(SUBSCRIPTIONS)
    .map(([topic, name]) => `"${topic}": "${name}"`)
    .join(", ")}}
SOCKET_PATH_BYTES_MAX = ${SOCKET_PATH_BYTES_MAX}

MAGIC = b"${segment.MAGIC}"

# What a worker asks the host for: the name of a tool follows, or it gives up the request of its correlation.
TOOL_TOPIC = "${TOOL_TOPIC}"
CANCEL_TOPIC = "${CANCEL_TOPIC}"
LET_GO_TOPIC = "${LET_GO_TOPIC}"
START_RUNTIME = "${START_RUNTIME}"
INTERRUPT_RUNTIME = "${INTERRUPT_RUNTIME}"
EXPLAIN_RUNTIME = "${EXPLAIN_RUNTIME}"
RUNTIMES_VARIABLE = "${RUNTIMES_VARIABLE}"

# How an engine is started and confined.
ENGINE_START = """
${JSON.stringify(engine.ENGINE_START, null, 1)}
"""

# Bytes of each ring of a channel that it goes through.
HOST_RING_BYTES = ${HOST_RING_BYTES}

# Where compiled parts lie, seen from the folder of an installation.
PARTS_FOLDERS = (
${PARTS_FOLDERS.map((folder) => `    "${folder}",\n`).join("")})

# What stands for {} in it, by the kernel's name of an architecture.
ARCHITECTURES = {${Object.entries(ARCHITECTURES)
    .map(([kernel, name]) => `"${kernel}": "${name}"`)
    .join(", ")}}
${[
  ...PARTS.filter(({ isForPython }) => isForPython),
  { name: "*_MAX", numbers: PYTHON_LIMITS, says: "Limits, as docs/internals/limits.md has them." },
]
  .map(text)
  .join("")}`;
}

const row = (...cells: (string | number)[]): string => `| ${cells.join(" | ")} |`.replaceAll("  |", " |");
const table = (head: readonly string[], rows: readonly string[]): string =>
  [row(...head), `|${"---|".repeat(head.length)}`, ...rows].join("\n");
const entries = <K extends string>(numbers: Readonly<Record<K, number>>): [K, number][] =>
  Object.entries(numbers) as [K, number][]; // keys of a closed table

const EXITS: Readonly<Record<keyof typeof shim.SHIM_EXIT, string>> = {
  done: "the run ended and `exit` is written",
  system: "the system refused something; one line on stderr says what",
  locked: "another shim holds the lock",
  noSpec: "there is no `spec`",
  badSpec: "`spec` is malformed",
};

/** Tables of documents, by the name of the place that they are put in. */
const TABLES: Readonly<Record<string, () => string>> = {
  "protocol.md: requests": requestTable,
  "protocol.md: answers": answerTable,
  "architecture.md: folders": () =>
    table(
      ["folder", "one job", "may use"],
      layerRows().map((cells) => row(...cells)),
    ),
  "internals/shim.md: spec": () =>
    table(
      ["type", "name", "payload", ""],
      entries(shim.SPEC).map(([key, type]) => row(type, key.toUpperCase(), ...shim.SPEC_PAYLOADS[key])),
    ),
  "internals/shim.md: requests": () =>
    table(
      ["type", "name", "payload", "answer"],
      entries(shim.REQUEST).map(([key, type]) => row(type, key.toUpperCase(), ...shim.REQUEST_PAYLOADS[key])),
    ),
  "internals/shim.md: replies": () =>
    table(
      ["type", "name", "payload"],
      entries(shim.REPLY).map(([key, type]) =>
        row(type, shim.REPLY_NAMES[key] ?? key.toUpperCase(), shim.REPLY_PAYLOADS[key]),
      ),
    ),
  "internals/shm-layout.md: segment": () =>
    table(
      ["offset", "size", "holds"],
      entries(segment.SEGMENT).map(([key, offset]) => row(offset, ...segment.SEGMENT_FIELDS[key])),
    ),
  "internals/shm-layout.md: kinds": () =>
    table(
      ["kind", "is for"],
      entries(segment.CHANNEL_KIND).map(([key, kind]) => row(kind, segment.CHANNEL_KINDS[key])),
    ),
  "internals/shim.md: exits": () =>
    table(
      ["exit of `ipcctl-shim DIR`", "because"],
      entries(shim.SHIM_EXIT).map(([key, status]) => row(status, EXITS[key])),
    ),
  "internals/shim.md: maxima": () =>
    table(
      ["at most", "of"],
      [
        row(shim.SHIM_MAX.requestBytes, "bytes of type and payload of a request; the largest is OPEN"),
        row(shim.SHIM_MAX.replyBytes, "bytes of the payload of a reply"),
        row(LIMITS.specBytes.value, "bytes of `spec`"),
        row(shim.SHIM_MAX.clients, "connections at once"),
      ],
    ),
  "internals/shm-layout.md: ended": () =>
    table(
      ["`ended`", "because"],
      entries(segment.ENDED).map(([key, why]) => row(why, segment.ENDED_MEANING[key])),
    ),
  "internals/shm-layout.md: control": () =>
    table(
      ["offset", "word", "written by", "holds"],
      Object.entries(segment.RING_FIELDS).map(([key, about]) =>
        row(segment.RING[key as keyof typeof segment.RING_FIELDS], `\`${upper(key).toLowerCase()}\``, ...about),
      ),
    ),
  "host.md: codes": () =>
    table(
      ["code", "stage", "retriable", ""],
      Object.entries(HOST_CODES).map(([code, { stage, retriable, says }]) =>
        row(`\`${code}\``, stage, retriable ? "yes" : "no", says),
      ),
    ),
  "security.md: addresses": () =>
    table(
      ["addresses", "class", ""],
      ADDRESS_RANGES.map(({ range, classes, why }) => row(`\`${range}\``, classes.join(", "), why)),
    ),
  "security.md: audit fields": () =>
    table(
      ["field", "type", ""],
      Object.entries(AUDIT_FIELDS).map(([field, [type, says]]) => row(`\`${field}\``, type, says)),
    ),
  "security.md: audit events": () =>
    table(
      ["event", ""],
      Object.entries(AUDIT_EVENTS).map(([event, says]) => row(`\`${event}\``, says)),
    ),
  "internals/engine.md: to engine": () =>
    table(
      ["Python to JavaScript", "fields"],
      entries(engine.TO_ENGINE).map(([key, kind]) => row(`${kind} ${key.toUpperCase()}`, engine.TO_ENGINE_FIELDS[key])),
    ),
  "internals/engine.md: from engine": () =>
    table(
      ["JavaScript to Python", "fields"],
      entries(engine.FROM_ENGINE).map(([key, kind]) =>
        row(`${kind} ${key.toUpperCase()}`, engine.FROM_ENGINE_FIELDS[key]),
      ),
    ),
  "internals/shm-layout.md: to worker": () =>
    table(
      ["client to worker", "fields"],
      entries(messages.TO_WORKER).map(([key, kind]) =>
        row(`${kind} ${key.toUpperCase()}`, messages.TO_WORKER_FIELDS[key]),
      ),
    ),
  "internals/shm-layout.md: to client": () =>
    table(
      ["worker to client", "fields"],
      entries(messages.TO_CLIENT).map(([key, kind]) =>
        row(`${kind} ${key.toUpperCase()}`, messages.TO_CLIENT_FIELDS[key]),
      ),
    ),
};

/**
 * The document with its tables as they must be: each lies between `<!-- table: NAME (…) -->` and `<!-- end of table
 * -->`.
 */
export function withTables(file: string, text: string): string {
  return text.replaceAll(
    /(<!-- table: ([^(]+?) \(.*?\) -->\n)[^]*?(\n<!-- end of table -->)/g,
    (_, head: string, name: string, tail: string) => {
      const make = TABLES[`${file}: ${name}`];
      if (!make) throw new Error(`${file}: no table ${JSON.stringify(name)} is known`);
      return `${head}\n${make()}\n${tail}`;
    },
  );
}

/** Documents with tables, and how many they have. */
export const DOCUMENTS: Readonly<Record<string, number>> = Object.fromEntries(
  [
    "architecture.md",
    "host.md",
    "internals/shim.md",
    "internals/engine.md",
    "internals/shm-layout.md",
    "protocol.md",
    "security.md",
  ].map((file) => [file, Object.keys(TABLES).filter((name) => name.startsWith(`${file}: `)).length]),
);
