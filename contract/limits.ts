/** Every limit with its reason. `docs/internals/limits.md` is generated from this table. */

export const LIMITS = {
  frameBytes: { value: 10_485_760, why: "the largest frame of the bunctl protocol; checked before allocation" },
  connections: { value: 1024, why: "control connections open at once; one more gets an Error and is closed" },
  pipelinedBytes: { value: 16_777_216, why: "request bytes a client may have waiting before we stop reading it" },
  unfinishedBytes: {
    value: 67_108_864,
    why: "bytes of unfinished requests over all connections; beyond, the one that adds is closed",
  },
  outboxBytes: { value: 16_777_216, why: "answer bytes a client may leave unread before we stop serving it" },
  subscriberEvents: {
    value: 4096,
    why: "events waiting for a slow subscriber; later ones are counted, told and dropped",
  },
  eventsHeld: {
    value: 2048,
    why: "newest events kept, in the database too, for who subscribes with `since`; half of `subscriberEvents`, so that they fit with those that come meanwhile",
  },
  nameChars: { value: 64, why: "worker names become directory names and columns of tables" },
  workers: { value: 2000, why: "one shim process and a few descriptors each" },
  instances: { value: 256, why: "instances of one app" },
  args: { value: 4096, why: "arguments of one worker" },
  specBytes: { value: 4_194_304, why: "start specification of one worker, what the shim reads" },
  logLines: { value: 100_000, why: "lines one Logs request may ask for; the CLI reads files and has no limit" },
  logAnswerBytes: { value: 8_388_608, why: "bytes of lines in one Logs answer, so that it fits a frame" },
  logScanBytes: {
    value: 67_108_864,
    why: "bytes of log that one Logs request looks through for the lines of a quiet stream",
  },
  lineChars: { value: 65_536, why: "characters of one line in an event or an answer; the log file keeps all" },
  pieceBytes: {
    value: 1_048_576,
    why: "of a line that `ipcctl logs` holds in memory; a longer one is printed in pieces, `--json` has `partial: true` for all but the last, and `--grep` matches each by itself",
  },
  graceMs: { value: 3_600_000, why: "longest wait between SIGTERM and SIGKILL" },
  restartDelayMs: { value: 86_400_000, why: "longest backoff delay" },
  logAgeMs: { value: 315_360_000_000, why: "ten years; a log file that is older is closed long before" },
  exitHistory: { value: 20, why: "last exits kept per worker for describe" },
  watchDirs: { value: 4096, why: "directories watched per worker; inotify watches are a shared resource" },
  channels: {
    value: 128,
    why: "channels and pipes of one worker; each is two descriptors of its shim, and one of its poll",
  },
  messageBytes: {
    value: 268_435_456,
    why: "one message of a call, either way; what one side can make the other hold. Larger data belongs in shared memory",
  },
  unreadBytes: {
    value: 67_108_864,
    why: "messages that may wait for a side that does not read; with the next one the channel is given up",
  },
  unreadMs: {
    value: 30_000,
    why: "how long code waits that prints for a client which takes nothing; then the channel is given up",
  },
  requests: {
    value: 65_536,
    why: "requests of one client that a program in TypeScript serves at once, and functions that it lends; one more is refused",
  },
  wishes: {
    value: 1_048_576,
    why: "requests of one client that are to be interrupted and have not ended; one more ends its channel",
  },
  segments: {
    value: 256,
    why: "pieces of shared memory of one side that the other holds per channel; each is a descriptor",
  },
  pipeMessageBytes: { value: 1_048_572, why: "one message of a pipe: what its ring of 1 MiB holds" },
  pipeNameBytes: { value: 48, why: "a request to the shim is 64 bytes" },
  pipesUntaken: { value: 64, why: "pipes that clients opened and the worker has not taken; one more is closed" },
  streamItems: { value: 64, why: "items of a stream under way; the sender waits until some are taken" },
  valueDepth: { value: 128, why: "levels of a value; a decoder must not run out of stack" },
  policyBytes: { value: 65_536, why: "largest policy file; it is read at every start" },
  policyExtends: { value: 8, why: "policies that extend one another; more is a cycle" },
  policyPaths: {
    value: 64,
    why: "paths in one list of a policy; each is a descriptor of the shim for a moment, and a rule or a mount",
  },
  policyHosts: { value: 256, why: "hosts of one policy, each compared at every connection" },
  auditBytes: { value: 16_777_216, why: "a spool of the audit before it is rotated; four older files are kept" },
  auditTotalBytes: {
    value: 268_435_456,
    why: "all files of the audit; beyond, the daemon removes the oldest file of the largest spool",
  },
  configBytes: { value: 1_048_576, why: "largest ipcctl.json or env file" },
} as const;
