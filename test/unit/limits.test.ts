/** Every limit drives code, in each language that has a copy of it. */
import type { Socket } from "bun";
import { afterEach, beforeEach, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import { toWorkerId } from "../../src/base/names.ts";
import { Session } from "../../src/daemon/control-session.ts";
import { EventStream } from "../../src/events/stream.ts";
import { Subscriptions } from "../../src/events/subscriptions.ts";
import { decode } from "../../src/plane/cbor-decode.ts";
import { Encoder } from "../../src/plane/cbor-encode.ts";
import { parseAppConfig } from "../../src/protocol/app-config.ts";
import { encodeFrame, FrameDecoder } from "../../src/protocol/frame.ts";
import { readProject } from "../../src/protocol/project.ts";
import { parseRequest } from "../../src/protocol/requests.ts";
import { event, success, type Response } from "../../src/protocol/responses.ts";
import { loadPolicy, parsePolicy } from "../../src/sandbox/policy.ts";
import { keepSpools, rotateSpool } from "../../src/audit/spool.ts";
import { encodeSpec } from "../../src/shim/spec.ts";
import { SEGMENT } from "../../contract/segment.ts";
import { Incoming, Stream } from "../../src/calls/streams.ts";
import { CAPACITY } from "../../src/plane/meet.ts";
import { Pipe } from "../../src/plane/pipe.ts";
import { SharedRingBuffer } from "../../src/plane/ring.ts";
import { requireFewOf } from "../../src/workers/ephemeral.ts";
import { Store } from "../../src/workers/store.ts";
import { waitUntil } from "../deadline.ts";
import { exitOf } from "../exits.ts";

const ROOT = join(import.meta.dir, "..", "..");

const textOf = (pattern: string, without: string): string =>
  [...new Bun.Glob(pattern).scanSync(ROOT)]
    .filter((file) => file !== without && !file.includes("/build/"))
    .map((file) => readFileSync(join(ROOT, file), "utf8"))
    .join("\n");

/** What is generated for a language, and all that is written in it. */
const LANGUAGES = [
  { copy: "native/contract.h", code: textOf("native/**/*.{c,h}", "native/contract.h"), prefix: "IPC_" },
  { copy: "python/ipcctl/_contract.py", code: textOf("python/**/*.py", "python/ipcctl/_contract.py"), prefix: "" },
].map((one) => ({ ...one, copied: readFileSync(join(ROOT, one.copy), "utf8") }));
const typescript = textOf("src/**/*.ts", "");

/** `pipeNameBytes` → `PIPE_NAME_BYTES_MAX` */
const upper = (name: string): string => `${name.replaceAll(/[A-Z]/g, "_$&").toUpperCase()}_MAX`;
const has = (text: string, name: string): boolean => new RegExp(`\\b${name}\\b`).test(text);

test("no limit stands in the table that no code reads", () => {
  const unread = Object.keys(LIMITS).filter(
    (name) =>
      !new RegExp(`\\blimit\\(\\s*"${name}"|\\bLIMITS\\.${name}\\b`).test(typescript) &&
      !LANGUAGES.some(
        ({ copied, code, prefix }) => has(copied, prefix + upper(name)) && has(code, prefix + upper(name)),
      ),
  );
  expect(unread).toEqual([]);
});

test("no language has a copy of a limit that its code does not read", () => {
  const unread = LANGUAGES.flatMap(({ copy, copied, code, prefix }) =>
    Object.keys(LIMITS)
      .map((name) => prefix + upper(name))
      .filter((name) => has(copied, name) && !has(code, name))
      .map((name) => `${copy}: ${name}`),
  );
  expect(unread).toEqual([]);
});

/** What a limit takes, and what it refuses with: with the number itself, and with one more. */
const BOUNDS: Partial<Record<keyof typeof LIMITS, (count: number) => unknown>> = {
  nameChars: (count) => toWorkerId("n".repeat(count)),
  instances: (count) => parseAppConfig(JSON.stringify({ name: "a", command: "true", instances: count }), "/"),
  ephemerals: (count) => requireFewOf(1, count - 1),
  args: (count) => parseAppConfig(JSON.stringify({ name: "a", command: "true", args: Array(count).fill("x") }), "/"),
  restartDelayMs: (count) =>
    parseAppConfig(JSON.stringify({ name: "a", command: "true", backoff: { max_delay_ms: count } }), "/"),
  logAgeMs: (count) => parseAppConfig(JSON.stringify({ name: "a", command: "true", log: { max_age: count } }), "/"),
  workers: (count) => request({ Act: { verb: "stop", names: Array(count).fill("a") } }),
  graceMs: (count) => request({ Act: { verb: "stop", names: ["a"], grace_ms: count } }),
  frameBytes: (count) => {
    encodeFrame(new Uint8Array(count));
    const decoder = new FrameDecoder();
    decoder.push(Uint8Array.of(count, count >> 8, count >> 16, count >> 24));
    decoder.next();
  },
  specBytes: (count) => {
    const spec = (bytes: number) =>
      encodeSpec({ run: 1, argv: ["x".repeat(bytes)], env: {}, cwd: "/", stop: { graceMs: 1, signal: 15 } });
    spec(count - (spec(1).length - 1));
  },
  configBytes: (count) => readProject(file("ipcctl.json", JSON.stringify({ apps: [] }).padEnd(count))),
  policyBytes: (count) => loadPolicy(file("big.json", JSON.stringify({ version: 1 }).padEnd(count))),
  policyExtends: (count) => {
    for (let index = 0; index < count; index++)
      file(
        `p${index}.json`,
        JSON.stringify({ version: 1, ...(index === 0 ? {} : { extends: `./p${index - 1}.json` }) }),
      );
    loadPolicy(join(dir, `p${count - 1}.json`));
  },
  policyPaths: (count) =>
    parsePolicy(
      JSON.stringify({ version: 1, files: { read: Array.from({ length: count }, (_, at) => `/${at}`) } }),
      "p",
    ),
  policyHosts: (count) =>
    parsePolicy(
      JSON.stringify({
        version: 1,
        network: { mode: "allow", allow: Array.from({ length: count }, (_, at) => `h${at}:1`) },
      }),
      "p",
    ),
  policyTools: (count) =>
    parsePolicy(
      JSON.stringify({ version: 1, host: { tools: Array.from({ length: count }, (_, at) => `p.t${at}`) } }),
      "p",
    ),
  policyRuntimes: (count) => {
    const host = { runtimes: count };
    parsePolicy(JSON.stringify({ version: 1, host }), "p");
    parseAppConfig(JSON.stringify({ name: "a", command: "true", allow: host }), "/");
  },
  valueDepth: (count) => {
    let value: unknown[] = [];
    for (let level = 1; level < count; level++) value = [value];
    decode(Uint8Array.from({ length: count }, (_, at) => (at === count - 1 ? 0x80 : 0x81)));
    new Encoder().encode(value);
  },
};

/**
 * Where the others are tried at their number and one past it: the file, which names the limit, and the test. A test of
 * this file names its limit first.
 */
const TESTS: Partial<Record<keyof typeof LIMITS, readonly (readonly [file: string, test: string])[]>> = {
  ephemeralsEnded: [["test/life/ephemeral.test.ts", "why one failed can be asked for a while, of the newest"]],
  claimMs: [["test/life/ephemeral.test.ts", "a shim whose owner does not come in time ends its worker"]],
  connections: [["test/life/limits.test.ts", "connections: as many as the limit are served"]],
  eventsHeld: [["test/unit/events.test.ts", "eventsHeld: as many are held, and with one more the oldest is not"]],
  logLines: [["test/life/limits.test.ts", "logLines: as many as the limit"]],
  logAnswerBytes: [["test/life/limits.test.ts", "logAnswerBytes: as much as the limit is answered"]],
  logScanBytes: [["test/unit/logs.test.ts", "one request looks through so many bytes of a log and no more"]],
  lineChars: [
    ["test/life/limits.test.ts", "lineChars: a line as long as the limit comes whole"],
    ["test/life/long-line.test.ts", "the daemon cuts it for those who are subscribed"],
  ],
  pieceBytes: [["test/unit/logs.test.ts", "a line of as many bytes as are held comes whole"]],
  watchDirs: [["test/unit/watch.test.ts", "as many folders as the limit says are watched"]],
  channels: [["test/runtime/sharing.test.ts", "as many channels as there may be, and one more"]],
  messageBytes: [
    ["test/runtime/sharing.test.ts", "messages as large as may be, and larger ones, either way"],
    ["test/calls/hostile.test.ts", "a length beyond the limit end the session"],
  ],
  unreadBytes: [["test/runtime/hostile.test.ts", "what waits for a worker that does not read has a limit"]],
  unreadMs: [["test/python/test_channel.py", "test_a_client_that_takes_nothing"]],
  frameBytes: [["test/python/test_channel.py", "test_frames_of_the_control_socket"]],
  specBytes: [["test/unit/shim-vectors.test.ts", "specBytes: a specification as large as the limit is read"]],
  auditBytes: [["test/escape/net.test.ts", "an audit does not grow without end, and counts what it leaves out"]],
  auditTickBytes: [["test/unit/audit-chain.test.ts", "auditTickBytes: of one spool"]],
  auditUntakenBytes: [["test/host/flood.test.ts", "auditUntakenBytes: with as much there is room"]],
  auditLineBytes: [["test/unit/audit-chain.test.ts", "auditLineBytes: a line as long as the limit"]],
  auditWriters: [["test/unit/audit-chain.test.ts", "auditWriters: of as many writers"]],
  auditChainBytes: [["test/unit/audit-chain.test.ts", "auditChainBytes: a file as large ends"]],
  auditChainFiles: [["test/unit/audit-chain.test.ts", "auditChainFiles, auditChainMs: as many files"]],
  auditChainMs: [["test/unit/audit-chain.test.ts", "auditChainFiles, auditChainMs: as many files"]],
  policyRuntimes: [["test/python/test_channel.py", "test_channels_that_nobody_waits_for"]],
  runtimesReady: [["test/python/test_js_process.py", "test_as_many_are_ready_as_were_taken_up_to_the_limit"]],
  runtimeKindsReady: [["test/python/test_js_process.py", "test_kinds_that_were_asked_for_long_ago_have_none_ready"]],
  fetchConnections: [
    ["test/js/reach.test.ts", "fetchConnections, fetchRedirects and fetchHeadBytes are as the cases have them"],
  ],
  fetchRedirects: [
    ["test/js/reach.test.ts", "fetchConnections, fetchRedirects and fetchHeadBytes are as the cases have them"],
  ],
  fetchHeadBytes: [
    ["test/js/reach.test.ts", "fetchConnections, fetchRedirects and fetchHeadBytes are as the cases have them"],
  ],
  runtimeTemplates: [["test/python/test_js_process.py", "test_templates_that_are_kept"]],
  pipeMessageBytes: [["test/python/test_channel.py", "test_names_and_messages_of_a_pipe"]],
  pipeNameBytes: [["test/python/test_channel.py", "test_names_and_messages_of_a_pipe"]],
  streamItems: [["test/python/test_channel.py", "test_items_of_a_stream_that_a_client_sends"]],
  valueDepth: [["test/python/test_codec.py", "test_depth"]],
  requests: [
    ["test/calls/hostile.test.ts", "more requests than may be under way are refused"],
    ["test/python/test_channel.py", "test_functions_that_are_lent"],
  ],
  streamCredit: [
    ["test/calls/hostile.test.ts", "credit of a client's stream: streamCredit at once, and one more"],
    ["test/python/test_channel.py", "test_credit_of_streams"],
  ],
  boundNameBytes: [
    ["test/calls/hostile.test.ts", "names of lent functions: as long as boundNameBytes, and one byte more"],
    ["test/python/test_channel.py", "test_names_of_functions"],
  ],
  errorLevels: [
    ["test/unit/cbor.test.ts", "of an error as much is told as errorLevels, errorParts and errorChars say"],
    ["test/python/test_codec.py", "test_how_much_is_told_of_an_error"],
  ],
  errorParts: [
    ["test/unit/cbor.test.ts", "of an error as much is told as errorLevels, errorParts and errorChars say"],
    ["test/python/test_codec.py", "test_how_much_is_told_of_an_error"],
  ],
  errorChars: [
    ["test/unit/cbor.test.ts", "of an error as much is told as errorLevels, errorParts and errorChars say"],
    ["test/python/test_codec.py", "test_how_much_is_told_of_an_error"],
  ],
  interrupts: [["test/python/test_channel.py", "test_requests_to_be_interrupted"]],
  segments: [["test/runtime/hostile.test.ts", "a worker that hoards segments is stopped at the limit"]],
  hostMessageBytes: [
    ["test/host/wire.test.ts", "hostMessageBytes: as much as the limit"],
    ["test/host/channel.test.ts", "hostMessageBytes: a request of as many bytes is taken"],
    ["test/host/ipc.test.ts", "hostMessageBytes: a request of as many bytes is sent"],
    ["test/runtime/host.test.ts", "hostMessageBytes: a request of as many bytes is sent"],
    ["test/host/stdio.test.ts", "hostMessageBytes: a request of as many bytes is carried out"],
  ],
  stdioRequests: [["test/host/stdio.test.ts", "%s: one that does not read its answers"]],
  stdioBytes: [["test/host/stdio.test.ts", "%s: one that does not read its answers"]],
  stdioCalls: [
    ["test/host/stdio.test.ts", "stdioCalls: as many"],
    ["test/host/transports.test.ts", "stdioCalls: as many"],
  ],
  stdioIdBytes: [["test/host/line.test.ts", "stdioIdBytes: a line with an id of so many bytes"]],
  hostDepth: [["test/host/wire.test.ts", "hostDepth: as many levels as the limit"]],
  hostValues: [["test/host/wire.test.ts", "hostValues: as many values as the limit"]],
  topicChars: [
    ["test/host/wire.test.ts", "topicChars, correlationChars: as long as the limit"],
    ["test/host/line.test.ts", "topicChars: of a method"],
  ],
  correlationChars: [
    ["test/host/wire.test.ts", "topicChars, correlationChars: as long as the limit"],
    ["test/host/stdio.test.ts", "correlationChars: an id"],
  ],
  hostCommands: [["test/host/ipc-beside.test.ts", "hostCommands: as many"]],
  hostCalls: [["test/host/pipeline.test.ts", "hostCalls: as many as the limit"]],
  hostErrorChars: [["test/host/pipeline.test.ts", "hostErrorChars: as long as the limit"]],
  rateCalls: [["test/host/buckets.test.ts", "rateCalls: as many as the limit"]],
  plugins: [["test/host/manifest.test.ts", "plugins: as many as the limit are used"]],
  pluginManifestBytes: [["test/host/manifest.test.ts", "pluginManifestBytes: as many as the limit"]],
  pluginTools: [
    ["test/host/manifest.test.ts", "pluginTools, pluginHosts, pluginCredentials, pluginTextChars, pluginToolMs: "],
  ],
  pluginToolMs: [
    ["test/host/manifest.test.ts", "pluginTools, pluginHosts, pluginCredentials, pluginTextChars, pluginToolMs: "],
  ],
  pluginTextChars: [
    ["test/host/manifest.test.ts", "pluginTools, pluginHosts, pluginCredentials, pluginTextChars, pluginToolMs: "],
  ],
  pluginHosts: [
    ["test/host/manifest.test.ts", "pluginTools, pluginHosts, pluginCredentials, pluginTextChars, pluginToolMs: "],
  ],
  pluginCredentials: [
    ["test/host/manifest.test.ts", "pluginTools, pluginHosts, pluginCredentials, pluginTextChars, pluginToolMs: "],
  ],
  pluginFiles: [["test/host/manifest.test.ts", "pluginFiles, pluginDepth: as many"]],
  pluginDepth: [["test/host/manifest.test.ts", "pluginFiles, pluginDepth: as many"]],
  pluginBytes: [["test/host/manifest.test.ts", "pluginBytes: as many as the limit"]],
  approvalMs: [
    ["test/host/approvals.test.ts", "approvalMs: nobody is asked for longer"],
    ["test/host/approve.test.ts", "approvalMs: nobody there means no"],
  ],
  approvalsPending: [
    ["test/host/approvals.test.ts", "approvalsPending: as many calls of a session as the limit wait"],
    ["test/host/approve.test.ts", "approvalsPending: as many calls of a run as the limit wait"],
  ],
  skillBytes: [
    ["test/host/provisions.test.ts", "skillBytes: a text of as many bytes is told whole, and a longer one is cut"],
    ["test/host/provisions.test.ts", "skillBytes: of a program as many, and one more is refused"],
  ],
  provisions: [["test/host/provisions.test.ts", "provisions: as many as the limit, and one more is refused"]],
  provisionGroups: [["test/host/provisions.test.ts", "provisionGroups: as many as the limit, and one more is refused"]],
  approvalGrants: [["test/host/approvals.test.ts", "approvalGrants: as many sets of values as the limit"]],
  approvalPageBytes: [["test/host/render.test.ts", "approvalPageBytes: pages are as long as the limit"]],
  approvalHashDigits: [["test/host/approvals.test.ts", "approvalHashDigits: as many digits say which call"]],
  approvalReasonChars: [["test/host/approvals.test.ts", "approvalReasonChars: a reason as long as the limit"]],
  storesOpen: [["test/host/files.test.ts", "storesOpen: as many groups as the limit are open"]],
  storeRows: [["test/host/files.test.ts", "groupFiles, storeRows: as many as the limit"]],
  storeAnswerBytes: [["test/host/files.test.ts", "storeAnswerBytes: rows as long as the limit in all"]],
  fileBytes: [["test/host/files.test.ts", "fileBytes, filePieceBytes: as much as the limit"]],
  filePieceBytes: [
    ["test/host/files.test.ts", "fileBytes, filePieceBytes: as much as the limit"],
    ["test/host/stored.test.ts", "the same from Python"],
  ],
  fileNameBytes: [["test/host/files.test.ts", "fileNameBytes, storeLabelBytes: as long as the limit"]],
  storeLabelBytes: [["test/host/files.test.ts", "fileNameBytes, storeLabelBytes: as long as the limit"]],
  fileUploads: [["test/host/files.test.ts", "fileUploads, uploadMs: as many may be under way"]],
  uploadMs: [["test/host/files.test.ts", "fileUploads, uploadMs: as many may be under way"]],
  groupFiles: [["test/host/files.test.ts", "groupFiles, storeRows: as many as the limit"]],
  groupFileBytes: [["test/host/files.test.ts", "groupFileBytes: as much as the limit"]],
  projectBytes: [["test/host/memory.test.ts", "projectBytes: values of as many bytes"]],
  conversations: [["test/host/memory.test.ts", "conversations: as many as the limit are kept"]],
  conversationMessages: [["test/host/memory.test.ts", "conversationMessages, conversationTextBytes: as many are kept"]],
  conversationTextBytes: [
    ["test/host/memory.test.ts", "conversationMessages, conversationTextBytes: as many are kept"],
  ],
  memories: [["test/host/memory.test.ts", "memories: as many that hold as the limit"]],
  memoryBytes: [["test/host/memory.test.ts", "memoryBytes, memoryQueryBytes: as long as the limit"]],
  memoryQueryBytes: [["test/host/memory.test.ts", "memoryBytes, memoryQueryBytes: as long as the limit"]],
  cronChars: [["test/host/schedule.test.ts", "cronChars: a pattern of as many characters"]],
  tasks: [["test/host/schedule.test.ts", "tasks: as many as the limit"]],
  taskRuns: [["test/host/schedule.test.ts", "taskRuns: as many runs are kept"]],
  taskLateMs: [["test/host/schedule.test.ts", "taskLateMs: one that is as late"]],
  taskBegins: [["test/host/schedule.test.ts", "taskBegins: a run is begun as often"]],
  taskOutcomeChars: [["test/host/schedule.test.ts", "taskOutcomeChars: what a run says"]],
  eventBytes: [["test/host/event-queue.test.ts", "eventBytes, eventKeyBytes: as much as the limit"]],
  eventKeyBytes: [["test/host/event-queue.test.ts", "eventBytes, eventKeyBytes: as much as the limit"]],
  eventKeyMs: [["test/host/event-queue.test.ts", "eventKeyMs: within that time"]],
  eventKeys: [["test/host/event-queue.test.ts", "eventKeys: as many keys as the limit"]],
  eventAttempts: [["test/host/event-queue.test.ts", "eventAttempts: what fails is tried as often"]],
  eventsWaiting: [["test/host/event-queue.test.ts", "eventsWaiting: as many of a group wait"]],
  eventsDone: [["test/host/event-queue.test.ts", "eventsDone: as many of a group are kept"]],
  eventDoneMs: [["test/host/event-queue.test.ts", "eventDoneMs, deadLetterMs: for so long"]],
  deadLetters: [["test/host/event-queue.test.ts", "deadLetters: as many of a group"]],
  deadLetterMs: [["test/host/event-queue.test.ts", "eventDoneMs, deadLetterMs: for so long"]],
  sessionsKept: [["test/host/session-store.test.ts", "sessionsKept, sessionKeptMs: as many of a group"]],
  sessionKeptMs: [["test/host/session-store.test.ts", "sessionsKept, sessionKeptMs: as many of a group"]],
  sessionCalls: [["test/host/session-store.test.ts", "sessionCalls: as many calls of a session"]],
  sessionOutputBytes: [["test/host/prompt.test.ts", "sessionOutputBytes: as much of what a session prints"]],
  sessionHistoryBytes: [["test/host/session-store.test.ts", "sessionHistoryBytes: as much of what was said"]],
  workspaces: [["test/host/session-store.test.ts", "workspaces: as many of a group are kept"]],
  workspaceBytes: [["test/host/session-store.test.ts", "workspaceBytes: as many bytes as the limit"]],
  workspaceFiles: [["test/host/prompt.test.ts", "workspaceFiles: as many files as the limit"]],
  eventShownBytes: [["test/host/prompt.test.ts", "published events are seen by those who are subscribed"]],
  webhooks: [["test/host/webhook-signature.test.ts", "webhooks, webhookPathChars: as many as the limit"]],
  webhookPathChars: [["test/host/webhook-signature.test.ts", "webhooks, webhookPathChars: as many as the limit"]],
  webhookAgeMs: [["test/host/webhook-signature.test.ts", "webhookAgeMs: as old as the limit"]],
  httpCalls: [["test/host/http-transport.test.ts", "httpCalls: a worker that floods waits for itself"]],
  rules: [["test/host/event-queue.test.ts", "rules, ruleSessions: as many as the limit"]],
  sessionsEnded: [["test/host/sessions.test.ts", "sessionsEnded: as many as the limit stay"]],
  ruleSessions: [["test/host/event-queue.test.ts", "rules, ruleSessions: as many as the limit"]],
  credentials: [["test/host/credentials.test.ts", "credentials: as many as the limit"]],
  credentialChars: [["test/host/credentials.test.ts", "credentialChars, credentialBytes: a value of as many"]],
  credentialBytes: [["test/host/credentials.test.ts", "credentialChars, credentialBytes: a value of as many"]],
  credentialOldMs: [["test/host/credentials.test.ts", "credentialOldMs: a value that was replaced"]],
  credentialOldValues: [["test/host/credentials.test.ts", "credentialOldValues: as many values"]],
  webSites: [["test/host/http.test.ts", "webSites: as many as the limit"]],
  webUrlChars: [["test/host/http.test.ts", "webSendBytes, webUrlChars, webHeaders, webHeaderBytes: as much as"]],
  webHeaders: [["test/host/http.test.ts", "webSendBytes, webUrlChars, webHeaders, webHeaderBytes: as much as"]],
  webHeaderBytes: [["test/host/http.test.ts", "webSendBytes, webUrlChars, webHeaders, webHeaderBytes: as much as"]],
  webSendBytes: [["test/host/http.test.ts", "webSendBytes, webUrlChars, webHeaders, webHeaderBytes: as much as"]],
  webBodyBytes: [["test/host/http.test.ts", "webBodyBytes: a body as long as the limit"]],
  webWireBytes: [["test/host/http.test.ts", "webWireBytes: as much of a compressed body as the limit"]],
  webHeadBytes: [["test/host/http.test.ts", "webHeadBytes: a head as long as the limit"]],
  webRedirects: [["test/host/http.test.ts", "webRedirects: as many as the limit"]],
  webAddresses: [["test/host/http.test.ts", "webAddresses: as many as the limit"]],
  webMs: [["test/host/http.test.ts", "webMs: no request takes longer"]],
  webRequests: [["test/host/http.test.ts", "webRequests: as many as the limit"]],
  sqlStatementChars: [["test/host/sql.test.ts", "sqlStatementChars, sqlParams: as many as the limit"]],
  sqlParams: [["test/host/sql.test.ts", "sqlStatementChars, sqlParams: as many as the limit"]],
  sqlRows: [["test/host/sql.test.ts", "sqlRows: as many as the limit are answered"]],
  tableBytes: [["test/unit/tables.test.ts", "tableBytes: as many bytes as the limit"]],
  sqlTableRows: [["test/host/sql.test.ts", "sqlTableRows: a table has as many rows as the limit"]],
  tablesHeld: [["test/unit/tables.test.ts", "tablesHeld, tablesHeldBytes: as many as the limit"]],
  tablesHeldBytes: [["test/unit/tables.test.ts", "tablesHeld, tablesHeldBytes: as many as the limit"]],
  filesNamed: [["test/host/duckdb.test.ts", "filesNamed: as many files as the limit"]],
  pluginGroups: [["test/unit/tables.test.ts", "pluginGroups: as many groups as the limit"]],
  sqlAnswerBytes: [["test/host/sql.test.ts", "sqlAnswerBytes: rows of as many bytes as the limit"]],
  sqlTimeoutMs: [["test/host/sql.test.ts", "sqlTimeoutMs, sqlConnections: no configuration has more"]],
  sqlConnections: [["test/host/sql.test.ts", "sqlTimeoutMs, sqlConnections: no configuration has more"]],
  watches: [["test/unit/file-trigger.test.ts", "watches: as many as the limit are read"]],
  watchFiles: [["test/unit/file-trigger.test.ts", "watchFiles: as many entries as the limit are looked at"]],
  watchDepth: [["test/unit/file-trigger.test.ts", "watchDepth: files in as many folders as the limit"]],
  watchWaiting: [["test/host/watch.test.ts", "watchWaiting: of a flood as many events as the limit wait"]],
  watchMatchChars: [["test/unit/file-trigger.test.ts", "watchMatchChars: a pattern as long as the limit"]],
  pipesUntaken: [["test/runtime/sharing.test.ts", "pipes that nobody takes: as many as may wait, and one more"]],
};

/**
 * The languages whose code reads a limit, with the files whose tests drive it: a test that starts a worker drives the
 * shim in C, and the runtime in Python where the name of the test says so.
 */
const languagesOf = (name: string): (readonly [language: string, tried: RegExp])[] => {
  const [c, python] = LANGUAGES.map(
    ({ copied, code, prefix }) => has(copied, prefix + upper(name)) && has(code, prefix + upper(name)),
  );
  const isTypeScript = new RegExp(`\\blimit\\(\\s*"${name}"|\\bLIMITS\\.${name}\\b`).test(typescript);
  return [
    ...(isTypeScript ? [["TypeScript", /\.test\.ts$/] as const] : []),
    ...(c
      ? [["C", /test\/(life|runtime|escape|crash|host\/(ipc|stdio|line)|unit\/.*vectors|python\/test_codec)/] as const]
      : []),
    ...(python ? [["Python", /\.py$|test\/runtime\/|test\/host\/(stored|channel|transports)/] as const] : []),
  ];
};

test("every limit has a test that is named here", () => {
  const here = readFileSync(import.meta.path, "utf8");
  const missing = Object.keys(LIMITS).flatMap((name) => {
    const isHere = Object.hasOwn(BOUNDS, name) || here.includes(`\ntest("${name}: `);
    const named = TESTS[name as keyof typeof LIMITS] ?? [];
    if (named.length === 0 && !isHere)
      return [`${name}: no test at the limit and one past it; write one, and name it in TESTS`];
    const untried = languagesOf(name).filter(
      ([language, tried]) => !(isHere && language === "TypeScript") && !named.some(([path]) => tried.test(path)),
    );
    const lacking = untried.map(([language]) => `${name}: ${language} reads it, and no test of that is named`);
    const wrong = named.flatMap(([path, title]) => {
      const text = readFileSync(join(ROOT, path), "utf8");
      const isNamed = has(text, name) || has(text, upper(name)) || has(text, `_${upper(name).replace(/_MAX$/, "")}`);
      return isNamed && text.includes(title) ? [] : [`${name}: ${path} has no test "${title}" that names it`];
    });
    return [...lacking, ...wrong];
  });
  expect(missing).toEqual([]);
});

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "ipcctl-limits-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const file = (name: string, text: string): string => {
  writeFileSync(join(dir, name), text);
  return join(dir, name);
};
const request = (message: object): unknown => parseRequest(Buffer.from(JSON.stringify(message)));

