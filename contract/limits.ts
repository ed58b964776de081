/** Every limit with its reason. `docs/internals/limits.md` is generated from this table. */

export const LIMITS = {
  frameBytes: { value: 10_485_760, why: "the largest frame of the bunctl protocol; checked before allocation" },
  connections: { value: 1024, why: "control connections open at once; the next one gets an error and is closed" },
  pipelinedBytes: {
    value: 16_777_216,
    why: "bytes of waiting requests after which the daemon stops reading from a client",
  },
  unfinishedBytes: {
    value: 67_108_864,
    why: "bytes of unfinished requests over all connections; a connection that exceeds it is closed",
  },
  outboxBytes: {
    value: 16_777_216,
    why: "bytes of unread answers after which the daemon serves no further request of a client",
  },
  subscriberEvents: {
    value: 4096,
    why: "events that wait for a slow subscriber; later ones are dropped, and their number is reported",
  },
  eventsHeld: {
    value: 2048,
    why: "newest events that are kept, in the database too, for subscriptions with `since`; half of `subscriberEvents`, so that they fit together with new ones",
  },
  nameChars: { value: 64, why: "a worker name is also a directory name and a column in tables" },
  workers: { value: 2000, why: "each worker has a shim process and uses a few descriptors of the daemon" },
  instances: { value: 256, why: "instances of one app" },
  ephemerals: {
    value: 256,
    why: "ephemeral workers of one owner; one that loses count of them leaves room for others",
  },
  ephemeralsEnded: {
    value: 16,
    why: "ephemeral workers that failed and stay in `status`, so that their owners can ask why; the oldest goes first",
  },
  claimMs: {
    value: 30_000,
    why: "within which the owner of an ephemeral worker must claim it; it was killed, or hangs, if it does not",
  },
  args: { value: 4096, why: "arguments of one worker" },
  specBytes: { value: 4_194_304, why: "start specification of one worker, which the shim reads as a whole" },
  logLines: {
    value: 100_000,
    why: "lines that one Logs request may ask for; the command line reads the files and has no limit",
  },
  logAnswerBytes: { value: 8_388_608, why: "bytes of lines in one Logs answer, so that it fits into a frame" },
  logScanBytes: {
    value: 67_108_864,
    why: "bytes of log that one Logs request searches for lines of a stream that writes little",
  },
  lineChars: { value: 65_536, why: "characters of one line in an event or an answer; the log file has the whole line" },
  pieceBytes: {
    value: 1_048_576,
    why: "bytes of one line that `ipcctl logs` holds in memory; a longer line is printed in pieces, `--json` marks all but the last with `partial: true`, and `--grep` matches each piece separately",
  },
  graceMs: { value: 3_600_000, why: "longest grace period between SIGTERM and SIGKILL: one hour" },
  restartDelayMs: { value: 86_400_000, why: "longest backoff delay: one day" },
  logAgeMs: { value: 315_360_000_000, why: "longest age of a log file before it is rotated: ten years" },
  exitHistory: { value: 20, why: "last exits of a worker, kept for `describe`" },
  watchDirs: {
    value: 4096,
    why: "directories watched for one worker, or for one watched folder of host.json; all programs of a user share the inotify watches",
  },
  channels: {
    value: 128,
    why: "channels and pipes of one worker; each is two descriptors of its shim, of which it polls one",
  },
  messageBytes: {
    value: 268_435_456,
    why: "one message of a call, in either direction; bounds the memory that one side can make the other allocate. Larger data belongs in shared memory",
  },
  unreadBytes: {
    value: 67_108_864,
    why: "bytes of messages that wait for a side which does not read; the next message closes the channel",
  },
  unreadMs: {
    value: 30_000,
    why: "how long code that prints waits for a client which does not read; then the channel is closed",
  },
  requests: {
    value: 65_536,
    why: "requests of one client that a TypeScript program serves at once, functions that it lends, and streams that it sends; one more request is refused, one more of the others ends the session",
  },
  interrupts: {
    value: 1_048_576,
    why: "requests of one client that it has interrupted and that have not ended; the next one closes its channel",
  },
  segments: {
    value: 256,
    why: "segments of shared memory of one side that the other side maps in one channel; each needs a descriptor",
  },
  pipeMessageBytes: { value: 1_048_572, why: "one message of a pipe: the capacity of its ring of 1 MiB" },
  pipeNameBytes: { value: 48, why: "bytes in the name of a pipe; a request to the shim has at most 64 bytes" },
  pipesUntaken: {
    value: 64,
    why: "pipes that clients have opened and the worker has not taken; the next one is closed",
  },
  streamItems: { value: 64, why: "items of a stream in transit; the sender waits until the receiver has taken some" },
  streamCredit: {
    value: 1_048_576,
    why: "items that one message may grant the sender of a stream; more is no reader that counts what it takes",
  },
  boundNameBytes: {
    value: 1024,
    why: "bytes in the name of a function that a client lends; the other side holds it as long as it is lent",
  },
  errorLevels: {
    value: 16,
    why: "levels of causes and parts below one error; two levels of a value each, so that telling it never fails",
  },
  errorParts: { value: 128, why: "causes and parts of one error that are told, itself included" },
  errorChars: { value: 16_777_216, why: "characters of all texts of one error, which must fit into a message" },
  valueDepth: { value: 128, why: "levels of nesting in a value, so that a decoder does not run out of stack" },
  policyBytes: { value: 65_536, why: "largest policy file; it is read at every start" },
  policyExtends: { value: 8, why: "policies in one chain of `extends`; more is taken for a cycle" },
  policyPaths: {
    value: 64,
    why: "paths in one list of a policy; each is a Landlock rule or a mount, and for a moment a descriptor of the shim",
  },
  policyHosts: { value: 256, why: "hosts of one policy; each connection is compared with all of them" },
  auditBytes: { value: 16_777_216, why: "size at which a spool of the audit is rotated; four older files are kept" },
  auditTotalBytes: {
    value: 268_435_456,
    why: "all spools of the audit; beyond this the daemon removes the oldest file of the largest one",
  },
  auditLineBytes: {
    value: 393_216,
    why: "one line of a spool; a longer one is damaged, in pieces of this size. Six times the bytes of a policy, the largest thing in a record: JSON may make that much of it",
  },
  auditTickBytes: {
    value: 65_536,
    why: "bytes of one spool that the daemon takes into the chained audit at a time, about a millisecond's work; the rest waits, and the others are not held up by it",
  },
  auditUntakenBytes: {
    value: 67_108_864,
    why: "of the router's spool that are not in the chained audit yet: four of its five files, so that none is overwritten unread, and the last one is for calls under way. From half of it on, sessions that flood wait; beyond it, calls are refused",
  },
  auditWriters: {
    value: 64,
    why: "newest writers of one spool whose numbers are known; each file of the chained audit begins with them",
  },
  auditChainBytes: {
    value: 4_194_304,
    why: "size at which a file of the chained audit ends; a start reads the last one",
  },
  auditChainFiles: { value: 64, why: "files of the chained audit; the oldest one goes for one more" },
  auditChainMs: { value: 31_536_000_000, why: "for which a file of the chained audit is kept after its end: one year" },
  hostMessageBytes: {
    value: 1_048_576,
    why: "a request of a worker to the host, and its answer; looked at before it is parsed. Larger data goes in pieces or by shared memory",
  },
  hostDepth: {
    value: 64,
    why: "levels of nesting in a request or an answer, counted on its bytes, so that no parser runs out of stack",
  },
  hostValues: {
    value: 65_536,
    why: "values in a request: a schema looks at each, and what it finds wrong with all of them takes time from others",
  },
  topicChars: { value: 160, why: "topic of a request: its prefix, the names of a plugin and of a tool" },
  correlationChars: { value: 128, why: "by which a worker tells its answers apart; it is in each record of the audit" },
  rateCalls: {
    value: 100_000,
    why: "calls of one tool in the period of its rate; more in a second is more than one can make",
  },
  policyTools: {
    value: 256,
    why: "tools and patterns that a policy grants; each is looked at once for each tool",
  },
  policyRuntimes: {
    value: 64,
    why: "runtimes of JavaScript that a policy grants to one worker at once; each is a process, and more would leave no room for those of other workers",
  },
  hostCalls: {
    value: 1024,
    why: "calls of one worker to the host that are under way, also those that it gave up; the next one gets `RATE_LIMITED`",
  },
  hostCommands: {
    value: 16,
    why: "commands `ipc` of one worker that ask at once; the next one waits. For each the router has a channel, of 4 MiB that are used only as far as they are filled",
  },
  stdioRequests: {
    value: 1024,
    why: "requests by lines of stdout that are under way, or whose answers were not read; then nothing more is read of what the worker prints",
  },
  stdioBytes: {
    value: 8_388_608,
    why: "bytes of such requests and of answers that were not read; the same. What is under way may go beyond it",
  },
  stdioCalls: {
    value: 64,
    why: "such requests that the host is asked at once; their answers are held for a program that does not read",
  },
  stdioIdBytes: { value: 1024, why: "id of a request by a line, as JSON; a line with a longer one is output" },
  httpCalls: {
    value: 32,
    why: "requests of one worker that asks by HTTP, or of all webhooks, that are under way; each has a connection to the daemon, and the next one waits",
  },
  hostErrorChars: { value: 4096, why: "message of an error that a worker gets; the audit has no more of it either" },
  plugins: {
    value: 64,
    why: "plugins of one daemon, those that come with it included; `plugin list` reads all files of each",
  },
  pluginManifestBytes: { value: 250_000, why: "manifest of a plugin; a worker gets all schemas in one answer" },
  pluginTools: { value: 64, why: "tools of one plugin" },
  pluginToolMs: { value: 3_600_000, why: "longest time that a tool may say it takes: one hour" },
  pluginTextChars: { value: 2048, why: "a description in a manifest, which people and models read whole" },
  skillBytes: {
    value: 65_536,
    why: "bytes of the text that says when to call the tools of a plugin; models read it whole, and what is longer is cut",
  },
  pluginHosts: { value: 64, why: "hosts that one plugin may reach; a person reads all of them before they accept it" },
  pluginCredentials: { value: 16, why: "credentials of one plugin, which its process is told at its start" },
  pluginFiles: {
    value: 9000,
    why: "files and folders of one plugin, its libraries included; each is hashed when it is looked at",
  },
  pluginBytes: { value: 134_217_728, why: "bytes of all files of one plugin, which are copied when it is accepted" },
  pluginDepth: { value: 32, why: "levels of folders in a plugin, so that nothing runs out of stack or of path" },
  provisions: {
    value: 256,
    why: "programs that provide tools themselves, counted by what each provides; each is a channel of the router",
  },
  provisionGroups: { value: 64, why: "tool groups for which one program provides the same tools" },
  approvalMs: {
    value: 300_000,
    why: "for which a person is asked about a call of high risk; a definition may say less. Nobody there means no",
  },
  approvalsPending: {
    value: 8,
    why: "calls of one session that wait for a person: more of them nobody reads with care; the next one gets `RATE_LIMITED`",
  },
  approvalGrants: { value: 64, why: "argument values that were allowed for one session; a person has seen each" },
  approvalPageBytes: {
    value: 65_536,
    why: "bytes in one page of what a person is shown of a call; a call of 1 MiB has up to a hundred pages",
  },
  approvalHashDigits: {
    value: 12,
    why: "fewest digits of a SHA-256 by which somebody says which call is allowed; no worker makes two that begin alike",
  },
  approvalReasonChars: { value: 1024, why: "why a person said no, as the audit has it" },
  storesOpen: { value: 64, why: "groups of one kind of store that a process has open; each is a few descriptors" },
  storeRows: {
    value: 250,
    why: "files, messages or memories in one answer; the next ones are asked for by where it ends",
  },
  storeAnswerBytes: {
    value: 524_288,
    why: "bytes of JSON after which an answer of a store has no further row, so that it fits the answer of a tool",
  },
  storeLabelBytes: {
    value: 128,
    why: "bytes in the id of a conversation, which the host chooses, in the name of a value, and in the subject of a memory",
  },
  projectBytes: {
    value: 65_536,
    why: "JSON of all values of a project, or of one conversation; workers read it whole",
  },
  conversations: { value: 16_384, why: "conversations of one group" },
  conversationMessages: { value: 4096, why: "newest messages of a conversation; the oldest one goes for one more" },
  conversationTextBytes: { value: 65_536, why: "one message of a conversation" },
  memories: {
    value: 16_384,
    why: "memories of one group; superseded ones go for new ones, and one more than that many that hold is refused",
  },
  memoryBytes: { value: 16_384, why: "text of one memory; a search looks through all of them" },
  memoryQueryBytes: { value: 512, why: "words of one search" },
  fileBytes: { value: 1_073_741_824, why: "one project file" },
  filePieceBytes: {
    value: 131_072,
    why: "bytes of a project file in one request or answer; JSON makes at most six times as many of them, which fits 1 MiB",
  },
  fileNameBytes: { value: 255, why: "the name of a project file, which file systems take when the host gets it" },
  fileUploads: { value: 16, why: "project files that one writer has begun and not committed" },
  uploadMs: { value: 600_000, why: "within which a project file that has begun gets its next piece, or is given up" },
  groupFiles: { value: 16_384, why: "project files of one group" },
  groupFileBytes: { value: 10_737_418_240, why: "bytes of all project files of one group" },
  cronChars: { value: 128, why: "characters of a cron pattern" },
  tasks: { value: 256, why: "tasks of one daemon, which looks at each of them in turn" },
  taskRuns: {
    value: 256,
    why: "newest runs of a task that are kept, also after the daemon was away for long; a kept one never runs twice, whatever the clock says",
  },
  taskLateMs: {
    value: 90_000,
    why: "by which a run may be late and still begin, as after a restart of the daemon; one that is later was missed",
  },
  taskBegins: {
    value: 5,
    why: "times that one run is begun when daemons die in it; it may be what they die of",
  },
  taskOutcomeChars: {
    value: 1024,
    why: "characters of what a run of a task, or an attempt at an event, says at its end",
  },
  eventBytes: { value: 65_536, why: "JSON of one event; what is larger belongs into a file of the project" },
  eventKeyBytes: { value: 128, why: "bytes in the key of an event" },
  eventKeyMs: { value: 604_800_000, why: "for which a key stands for its first event: one week" },
  eventKeys: { value: 131_072, why: "keys of that week; an event with one more is refused" },
  eventAttempts: { value: 5, why: "attempts at an event before it is a dead letter" },
  eventsWaiting: {
    value: 16_384,
    why: "events that wait in one group; one more becomes a dead letter, which can be retried",
  },
  eventsDone: {
    value: 1024,
    why: "newest events of a group that are kept when they are done, and of those for nobody",
  },
  eventDoneMs: { value: 604_800_000, why: "for which an event that is done is kept: one week" },
  deadLetters: { value: 1024, why: "newest dead letters of a group that are kept" },
  deadLetterMs: { value: 2_592_000_000, why: "for which a dead letter is kept: 30 days" },
  webhooks: { value: 64, why: "webhooks of host.json; the path of each delivery is compared with all of them" },
  webhookPathChars: { value: 128, why: "path of a webhook; it is in each record of the audit" },
  webhookAgeMs: {
    value: 300_000,
    why: "by which the clocks of a webhook's sender and of this machine may differ: an older delivery was kept by somebody",
  },
  rules: { value: 256, why: "rules of host.json; each event is compared with all of them" },
  watches: { value: 32, why: "watched folders of host.json; what is known of the files of each is held in memory" },
  watchFiles: {
    value: 65_536,
    why: "files and folders below one watched folder of host.json that are looked at, which takes a third of a second",
  },
  watchDepth: { value: 32, why: "folders within folders that are looked at; each is a descriptor" },
  watchWaiting: {
    value: 256,
    why: "events of a rule that wait before changes of files wait on the disk, where they take no room in the queue",
  },
  watchMatchChars: { value: 256, why: "characters in the pattern for names of watched files" },
  sessionsEnded: {
    value: 32,
    why: "sessions that have ended and stay in `status`, with their logs; the oldest goes first",
  },
  sessionsKept: { value: 256, why: "newest sessions of a group of which is kept what was said in them" },
  sessionKeptMs: {
    value: 2_592_000_000,
    why: "for which what was said in a session is kept, unless host.json says otherwise: 30 days",
  },
  sessionCalls: { value: 256, why: "newest calls of tools that are kept of a session; the audit has all of them" },
  sessionOutputBytes: {
    value: 196_608,
    why: "newest bytes of what a session printed that are kept when its log is gone; a prompt prints all of it",
  },
  sessionHistoryBytes: {
    value: 983_040,
    why: "JSON of what was said before in the workspace of a session, the newest of it, which the session can read",
  },
  workspaces: {
    value: 32,
    why: "workspaces of one group that are kept: those of the newest sessions, and those in use; the oldest one is removed",
  },
  workspaceBytes: {
    value: 1_073_741_824,
    why: "bytes of all files of a workspace; a session that has more is ended within seconds",
  },
  workspaceFiles: { value: 16_384, why: "files and folders of a workspace; likewise" },
  eventShownBytes: {
    value: 4096,
    why: "JSON of a published event in the stream of events, of which the newest 2048 are in memory",
  },
  ruleSessions: { value: 256, why: "sessions of one group at once; each is a process" },
  credentials: { value: 256, why: "credentials of one daemon; a new key seals all of them while it does nothing else" },
  credentialChars: {
    value: 8,
    why: "fewest characters of a credential; a shorter one is found in ordinary text, from which it would be taken out",
  },
  credentialBytes: { value: 16_384, why: "one credential; keys of services and certificates are smaller" },
  credentialOldMs: {
    value: 86_400_000,
    why: "for which a value that was replaced is still taken out of what plugins say: one day",
  },
  credentialOldValues: { value: 16, why: "values of one credential that were replaced within that day" },
  webSites: { value: 256, why: "sites of the plugin `http`; each request is compared with all of them" },
  webUrlChars: {
    value: 8000,
    why: "URL of a request, also one to which a site redirects; RFC 9110 asks of servers to take as many",
  },
  webHeaders: { value: 64, why: "headers that a worker gives to a request" },
  webHeaderBytes: { value: 8000, why: "names and values of those headers; many servers take no more" },
  webHeadBytes: { value: 16_384, why: "names and values of the headers of an answer, and the text of its status" },
  webSendBytes: { value: 524_288, why: "body of a request; in base64 it fits into a request to the host" },
  webBodyBytes: {
    value: 524_288,
    why: "body of an answer, decompressed; in base64 it fits into an answer of the host",
  },
  webWireBytes: {
    value: 1_048_576,
    why: "compressed body of an answer, which may decompress to nothing; twice `webBodyBytes`",
  },
  webRedirects: { value: 5, why: "redirects that one request follows; each is a connection" },
  webAddresses: { value: 4, why: "addresses of one host that are tried, one after the other, within the time" },
  webMs: { value: 25_000, why: "a request with all its redirects; less than the host waits for a plugin" },
  webRequests: { value: 64, why: "requests of one plugin that are under way; each holds its body" },
  sqlStatementChars: { value: 65_536, why: "characters of one statement that a worker has a database carry out" },
  sqlParams: { value: 1024, why: "parameters of one statement; a list is one of them" },
  sqlRows: { value: 16_384, why: "rows of one answer of a database, whatever its plugin is configured to give" },
  sqlAnswerBytes: {
    value: 786_432,
    why: "bytes of JSON after which an answer of a database has no further row, so that it fits the answer of a tool",
  },
  sqlTimeoutMs: {
    value: 25_000,
    why: "longest time of one statement; the host waits for a tool a little longer, so that a statement is ended by the one who knows it",
  },
  sqlConnections: { value: 64, why: "connections of one plugin to its database, which others use as well" },
  tableBytes: {
    value: 268_435_456,
    why: "a table that an answer brings in shared memory: some seven million rows of four columns; no limit of the worker's memory counts it",
  },
  sqlTableRows: {
    value: 1_048_576,
    why: "rows of a table of a database, all of which its plugin holds at once; DuckDB's are bounded by their bytes alone",
  },
  tablesHeld: {
    value: 128,
    why: "tables that one worker has not let go of; for each the router keeps a descriptor, of which it has 5000",
  },
  tablesHeldBytes: {
    value: 1_073_741_824,
    why: "bytes of the tables that one worker has not let go of, which no limit of its own counts",
  },
  filesNamed: {
    value: 1024,
    why: "project files whose names stand in one request to a plugin that reads them; DuckDB makes links for each",
  },
  pluginGroups: {
    value: 16,
    why: "groups that use a plugin at once that has a process for each; with DuckDB such a one is some 150 MB",
  },
  runtimesReady: {
    value: 4,
    why: "engines of one kind that a program starts ahead, once it has taken as many: a start is 20 ms of a core, an engine that waits 5 MB",
  },
  runtimeKindsReady: { value: 4, why: "kinds of engines of which a program has some ready; the oldest kind goes" },
  runtimeTemplates: { value: 32, why: "newest templates of runtimes in the cache folder; each is 30 KB" },
  fetchConnections: {
    value: 64,
    why: "connections that `fetch` of a runtime has at once; the next ones wait. A runtime has 512 descriptors",
  },
  fetchRedirects: { value: 20, why: "redirects that `fetch` of a runtime follows, as browsers do" },
  fetchHeadBytes: { value: 65_536, why: "bytes of the headers of a response that `fetch` of a runtime takes" },
  configBytes: { value: 1_048_576, why: "largest ipcctl.json or env file" },
} as const;
