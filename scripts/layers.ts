/**
 * The purpose of each folder of `src`, and the folders from which it may import, with the reason if the names do not
 * give it. `test/tidy/layers.test.ts` checks the imports; `docs/architecture.md` shows this as a table.
 */
export interface Layer {
  readonly job: string;
  /** Folder to reason; the reason is empty if the names say it. `.` is `src` itself. */
  readonly uses: Readonly<Record<string, string>>;
}

export const LAYERS: Readonly<Record<string, Layer>> = {
  base: {
    job: "errors, limits, names, paths, units, signals, a few system calls",
    uses: { contract: "" },
  },
  protocol: {
    job: "frames, requests, responses, definitions of apps and the order of their dependencies, project files",
    uses: { base: "" },
  },
  logs: {
    job: "reading, following and compressing CRI log files; showing many of them as one (`view`)",
    uses: { base: "", contract: "how long a line may be" },
  },
  sandbox: {
    job: "policies: reading them, and compiling them to what the shim carries out: rights, mounts, seccomp programs",
    uses: { base: "", contract: "classes of addresses, resource limits" },
  },
  plane: {
    job: "shared-memory channels and pipes: rings, encoding, shared arrays, the system calls that they need",
    uses: { base: "", contract: "" },
  },
  calls: {
    job: "call sessions: client and server, over a channel, frames on a byte stream, or lines of JSON",
    uses: { base: "", contract: "numbers of messages", plane: "" },
  },
  shim: {
    job: "communication with a shim: specification, link, records, lock, control group, leftover processes",
    uses: { base: "", contract: "", protocol: "the description of an exit", sandbox: "types of a plan" },
  },
  audit: {
    job: "records of decisions: their schema, a spool for each writer, one chained log of them all, reading and verifying it",
    uses: { base: "", contract: "fields of a record" },
  },
  launch: {
    job: "from a definition to a specification: interpreter, arguments, boot, readable files, snapshot",
    uses: { base: "", contract: "", protocol: "definitions", sandbox: "", shim: "the specification", audit: "" },
  },
  host: {
    job: "what a worker asks of the host: its requests read, checked, granted, answered; what a plugin's handler is written against",
    uses: {
      base: "",
      contract: "codes and stages",
      protocol: "keys that stand twice",
      audit: "",
      sandbox: "how a host is written",
      plane: "memory that an answer brings",
      plugins: "what those that come with ipcctl say of themselves",
    },
  },
  stores: {
    job: "files, project and memory of a group, in SQLite: for the plugins and the verbs of the daemon",
    uses: { base: "", protocol: "types of what is told", host: "what tools are, and how they refuse" },
  },
  router: {
    job: "the process that answers what workers ask of the host: its sessions, and the plugins that run in it",
    uses: {
      ...{ base: "", audit: "", host: "", calls: "what the daemon tells it", plane: "channels that the daemon relays" },
      plugins: "those that come with ipcctl and hold no credential",
      stores: "files that a request names",
    },
  },
  engine: {
    job: "the process in which JavaScript of a Python program runs: its realm, values, requests",
    uses: {
      base: "",
      contract: "numbers of messages",
      plane: "the channel",
    },
  },
  plugin: {
    job: "the process in which one plugin's handler runs",
    uses: {
      ...{ base: "", calls: "the call that it is in", host: "", runtime: "`serve`", plane: "tables" },
      plugins: "those that come with ipcctl and hold a credential",
    },
  },
  duckdb: {
    job: "SQL over files of a group: DuckDB's library, its answers as rows and as Arrow, its limits",
    uses: {
      ...{ base: "", plane: "the C library" },
      ...{ host: "what tools are, and how they refuse", sql: "answers, limits of time, the format of Arrow" },
    },
  },
  web: {
    job: "what workers fetch: which sites, with which credential, from which addresses, how much of it",
    uses: { base: "", host: "what tools are, and how they refuse" },
  },
  sql: {
    job: "what the plugins of databases have in common: tools, and their bounds in time, rows, bytes and connections",
    uses: { base: "", host: "what tools are, and how they refuse", plane: "memory for tables" },
  },
  desk: {
    job: "what only the host may decide or know: credentials, sealed on the disk; which version of a plugin is accepted; what waits for a person's yes, and how it is shown",
    uses: { base: "", host: "what the folder of a plugin is", stores: "how a database is opened" },
  },
  events: {
    job: "what happened to workers, as one stored sequence that can be replayed; subscriptions to it",
    uses: { base: "", protocol: "" },
  },
  schedule: {
    job: "tasks that come due by a cron pattern in a time zone, with a record of their runs",
    uses: { base: "", protocol: "types of what is told", stores: "opening a database" },
  },
  watch: {
    job: "folders whose files change: what the kernel tells of them, and what they hold compared with what is known",
    uses: { base: "" },
  },
  queue: {
    job: "events that start sessions: what waits, runs, failed or is dead, what was said in sessions, their workspaces",
    uses: {
      base: "",
      protocol: "types of what is told",
      host: "the rules of host.json",
      stores: "opening a database",
      watch: "what is known of a file",
    },
  },
  workers: {
    job: "state table, supervision, store",
    uses: {
      ...{ base: "", contract: "", protocol: "", sandbox: "", logs: "", shim: "", audit: "", launch: "" },
      watch: "`--watch`",
    },
  },
  sdk: {
    job: "connection to the daemon, its verbs as methods, autostart",
    uses: { base: "", protocol: "" },
  },
  listener: {
    job: "what a listener on loopback does with a request: by the daemon to the host, and its answer back",
    uses: {
      base: "",
      contract: "how a call is given up",
      host: "what HTTP is to it",
      protocol: "types of answers",
      sdk: "",
    },
  },
  runtime: {
    job: "a worker as programs use it; `connect()` and `eval()` of the package",
    uses: {
      base: "",
      contract: "numbers of messages, codes of the host",
      protocol: "",
      logs: "programs read the files themselves",
      plane: "channels and pipes",
      calls: "",
      shim: "`spawnPython` starts and owns one",
      launch: "`spawnPython` makes the same specification as `run`",
      host: "how a tool that a program provides answers and refuses",
      sdk: "",
    },
  },
  daemon: {
    job: "socket, sessions, handlers; `compose.ts` lists its parts, each made from those above it, and closed in reverse order",
    uses: {
      base: "",
      contract: "",
      protocol: "",
      logs: "",
      events: "",
      sandbox: "",
      shim: "",
      audit: "",
      launch: "",
      stores: "",
      desk: "",
      plane: "the channels that it opens between workers",
      calls: "what it tells the router and plugins",
      host: "what plugins are, and which there are",
      schedule: "",
      queue: "",
      watch: "",
      workers: "",
    },
  },
  cli: {
    job: "the command line",
    uses: {
      base: "",
      contract: "the version that `doctor` expects of a shim",
      protocol: "",
      logs: "",
      sandbox: "`policy`, exceptions",
      shim: "",
      audit: "",
      launch: "`run` makes the same specification without a daemon; snapshots",
      desk: "names of credentials",
      host: "`plugin new` and `plugin check` need no daemon; `doctor` reads `host.json`",
      workers: "`doctor` and `daemon` report a lost database and strays; `audit` reads the anchors in it",
      sdk: "",
      runtime: "`eval`, `call`, `repl`",
    },
  },
  ".": {
    job: "the exports of the package `ipcctl`; `main.ts` beside it is the program",
    uses: {
      base: "",
      protocol: "types of answers",
      plane: "",
      calls: "",
      sdk: "types of options",
      runtime: "",
      daemon: "",
      cli: "",
    },
  },
};

/** The rows of the table in `docs/architecture.md`. */
export const layerRows = (): string[][] =>
  Object.entries(LAYERS).map(([folder, { job, uses }]) => [
    folder === "." ? "`src/index.ts`" : `\`src/${folder}\``,
    job,
    Object.entries(uses)
      .map(([target, why]) => (why === "" ? target : `${target} (${why})`))
      .join(", "),
  ]);