for (const [name, take] of Object.entries(BOUNDS))
  test(`${name}: as much as the limit is taken, and one more refused`, () => {
    const { value } = LIMITS[name as keyof typeof LIMITS];
    take(value);
    expect(() => take(value + 1)).toThrow();
  });

test("auditBytes: a spool that is as large is rotated, and no smaller one", () => {
  const path = file("daemon.jsonl", "");
  truncateSync(path, LIMITS.auditBytes.value - 1);
  rotateSpool(path);
  expect(existsSync(`${path}.1`)).toBe(false);
  truncateSync(path, LIMITS.auditBytes.value);
  rotateSpool(path);
  expect(existsSync(`${path}.1`)).toBe(true);
});

test("auditTotalBytes: as much is kept of all spools, and with more the largest one loses its oldest file", () => {
  const sized = (name: string, bytes: number): string => {
    const path = file(name, "");
    truncateSync(path, bytes);
    return path;
  };
  const quiet = ["daemon.jsonl", "worker-quiet.jsonl", "worker-quiet.jsonl.1"].map((name) => sized(name, 1000));
  const loud = ["", ".1", ".2", ".3"].map((ending) => sized(`worker-loud.jsonl${ending}`, 2000));
  const gone = sized("worker-loud.jsonl.4", LIMITS.auditTotalBytes.value - 11_000);
  const isThere = (path: string): boolean => existsSync(path);
  keepSpools(dir);
  expect([...quiet, ...loud, gone].every(isThere)).toBe(true);
  file("run.jsonl", "1");
  keepSpools(dir);
  expect([quiet.every(isThere), loud.every(isThere), isThere(gone)]).toEqual([true, true, false]);
});

