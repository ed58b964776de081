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
    job: "errors, limits, names, paths, units, signals, the few system calls",
    uses: { contract: "" },
  },
  protocol: {
    job: "frames, requests, responses, definitions of apps and the order of their dependencies, project files",
    uses: { base: "" },
  },
  logs: {
    job: "reading, following and compressing CRI log files; many of them as one (`view`) for whoever shows them",
    uses: { base: "", contract: "how long a line may be" },
  },
  sandbox: {
    job: "policies: reading them, and compiling them to what the shim carries out: rights, mounts, programs of seccomp",
    uses: { base: "", contract: "classes of addresses, resource limits" },
  },
  plane: {
    job: "shared-memory channels and pipes: rings, encoding, memory handed over, the system calls they need",
    uses: { base: "", contract: "" },
  },
  calls: {
    job: "sessions of calls: who calls and who serves, over a channel, frames on a byte stream, or lines of JSON",
    uses: { base: "", contract: "numbers of messages", plane: "" },
  },
  shim: {
    job: "what speaks to a shim or reads what it leaves: specification, link, records, lock, control group, processes left over",
    uses: { base: "", contract: "", protocol: "how an exit is told", sandbox: "types of what is carried out" },
  },
  audit: {
    job: "what is recorded of decisions: its schema, a spool for each writer, reading them all as one",
    uses: { base: "", contract: "fields of a record" },
  },
  launch: {
    job: "what runs is decided here: interpreter, arguments, boot, what may be read, snapshot; from a definition to a specification",
    uses: { base: "", contract: "", protocol: "definitions", sandbox: "", shim: "the specification", audit: "" },
  },
  events: {
    job: "what happened to workers, as one sequence that is held and played again; who gets which of it",
    uses: { base: "", protocol: "" },
  },
  workers: {
    job: "state table, supervision, store",
    uses: { base: "", contract: "", protocol: "", sandbox: "", logs: "", shim: "", audit: "", launch: "" },
  },
  sdk: {
    job: "connection to the daemon, its verbs as methods, starting it",
    uses: { base: "", protocol: "" },
  },
  runtime: {
    job: "a worker as a program sees it; `connect()` and `eval()` of the package",
    uses: {
      base: "",
      contract: "numbers of messages",
      protocol: "",
      logs: "a program reads the files itself",
      plane: "channels and pipes are opened here",
      calls: "",
      shim: "`spawnPython` starts one, which it owns",
      launch: "`spawnPython` makes the same specification as `run`",
      sdk: "",
    },
  },
  daemon: {
    job: "socket, sessions, handlers; `compose.ts` is the list of its parts, each made of those above it and taken apart in the reverse order",
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
      launch: "`run` makes the same specification without a daemon; snapshots are found there",
      workers: "what `doctor` and `daemon` say of a lost database and of strays",
      sdk: "",
      runtime: "`eval`, `call`, `repl`",
    },
  },
  ".": {
    job: 'what `import … from "ipcctl"` gives; `main.ts` beside it is the program',
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