/** One connection whose peer takes so many bytes and no more. */
function connection(takes: number, handle: () => Promise<Response> = () => Promise.resolve(success("done"))) {
  const seen = { written: [] as Uint8Array[], taken: 0, isPaused: false, isEnded: false, room: takes };
  const socket = {
    write: (bytes: Uint8Array): number => {
      const count = Math.min(bytes.length, seen.room);
      seen.room -= count;
      seen.taken += count;
      seen.written.push(bytes.slice(0, count));
      return count;
    },
    pause: () => (seen.isPaused = true),
    resume: () => (seen.isPaused = false),
    end: () => (seen.isEnded = true),
  } as unknown as Socket<unknown>;
  const budget = { heldBytes: 0 };
  const subscriptions = new Subscriptions(new EventStream({ heldEvents: () => [], putEvents: () => undefined }));
  const session = new Session(socket, { handle, subscriptions, budget, onError: () => undefined });
  const told = (): string => Buffer.concat(seen.written).toString("latin1");
  return { session, seen, budget, told };
}

const line = event("a", { type: "log_line", line: "x", stream: "stdout", timestamp: "now" });

test("subscriberEvents: so many wait for a slow subscriber, of one more it is told", () => {
  for (const more of [0, 1]) {
    const { session, seen, told } = connection(0);
    for (let count = 0; count < LIMITS.subscriberEvents.value + more; count++) session.deliver(line);
    seen.room = Number.POSITIVE_INFINITY;
    session.onDrain();
    expect(told().split('"log_line"').length - 1).toBe(LIMITS.subscriberEvents.value);
    expect(told().includes('"events_dropped"')).toBe(more === 1);
  }
});

test("outboxBytes: so much waits for a slow subscriber, and with more no event is added", () => {
  const long = event("a", { type: "log_line", line: "x".repeat(1_048_576), stream: "stdout", timestamp: "now" });
  const { session, seen, told } = connection(0);
  for (let count = 0; count < 20; count++) session.deliver(long);
  seen.room = Number.POSITIVE_INFINITY;
  session.onDrain();
  expect(told().split('"log_line"').length - 1).toBe(LIMITS.outboxBytes.value / 1_048_576);
  expect(told()).toContain('"count":4');
});

test("pipelinedBytes: a client that has more waiting is not read, and read again when that is done", async () => {
  const gate = Promise.withResolvers<Response>();
  const { session, seen } = connection(Number.POSITIVE_INFINITY, () => gate.promise);
  const request = encodeFrame(Buffer.from('"List"'.padEnd(1_048_572))); // 1 MiB with its head
  session.onData(request);
  const rest = Buffer.alloc(LIMITS.pipelinedBytes.value + 1);
  for (let at = 0; at + request.length <= rest.length; at += request.length) rest.set(request, at);
  session.onData(rest.subarray(0, LIMITS.pipelinedBytes.value));
  expect(seen.isPaused).toBe(false);
  session.onData(rest.subarray(LIMITS.pipelinedBytes.value));
  expect(seen.isPaused).toBe(true);
  gate.resolve(success("done"));
  await waitUntil(() => !seen.isPaused, "it is read again");
});

test("unfinishedBytes: so much is held for all connections, and the one that adds more is closed", async () => {
  const { session, seen, budget, told } = connection(Number.POSITIVE_INFINITY);
  const begun = Buffer.alloc(1000);
  begun.writeUInt32LE(5000);
  budget.heldBytes = LIMITS.unfinishedBytes.value - begun.length;
  session.onData(begun);
  expect(seen.isEnded).toBe(false);
  session.onData(Uint8Array.of(1));
  await waitUntil(() => seen.isEnded, "it is closed");
  expect(told()).toContain("too many unfinished requests");
});

test("streamItems: so many items may come of a stream that is read, and one more ends the session", async () => {
  let granted = 0;
  const incoming = new Incoming(
    "worker",
    (credit) => (granted += credit),
    () => undefined,
    () => undefined,
  );
  const first = incoming.next(new Stream(incoming));
  expect(granted).toBe(LIMITS.streamItems.value);
  for (let count = 0; count < LIMITS.streamItems.value; count++) incoming.push(count);
  expect(await first).toEqual({ value: 0, done: false });
  expect(granted).toBe(LIMITS.streamItems.value);
  expect(() => incoming.push("one more")).toThrow("more items of a stream than were requested");
});

test("exitHistory: so many exits are kept, and with one more the oldest goes, also from the disk", () => {
  const path = join(dir, "ipcctl.db");
  const most = LIMITS.exitHistory.value;
  const open = (): Store => new Store(path, { onTrouble: () => undefined, onHealed: () => undefined });
  const kept = (store: Store): number[] => store.exits("web").map(({ run }) => run);
  const newest = (run: number): number[] => Array.from({ length: most }, (_, at) => run - at);
  {
    using store = open();
    store.putApp("web", parseAppConfig(JSON.stringify({ name: "web", command: "true" }), "/"));
    store.addInstance("web", "web", 0);
    for (let run = 1; run <= most; run++) store.finishRun("web", exitOf(run), { phase: "ended", run });
    expect(kept(store)).toEqual(newest(most));
    store.finishRun("web", exitOf(most + 1), { phase: "ended", run: most + 1 });
    expect(kept(store)).toEqual(newest(most + 1));
  }
  using store = open();
  expect(kept(store)).toEqual(newest(most + 1));
});

test("pipeMessageBytes: a message as long as the limit fits the ring of a pipe, and a longer one never does", () => {
  const memory = new Uint8Array(SEGMENT.data + CAPACITY);
  const ring = new SharedRingBuffer(memory, SEGMENT.ringA, SEGMENT.data, CAPACITY, true);
  expect(() => ring.trySend(new Uint8Array(LIMITS.pipeMessageBytes.value + 1))).toThrow(RangeError);
  expect(ring.trySend(new Uint8Array(LIMITS.pipeMessageBytes.value))).toBe(true);
});

test("pipeNameBytes: a name as long as the limit is asked for, and a longer one refused", async () => {
  const refusal = async (bytes: number): Promise<string> => {
    const error = await Pipe.open(join(dir, "nobody"), "web", 1, "p".repeat(bytes)).catch((thrown: Error) => thrown);
    return (error as Error).message;
  };
  expect(await refusal(LIMITS.pipeNameBytes.value)).not.toContain("a name has at most");
  expect(await refusal(LIMITS.pipeNameBytes.value + 1)).toContain(`at most ${LIMITS.pipeNameBytes.value} bytes`);
});

test("a time that is too long is told in the units in which people write it", () => {
  const tooLong = { name: "a", command: "true", approval_timeout: "15m" };
  expect(() => parseAppConfig(JSON.stringify(tooLong), "/")).toThrow("approval_timeout: must be at most 5m 0s");
});
