/**
 * The command table: every command with its flags and its help. Help, completion and the manual page are generated from
 * it.
 */
import type { ApproveFlags, DenyFlags } from "./approve.ts";
import type { AuditFlags } from "./audit.ts";
import type { AddFlags, LoginFlags, RotateFlags } from "./auth.ts";
import type { QueueFlags, TaskFlags } from "./event-commands.ts";
import type { ConversationFlag, GetFlags, PutFlags } from "./file-commands.ts";
import type { AcceptFlags, CallFlags, RemoveFlags } from "./plugin-commands.ts";
import type { NewFlags } from "./plugin-new.ts";
import type { AskFlags, CompileFlags } from "./policy.ts";
import type { SessionFlags } from "./session-commands.ts";
import type { SnapshotFlags } from "./snapshot.ts";
import { Command, Option } from "commander";
import { IpcError } from "../base/errors.ts";
import { RESTART_POLICIES } from "../base/restart-policies.ts";
import { KILL_MODES } from "../base/kill-modes.ts";
import { limit } from "../base/limits.ts";
import { TRANSPORTS } from "../base/transports.ts";
import { parseCount, parseDurationMs } from "../base/units.ts";
import { VERSION } from "../base/version.ts";
import { act, scale } from "./control.ts";
import { Context, type GlobalFlags } from "./context.ts";
import { printCompletion } from "./completion.ts";
import { daemonStatus, restartDaemon, stopDaemon } from "./daemon.ts";
import { doctor } from "./doctor.ts";
import type { EvalFlags, TypesFlags } from "./evaluate.ts";
import { logs, type LogFlags } from "./logs.ts";
import { run } from "./run.ts";
import { start, type StartFlags } from "./start.ts";
import { describe, status, watchStatus, type StatusFlags } from "./status.ts";
import { OVERLAPS } from "../protocol/happenings.ts";
import { KIND_NAMES } from "../protocol/kinds.ts";
import { subscribe, type SubscribeFlags } from "./subscribe.ts";
import { systemdUnit } from "./unit.ts";

const collect = (value: string, before: string[] = []): string[] => [...before, value];

/** @param finish takes the exit status of the command */
export function buildProgram(finish: (status: Promise<number>) => Promise<void>): Command {
  const program = new Command("ipcctl");
  program
    .description("process manager for Python workers: keeps them running and keeps their logs, whatever crashes")
    .version(VERSION, "--version", "print the version")
    .option(
      "--socket <path>",
      "control socket of the daemon (or IPCCTL_SOCKET; else daemon.socket_path of its config.json)",
    )
    .option("--json", "machine-readable answer on stdout, errors as JSON on stderr")
    .addOption(new Option("--color <when>", "colour the output").choices(["auto", "always", "never"]).default("auto"))
    .option("--no-autostart", "fail instead of starting a daemon if none answers")
    .option("-q, --quiet", "no remarks on stderr")
    .option("-v, --verbose", "show which daemon is used, and the causes of an error")
    .enablePositionalOptions()
    .showSuggestionAfterError()
    .configureHelp({ sortSubcommands: false })
    .addHelpText(
      "afterAll",
      "\n--socket, --json, --color, --no-autostart, -q and -v may stand before or after every command.",
    )
    .addHelpText("before", "examples:\n  ipcctl start worker.py\n  ipcctl status\n  ipcctl logs -f worker\n");
  /** Global flags may stand on either side of the command. */
  const contextOf = (command: Command): Context => new Context(globalFlags(command));
  const add = (name: string, about: string, examples: string): Command => {
    const command = program
      .command(name)
      .description(about)
      .addHelpText(
        "before",
        `examples:\n${examples
          .split("\n")
          .map((line) => `  ${line}`)
          .join("\n")}\n`,
      );
    return withGlobals(command);
  };
  const withGlobals = (command: Command): Command => {
    for (const option of program.options.filter(({ long }) => long !== "--version" && long !== "--color"))
      command.addOption(new Option(option.flags, option.description).hideHelp());
    return command.addOption(new Option("--color <when>").choices(["auto", "always", "never"]).hideHelp());
  };

  runFlags(
    add(
      "start",
      "start a worker: a script, a known name, or all of ipcctl.json in this folder",
      "ipcctl start worker.py\nipcctl start worker.py --name web -e PORT=8080 -- --verbose\nipcctl start --command 'gunicorn app:api' --name api\nipcctl start web",
    ),
  )
    .argument("[script]", "script, or name of a known worker")
    .argument("[args...]", "arguments of the script, after --")
    .addOption(
      new Option("--restart <policy>", "when to start again (default: on-failure)").choices([...RESTART_POLICIES]),
    )
    .option("--max-restarts <n>", "give up after this many restarts in a row (default: never)")
    .option("--max-cpu <percent>", "processor limit, 100 is one core")
    .option("--instances <n>", "number of processes (default: 1)")
    .option("--group <name>", "select it with @NAME")
    .option("--depends-on <name>", "start this app first (repeatable)", collect)
    .option("--cron <expr>", "restart on a schedule")
    .option("--watch", "restart when files in its folder change")
    .option("--wait-ready [seconds]", "wait until it reports READY (default: 30s)")
    .option("--health <check>", "URL to request, tcp://HOST:PORT to connect to, or command to run")
    .option("--stop-timeout <time>", "grace period between SIGTERM and SIGKILL (default: 10s)")
    .addOption(
      new Option("--kill-mode <mode>", "which processes get SIGTERM (default: main; group for a shell)").choices([
        ...KILL_MODES,
      ]),
    )
    .option("--no-console", "do not let `ipcctl eval` into this worker")
    .option("--config <file>", "project file instead of ipcctl.json")
    .option("--attach", "follow its output; Ctrl-C detaches")
    .action((script: string | undefined, args: string[], flags: StartFlags, command: Command) =>
      finish(
        flags.command === undefined || script === undefined
          ? start(contextOf(command), script, args, flags)
          : start(contextOf(command), undefined, [script, ...args], flags),
      ),
    );

  add(
    "stop",
    "stop workers: SIGTERM to the main process, a grace period, SIGKILL to the whole tree",
    "ipcctl stop web\nipcctl stop 'job-*' -t 30\nipcctl stop all",
  )
    .argument("<name...>", "name, glob, @group or all")
    .option("-t, --timeout <seconds>", "grace period before SIGKILL")
    .action((names: string[], flags: { timeout?: string }, command: Command) =>
      finish(act(contextOf(command), "stop", names, grace(flags.timeout))),
    );
  add("restart", "replace the process of workers", "ipcctl restart web\nipcctl restart all --parallel")
    .argument("<name...>", "name, glob, @group or all")
    .option("--parallel", "all at once")
    .option("--wait <ms>", "pause between two")
    .action((names: string[], flags: { parallel?: boolean; wait?: string }, command: Command) =>
      finish(
        act(contextOf(command), "restart", names, { isParallel: flags.parallel === true, ...waiting(flags.wait) }),
      ),
    );
  add("reload", "replace instances one by one; the new one is ready before an old one goes", "ipcctl reload web")
    .argument("<name...>", "name, glob, @group or all")
    .option("--wait <ms>", "pause between two")
    .action((names: string[], flags: { wait?: string }, command: Command) =>
      finish(act(contextOf(command), "reload", names, waiting(flags.wait))),
    );
  add("delete", "stop and forget workers, with their logs", "ipcctl delete web")
    .alias("rm")
    .argument("<name...>", "name, glob, @group or all")
    .option("-f, --force", "no grace period: SIGKILL at once")
    .action((names: string[], flags: { force?: boolean }, command: Command) =>
      finish(act(contextOf(command), "delete", names, flags.force ? { graceMs: 0 } : {})),
    );
  add("describe", "show everything about one worker", "ipcctl describe web")
    .argument("<name>")
    .action((name: string, _: object, command: Command) => finish(describe(contextOf(command), name)));
  add("scale", "change the number of instances", "ipcctl scale web 4")
    .argument("<name>")
    .argument("<n>", "instances")
    .action((name: string, instances: string, _: object, command: Command) =>
      finish(scale(contextOf(command), name, parseCount(instances, "instances", 1, limit("instances")))),
    );
  add("signal", "send a signal to workers", "ipcctl signal web HUP\nipcctl signal 'job-*' USR1")
    .usage("<name...> <SIG>")
    .argument("<words...>", "names, globs or @groups, then the signal")
    .action((words: string[], _: object, command: Command) => {
      if (words.length < 2)
        throw new IpcError("USAGE", "signal: name the workers and then the signal", { hint: "ipcctl signal web HUP" });
      return finish(act(contextOf(command), "signal", words.slice(0, -1), { signal: words.at(-1)! }));
    });
  add("flush", "empty the logs of workers", "ipcctl flush web")
    .argument("[name...]", "default: all")
    .action((names: string[], _: object, command: Command) =>
      finish(act(contextOf(command), "flush", names.length === 0 ? ["all"] : names)),
    );
  add("status", "show the workers as a table", "ipcctl status\nipcctl status web --json\nipcctl status --watch")
    .alias("list")
    .alias("ls")
    .argument("[name]")
    .option("--watch", "refresh in place")
    .option("--all", "show snapshots too")
    .addOption(new Option("--kind <kind>", "show those of one kind").choices(KIND_NAMES))
    .action((name: string | undefined, flags: StatusFlags & { watch?: boolean }, command: Command) =>
      finish((flags.watch ? watchStatus : status)(contextOf(command), name, flags)),
    );
  add(
    "logs",
    "print the logs of workers, and follow them",
    "ipcctl logs web -n 100\nipcctl logs -f\nipcctl logs 'job-*' --since 10m --grep ERROR",
  )
    .argument("[name...]", "default: all")
    .option("-f, --follow", "keep printing new lines; survives the daemon")
    .option("-n, --lines <n>", "newest lines of each worker (default: 20)")
    .option("--since <time>", "only lines newer than, for example, 10m")
    .option("--stderr", "only stderr")
    .option("--stdout", "only stdout")
    .option("-t, --timestamps", "print the time of each line")
    .option("--raw", "print control sequences unchanged; otherwise a terminal gets all but colours as visible text")
    .option("--grep <re>", "only lines that match; of a line over 1 MiB each piece of 1 MiB is matched separately")
    .action((names: string[], flags: LogFlags, command: Command) => finish(logs(contextOf(command), names, flags)));
  add(
    "subscribe",
    "print events as they happen, one JSON object per line",
    "ipcctl subscribe status\nipcctl subscribe all web\nipcctl subscribe --topic 'mail.*' --since 10m",
  )
    .argument("[what]", "status, logs, events (what is published) or all (default: all, with --topic events)")
    .argument("[name]")
    .option("--topic <glob>", "only published events whose topics match: * stands for one word, ** at the end for any")
    .option(
      "--since <n|time>",
      "begin with the stored events after number n, or newer than, for example, 10m or 2026-11-20",
    )
    .action((what: string | undefined, name: string | undefined, flags: SubscribeFlags, command: Command) =>
      finish(subscribe(contextOf(command), what, name, flags)),
    );
  runFlags(
    add(
      "run",
      "run a script once in the foreground, and exit with its status",
      "ipcctl run job.py -- input.csv\nipcctl run -c 'print(1)' --timeout 5\nipcctl run --allow-tools='files.*' agent.py <question.txt >answer.txt\nipcctl run --allow-runtimes 1 job.py",
    ),
  )
    .argument("[script]")
    .argument("[args...]", "arguments of the script, after --")
    .option("-c <code>", "Python code instead of a script; a script called - is read from stdin")
    .option("--timeout <seconds>", "end it after this time, with status 124")
    .action((script: string | undefined, args: string[], flags: StartFlags & { c?: string }, command: Command) =>
      finish(
        flags.c === undefined
          ? flags.command === undefined || script === undefined
            ? run(contextOf(command), script, undefined, args, flags)
            : run(contextOf(command), undefined, undefined, [script, ...args], flags)
          : run(contextOf(command), undefined, flags.c, script === undefined ? args : [script, ...args], flags),
      ),
    );
  add(
    "eval",
    "evaluate code in a worker, also in a script that does not import ipcctl, and print its value",
    "ipcctl eval web 'len(queue)'\nipcctl eval web 'import gc; gc.collect()' --timeout 5\nipcctl eval web config --json",
  )
    .argument("<name>")
    .argument("<code>")
    .option("--timeout <seconds>", "interrupt it after this time, with status 124")
    .option("--namespace <name>", "a namespace that is kept for the next call, instead of the script's")
    .action((name: string, code: string, flags: EvalFlags, command: Command) =>
      finish(import("./evaluate.ts").then(({ evaluate }) => evaluate(contextOf(command), name, code, flags))),
    );
  add(
    "call",
    "call a function that a worker exposes; arguments are JSON, or else text",
    "ipcctl call calc add 2 3\nipcctl call calc rows '{\"limit\": 10}' --stream",
  )
    .argument("<name>")
    .argument("<function>")
    .argument("[args...]")
    .option("--timeout <seconds>", "interrupt it after this time, with status 124")
    .option("--stream", "print the items of a generator as they come, one per line")
    .action((name: string, fn: string, args: string[], flags: EvalFlags, command: Command) =>
      finish(import("./evaluate.ts").then(({ call }) => call(contextOf(command), name, fn, args, flags))),
    );
  add(
    "types",
    "print types: of what a script exposes, from its annotations, without running it; or of the tools of plugins",
    "ipcctl types worker.py > worker.d.ts\nipcctl types --tools --for python > tools.py",
  )
    .argument("[script]", "prints TypeScript")
    .option("--interpreter <path>", "the Python that reads it (default: python3)")
    .option("--tools", "of the tools that workers can call, with the descriptions of the plugins")
    .option("--for <language>", "of --tools: python or ts (default: ts)")
    .option("--tool-group <name>", "of --tools: also what programs provide for this tool group")
    .action((script: string | undefined, flags: TypesFlags, command: Command) =>
      finish(import("./evaluate.ts").then(({ types }) => types(contextOf(command), script, flags))),
    );
  add("repl", "open an interactive prompt in a worker", "ipcctl repl web")
    .argument("<name>")
    .action((name: string, _: object, command: Command) =>
      finish(import("./evaluate.ts").then(({ repl }) => repl(contextOf(command), name))),
    );
  const policy = add(
    "policy",
    "what a worker may do: list policies, and explain them for this machine",
    "ipcctl policy list\nipcctl policy explain no-network\nipcctl policy check my-policy.json",
  );
  withGlobals(policy.command("list"))
    .description("list the shipped policies")
    .action((_: object, command: Command) =>
      finish(import("./policy.ts").then(({ listPolicies }) => listPolicies(contextOf(command)))),
    );
  withGlobals(policy.command("show <policy>"))
    .description("print a policy with all that it extends, as JSON")
    .action((what: string, _: object, command: Command) =>
      finish(import("./policy.ts").then(({ showPolicy }) => showPolicy(contextOf(command), what))),
    );
  for (const [name, operands, description] of [
    ["explain", "<policy> [script]", "show each grant and denial, with what enforces it on this machine"],
    ["check", "<file> [script]", "check a policy file, and whether a start under it would be refused here"],
  ] as const)
    withGlobals(definitionFlags(exceptionFlags(policy.command(`${name} ${operands}`))))
      .description(description)
      .action((what: string, script: string | undefined, flags: AskFlags, command: Command) =>
        finish(
          import("./policy.ts").then(({ explainPolicy, checkPolicy }) =>
            ({ explain: explainPolicy, check: checkPolicy })[name](contextOf(command), what, script, flags),
          ),
        ),
      );
  withGlobals(definitionFlags(exceptionFlags(policy.command("compile <policy> [script]"))))
    .description("print a start under a policy as a template in JSON, which programs can use without a daemon")
    .addOption(new Option("--for <language>", "what runs (default: python)").choices(["python", "bun", "node"]))
    .option("--serves", "it answers calls of the program that keeps its shim, and ends with it")
    .action((what: string, script: string | undefined, flags: CompileFlags, command: Command) =>
      finish(import("./policy.ts").then(({ compilePolicy }) => compilePolicy(contextOf(command), what, script, flags))),
    );
  add("doctor", "check what this machine can do, what is missing, and how to fix it", "ipcctl doctor").action(
    (_: object, command: Command) => finish(doctor(contextOf(command))),
  );
  const daemon = add(
    "daemon",
    "serve in the foreground (for systemd), or control the daemon in the background",
    "ipcctl daemon\nipcctl daemon --config /etc/ipcctl/config.json\nipcctl daemon status\nipcctl daemon stop --keep-workers",
  )
    .option(
      "--config <file>",
      "start the apps of this file that are not known yet (default: config.json, if it exists)",
    )
    .option("--stop-workers", "on SIGTERM end the workers too, for containers")
    .option("--exit-with <name>", "end with this worker, or with all or any of them, and exit with its status")
    .option("--check", "only check whether a daemon could start");
  withGlobals(daemon.command("status"))
    .description("show the state of the daemon")
    .action((_: object, command: Command) => finish(daemonStatus(contextOf(command))));
  withGlobals(daemon.command("stop"))
    .description("end the daemon and its workers")
    .option("--keep-workers", "leave the workers running")
    .action((flags: { keepWorkers?: boolean }, command: Command) =>
      finish(stopDaemon(contextOf(command), flags.keepWorkers === true)),
    );
  withGlobals(daemon.command("restart"))
    .description("replace the daemon; workers do not notice")
    .action((_: object, command: Command) => finish(restartDaemon(contextOf(command))));
  add("unit", "print a systemd unit for this installation", "ipcctl unit > /etc/systemd/system/ipcctl.service")
    .option("--user", "for systemctl --user")
    .action((flags: { user?: boolean }, command: Command) => {
      contextOf(command).print(systemdUnit(flags.user === true).trimEnd());
      return finish(Promise.resolve(0));
    });
  add("completion", "print a completion script", "ipcctl completion bash > /etc/bash_completion.d/ipcctl")
    .addArgument(program.createArgument("<shell>").choices(["bash", "zsh", "fish"]))
    .action((shell: string, _: object, command: Command) => finish(printCompletion(contextOf(command), shell)));
  const snapshot = add(
    "snapshot",
    "processes that have done their imports, from which workers fork",
    "ipcctl snapshot create science --import numpy,pandas\nipcctl run --snapshot science script.py\nipcctl snapshot list",
  );
  withGlobals(snapshot.command("create <name>"))
    .description("create a snapshot")
    .requiredOption("--import <modules>", "modules to import, separated by commas")
    .option("--policy <name>", "policy for `run` with this snapshot, if it names no other")
    .option("--interpreter <path>", "the Python of the snapshot")
    .action((name: string, flags: SnapshotFlags, command: Command) =>
      finish(import("./snapshot.ts").then(({ createSnapshot }) => createSnapshot(contextOf(command), name, flags))),
    );
  withGlobals(snapshot.command("list"))
    .description("list the snapshots")
    .action((_: object, command: Command) =>
      finish(import("./snapshot.ts").then(({ listSnapshots }) => listSnapshots(contextOf(command)))),
    );
  withGlobals(snapshot.command("delete <name>"))
    .description("end and forget a snapshot")
    .action((name: string, _: object, command: Command) =>
      finish(import("./snapshot.ts").then(({ deleteSnapshot }) => deleteSnapshot(contextOf(command), name))),
    );
  add(
    "audit",
    "show decisions about workers: starts, denials, connections",
    "ipcctl audit\nipcctl audit -f web\nipcctl audit --denied --json\nipcctl audit --verify",
  )
    .argument("[name]", "only this worker")
    .option("-f, --follow", "keep printing new decisions")
    .option("--denied", "denials only")
    .option("-n, --lines <n>", "number of newest records (default: 1000, with -f 10)")
    .option("--worker <name>", "the same as the name")
    .option("--since <time>", "only what is newer than, for example, 10m, or 2026-01-31T12:00:00Z")
    .option("--until <time>", "only what is not newer than that")
    .option("--event <kind>", "only records of this kind: start, connect, tool, gap, …")
    .option("--tool <glob>", "only calls of these tools")
    .option("--session <id>", "only calls of this run of a worker")
    .option("--correlation <id>", "only calls to which the worker has given this id")
    .option("--verify", "check that nothing was changed and nothing is missing: exit 0, else 1 with the first fault")
    .action((name: string | undefined, flags: AuditFlags, command: Command) =>
      finish(import("./audit.ts").then(({ audit }) => audit(contextOf(command), name, flags))),
    );
  add(
    "approve",
    "calls of high risk that wait for a person: list them, read one and allow it, take permissions back",
    "ipcctl approve\nipcctl approve 1f3a9c2e-4\nipcctl approve 1f3a9c2e-4 --session\nipcctl approve --list-granted",
  )
    .argument("[id]", "shows all of this call, and asks whether it is allowed")
    .option("--session", "allow the same argument values again, as long as this run of the worker goes on")
    .option("-y, --yes", "do not ask; without a terminal --hash is needed as well")
    .option("--hash <digits>", "allow it only if its SHA-256, as it was shown, begins so: 12 digits or more")
    .option("-f, --follow", "keep listing, as they come")
    .option("--list-granted", "list what is allowed for sessions")
    .option("--revoke <id>", "take such a permission back")
    .action((id: string | undefined, flags: ApproveFlags, command: Command) =>
      finish(import("./approve.ts").then(({ approve }) => approve(contextOf(command), id, flags))),
    );
  add(
    "deny",
    "say no to a call of high risk that waits for a person",
    "ipcctl deny 1f3a9c2e-4 --reason 'wrong account'\nipcctl deny all",
  )
    .argument("<id>", "the call, or all")
    .option("--reason <text>", "for the audit; the worker is not told")
    .action((id: string, flags: DenyFlags, command: Command) =>
      finish(import("./approve.ts").then(({ deny }) => deny(contextOf(command), id, flags))),
    );
  const auth = add(
    "auth",
    "credentials that plugins use and workers never see",
    "ipcctl auth add token --plugin http\nipcctl auth list\nipcctl auth rotate http/token --from-file token.txt",
  );
  secretFlags(withGlobals(auth.command("add <name>")))
    .description("store a credential: typed without echo, or else read from stdin")
    .option("--plugin <name>", "the plugin that it is for; the same as PLUGIN/NAME")
    .action((_: string, flags: AddFlags, command: Command) =>
      finish(import("./auth.ts").then(({ addCredential }) => addCredential(contextOf(command), command.args, flags))),
    );
  withGlobals(auth.command("login <name>"))
    .description("log in by OAuth's device flow: allow it in a browser, and it is renewed from then on")
    .requiredOption("--client-id <id>", "under which the service knows this program")
    .option("--issuer <url>", "the service, if it publishes the two URLs")
    .option("--device-url <url>", "where a login begins")
    .option("--token-url <url>", "where tokens come from")
    .option("--scope <scope>", "what is to be allowed, in words of the service")
    .option("--plugin <name>", "the plugin that it is for; the same as PLUGIN/NAME")
    .action((name: string, flags: LoginFlags, command: Command) =>
      finish(import("./auth.ts").then(({ login }) => login(contextOf(command), name, flags))),
    );
  withGlobals(auth.command("verify [name...]"))
    .description("try whether credentials can be used: each is opened, and a login is renewed (default: all)")
    .action((names: string[], _: object, command: Command) =>
      finish(import("./auth.ts").then(({ verifyCredentials }) => verifyCredentials(contextOf(command), names))),
    );
  withGlobals(auth.command("list"))
    .description("show when each was set and last used")
    .action((_: object, command: Command) =>
      finish(import("./auth.ts").then(({ listCredentials }) => listCredentials(contextOf(command)))),
    );
  withGlobals(auth.command("rm <name>"))
    .description("forget a credential")
    .action((name: string, _: object, command: Command) =>
      finish(import("./auth.ts").then(({ removeCredential }) => removeCredential(contextOf(command), name))),
    );
  secretFlags(withGlobals(auth.command("rotate [name]")))
    .description("replace the value of a credential, or the key that seals all of them")
    .option("--key", "make a new key, and seal everything with it")
    .action((_: string | undefined, flags: RotateFlags, command: Command) =>
      finish(
        import("./auth.ts").then(({ rotateCredential }) => rotateCredential(contextOf(command), command.args, flags)),
      ),
    );
  const plugin = add(
    "plugin",
    "plugins that answer what workers ask of the host: make one, check it, accept it, switch it",
    "ipcctl plugin list\nipcctl plugin new weather --lang python\nipcctl plugin check ./weather\nipcctl plugin accept weather",
  );
  withGlobals(plugin.command("list"))
    .description("show each with its tools, their risk, its state and its credential")
    .action((_: object, command: Command) =>
      finish(import("./plugin-commands.ts").then(({ listPlugins }) => listPlugins(contextOf(command)))),
    );
  withGlobals(plugin.command("new <name>"))
    .description("write a folder with manifest, handler, skill text and a test that passes")
    .addOption(new Option("--lang <language>", "of the handler (default: ts)").choices(["ts", "python"]))
    .option("-d, --directory <dir>", "make the folder in there (default: this one)")
    .action((name: string, flags: NewFlags, command: Command) =>
      finish(import("./plugin-new.ts").then(({ newPlugin }) => newPlugin(contextOf(command), name, flags))),
    );
  withGlobals(plugin.command("check <name|dir>"))
    .description(
      "check manifest, schemas, skill text and policy, and run it and its own test, confined; changes nothing",
    )
    .action((what: string, _: object, command: Command) =>
      finish(import("./plugin-check.ts").then(({ checkPlugin }) => checkPlugin(contextOf(command), what))),
    );
  withGlobals(plugin.command("accept <name>"))
    .description("show what is new in it since it was accepted, and let that run")
    .option("--digest <digest>", "accept it without asking, if this is its digest; 12 or more digits are enough")
    .action((name: string, flags: AcceptFlags, command: Command) =>
      finish(import("./plugin-commands.ts").then(({ acceptPlugin }) => acceptPlugin(contextOf(command), name, flags))),
    );
  for (const [name, description] of [
    ["enable", "let it run again"],
    ["disable", "let it not run, until it is enabled; it stays accepted"],
  ] as const)
    withGlobals(plugin.command(`${name} <name>`))
      .description(description)
      .action((which: string, _: object, command: Command) =>
        finish(
          import("./plugin-commands.ts").then(({ switchPlugin }) =>
            switchPlugin(contextOf(command), which, name === "enable"),
          ),
        ),
      );
  withGlobals(plugin.command("reload <name>"))
    .description("start its process anew, once nothing is under way in it")
    .action((name: string, _: object, command: Command) =>
      finish(import("./plugin-commands.ts").then(({ reloadPlugin }) => reloadPlugin(contextOf(command), name))),
    );
  withGlobals(plugin.command("verify [name...]"))
    .description("have plugins try their credentials and services")
    .action((names: string[], _: object, command: Command) =>
      finish(import("./plugin-commands.ts").then(({ verifyPlugins }) => verifyPlugins(contextOf(command), names))),
    );
  withGlobals(plugin.command("call <tool> [json]"))
    .description("call a tool as this user, with its arguments as JSON (- reads them from stdin)")
    .option("--tool-group <name>", "whose data it works on")
    .action((tool: string, json: string | undefined, flags: CallFlags, command: Command) =>
      finish(import("./plugin-commands.ts").then(({ callTool }) => callTool(contextOf(command), tool, json, flags))),
    );
  withGlobals(plugin.command("remove <name>"))
    .description("forget it, and delete its folder if that lies in plugins/ of the configuration")
    .option("--data", "delete what it stored as well")
    .action((name: string, flags: RemoveFlags, command: Command) =>
      finish(import("./plugin-commands.ts").then(({ removePlugin }) => removePlugin(contextOf(command), name, flags))),
    );
  const files = add(
    "files",
    "project files of a group, for its workers: put them there, list them, get them",
    "ipcctl files put web data.csv\nipcctl files ls web\nipcctl files get web summary.md -o -\nipcctl files rm web data.csv",
  );
  withGlobals(conversationFlag(files.command("put <group> <file...>")))
    .description("put files there; one of the same name is replaced, and - is stdin")
    .option("--name <name>", "another name than the file has")
    .option("--media-type <type>", "what it is, such as text/csv (default: by its name)")
    .action((group: string, paths: string[], flags: PutFlags, command: Command) =>
      finish(import("./file-commands.ts").then(({ putFiles }) => putFiles(contextOf(command), group, paths, flags))),
    );
  withGlobals(conversationFlag(files.command("ls <group>")))
    .description("list them: id, size, who wrote it, conversation, name")
    .action((group: string, flags: ConversationFlag, command: Command) =>
      finish(import("./file-commands.ts").then(({ listFiles }) => listFiles(contextOf(command), group, flags))),
    );
  withGlobals(conversationFlag(files.command("get <group> <file>")))
    .description("get one, by its name or id")
    .option("-o, --output <file>", "write it there, - is stdout (default: a new file of its name in this folder)")
    .action((group: string, file: string, flags: GetFlags, command: Command) =>
      finish(import("./file-commands.ts").then(({ getFile }) => getFile(contextOf(command), group, file, flags))),
    );
  withGlobals(conversationFlag(files.command("rm <group> <file...>")))
    .description("delete files, by their names or ids")
    .action((group: string, names: string[], flags: ConversationFlag, command: Command) =>
      finish(
        import("./file-commands.ts").then(({ removeFiles }) => removeFiles(contextOf(command), group, names, flags)),
      ),
    );
  const project = add(
    "project",
    "what a group works on, for its workers: values, conversations and messages",
    "ipcctl project set web name=Sales 'goals=[\"grow\"]'\nipcctl project say web c1 user 'How was May?'\nipcctl project show web --conversation c1",
  );
  withGlobals(conversationFlag(project.command("set <group> <values...>")))
    .description("set NAME=VALUE, in JSON or else text; null removes one")
    .action((group: string, words: string[], flags: ConversationFlag, command: Command) =>
      finish(
        import("./project-commands.ts").then(({ setProject }) => setProject(contextOf(command), group, words, flags)),
      ),
    );
  withGlobals(conversationFlag(project.command("show <group>")))
    .description("show what is set, and what was said in a conversation")
    .option("-n, --lines <n>", "newest messages (default: 20)")
    .action((group: string, { lines = "20", ...flags }: ConversationFlag & { lines?: string }, command: Command) =>
      finish(
        import("./project-commands.ts").then(({ showProject }) =>
          showProject(contextOf(command), group, {
            ...flags,
            lines: parseCount(lines, "--lines", 0, limit("conversationMessages")),
          }),
        ),
      ),
    );
  withGlobals(project.command("say <group> <conversation> <role> <text>"))
    .description("add a message of user, assistant, system or tool; a text called - is read from stdin")
    .action((group: string, conversation: string, role: string, text: string, _: object, command: Command) =>
      finish(
        import("./project-commands.ts").then(({ say }) => say(contextOf(command), group, conversation, role, text)),
      ),
    );
  const events = (): Promise<typeof import("./event-commands.ts")> => import("./event-commands.ts");
  add(
    "publish",
    "store an event, which the rules of host.json start sessions for",
    'ipcctl publish mail.new \'{"from": "ann"}\'\nipcctl publish build.done --key 4711',
  )
    .argument("<topic>", "words with dots, such as mail.new")
    .argument("[json]", "its data; - is stdin")
    .option("--key <key>", "within a week an event of the same topic and key is the same one")
    .option("--wait [seconds]", "wait for the sessions that it starts, and exit with 1 if one did not end well")
    .action(
      (topic: string, text: string | undefined, flags: { key?: string; wait?: string | true }, command: Command) =>
        finish(
          events().then(({ publish }) => {
            const { wait, ...more } = flags;
            const ms = wait === true ? limit("graceMs") : wait === undefined ? wait : parseDurationMs(wait, "--wait");
            return publish(contextOf(command), topic, text, { ...more, wait: ms });
          }),
        ),
    );
  const sessions = () => import("./session-commands.ts");
  add(
    "prompt",
    "ask, and print the answer as it comes; exits as the session does",
    "ipcctl prompt 'What is new?'\nipcctl prompt - < question.txt\nipcctl prompt --session ID 'And since then?'",
  )
    .argument("<text>", "what is asked; - is stdin")
    .option("--rule <name>", "the rule of host.json that starts it (default: the one that host.json names for prompts)")
    .option("--session <id>", "an earlier session, whose workspace it gets")
    .option("--timeout <seconds>", "end it after this time, with status 124")
    .action(
      (text: string, { timeout, ...flags }: { rule?: string; session?: string; timeout?: string }, command: Command) =>
        finish(
          import("./prompt.ts").then(({ prompt }) => {
            const timeoutMs = timeout === undefined ? undefined : Math.max(1, parseDurationMs(timeout, "--timeout"));
            return prompt(contextOf(command), text, { ...flags, timeoutMs });
          }),
        ),
    );
  const session = add(
    "session",
    "what rules of host.json have started for events, and what was said in it",
    "ipcctl session list\nipcctl session describe ID\nipcctl session logs ID -f\nipcctl session stop ID",
  );
  withGlobals(session.command("list"))
    .description("list those that run and those that have ended, newest first")
    .option("--group <name>", "of this group only")
    .action((flags: SessionFlags, command: Command) =>
      finish(sessions().then(({ listSessions }) => listSessions(contextOf(command), flags))),
    );
  withGlobals(session.command("describe <id>"))
    .description("show all of one: what it was asked, the tools it called, what it printed")
    .action((id: string, _: object, command: Command) =>
      finish(sessions().then(({ describeSession }) => describeSession(contextOf(command), id))),
    );
  withGlobals(session.command("logs <id>"))
    .description("print what one has printed")
    .option("-f, --follow", "keep printing until it has ended")
    .action((id: string, { follow = false }: { follow?: boolean }, command: Command) =>
      finish(sessions().then(({ sessionLogs }) => sessionLogs(contextOf(command), id, follow))),
    );
  withGlobals(session.command("stop <id...>"))
    .description("end them, which counts as done")
    .action((ids: [string, ...string[]], _: object, command: Command) =>
      finish(sessions().then(({ stopSessions }) => stopSessions(contextOf(command), ids))),
    );
  const task = add(
    "task",
    "publish events by the clock",
    "ipcctl task add report --cron '0 7 * * mon-fri' --timezone Europe/Berlin --publish report.due\nipcctl task list\nipcctl task history report\nipcctl task pause report",
  );
  withGlobals(task.command("add <name>"))
    .description("add a task; prints when it comes due next")
    .requiredOption("--cron <expr>", "minute hour day month weekday, or such as @daily")
    .option("--timezone <zone>", "such as Europe/Berlin (default: that of the daemon)")
    .addOption(
      new Option("--overlap <what>", "what a run does while the one before goes on").choices(OVERLAPS).default("skip"),
    )
    .option("--catch-up", "make up for the newest of the runs that were missed")
    .option("--publish <topic>", "the event that it publishes")
    .option("--data <json>", "data of the event")
    .option("--prompt <text>", "what it asks, as ipcctl prompt does, in place of an event")
    .action((name: string, flags: TaskFlags, command: Command) =>
      finish(events().then(({ addTask }) => addTask(contextOf(command), name, flags))),
    );
  withGlobals(task.command("list"))
    .description("list them: when each is due next, and how its last run ended")
    .action((_: object, command: Command) => finish(events().then(({ listTasks }) => listTasks(contextOf(command)))));
  withGlobals(task.command("history <name>"))
    .description("show its runs, also those that were missed or skipped")
    .option("-n, --lines <n>", "newest runs (default: 20)")
    .action((name: string, { lines = "20" }: { lines?: string }, command: Command) =>
      finish(
        events().then(({ taskHistory }) =>
          taskHistory(contextOf(command), name, parseCount(lines, "--lines", 1, limit("taskRuns"))),
        ),
      ),
    );
  withGlobals(task.command("run <name>"))
    .description("begin a run now, paused or not")
    .action((name: string, _: object, command: Command) =>
      finish(events().then(({ runTask }) => runTask(contextOf(command), name))),
    );
  for (const [verb, says] of [
    ["pause", "keep it from coming due"],
    ["resume", "let it come due again; nothing counts as missed meanwhile"],
  ] as const)
    withGlobals(task.command(`${verb} <name>`))
      .description(says)
      .action((name: string, _: object, command: Command) =>
        finish(events().then(({ setTaskPaused }) => setTaskPaused(contextOf(command), name, verb === "pause"))),
      );
  withGlobals(task.command("rm <name>"))
    .description("remove it with the record of its runs, and end what runs of it")
    .action((name: string, _: object, command: Command) =>
      finish(events().then(({ removeTask }) => removeTask(contextOf(command), name))),
    );
  const queue = add(
    "queue",
    "events that wait for sessions, and dead letters",
    "ipcctl queue list\nipcctl queue list --dead\nipcctl queue show ID\nipcctl queue retry --dead",
  );
  withGlobals(queue.command("list"))
    .description("list what waits or runs, oldest first")
    .option("--dead", "dead letters: what failed too often, or found no room")
    .option("--group <name>", "of this group only")
    .action((flags: QueueFlags, command: Command) =>
      finish(events().then(({ listQueue }) => listQueue(contextOf(command), flags))),
    );
  withGlobals(queue.command("show <id>"))
    .description("show one with its event")
    .action((id: string, _: object, command: Command) =>
      finish(events().then(({ showQueued }) => showQueued(contextOf(command), id))),
    );
  withGlobals(queue.command("retry [id...]"))
    .description("try again what is dead or has failed")
    .option("--dead", "all dead letters")
    .action((ids: string[], flags: QueueFlags, command: Command) =>
      finish(events().then(({ retryQueued }) => retryQueued(contextOf(command), ids, flags))),
    );
  withGlobals(queue.command("drop <id...>"))
    .description("forget what does not run")
    .action((ids: [string, ...string[]], _: object, command: Command) =>
      finish(events().then(({ dropQueued }) => dropQueued(contextOf(command), ids))),
    );
  add("init", "write an ipcctl.json for this folder", "ipcctl init")
    .option("-f, --force", "replace an existing file")
    .action((flags: { force?: boolean }, command: Command) =>
      finish(import("./init.ts").then(({ init }) => init(contextOf(command), flags.force === true))),
    );
  return program;
}

/** Flags that grant exceptions to a policy. */
function exceptionFlags(command: Command): Command {
  return command
    .option(
      "--allow-net [hosts]",
      "grant the network, or only TCP to HOST:PORT,…; Unix sockets stay as the policy says",
    )
    .option("--allow-listen [ports]", "grant listening on TCP, or only on PORT,…")
    .option("--allow-read <path>", "grant reading a file or folder (repeatable)", collect)
    .option("--allow-write <path>", "grant writing a file or folder (repeatable)", collect)
    .option(
      "--allow-runtimes <n>",
      "let it have so many runtimes of JavaScript at once (docs/javascript-in-workers.md)",
    );
}

function conversationFlag(command: Command): Command {
  return command.option("--conversation <id>", "of this conversation, instead of the whole project");
}

/** Where a secret comes from. Words too many are refused without being repeated: one may be the secret. */
function secretFlags(command: Command): Command {
  return command
    .allowExcessArguments()
    .allowUnknownOption()
    .option("--from-file <file>", "read it from a file")
    .option("--from-env <variable>", "read it from a variable of this command's environment");
}

/** Flags that `start` and `run` share. */
function runFlags(command: Command): Command {
  return definitionFlags(exceptionFlags(command))
    .option("--name <name>", "name of the worker (default: the script's)")
    .option(
      "--policy <name>",
      "what it may do: see `ipcctl policy list`, or the path of a file (default: no-network for `start` of Python, strict for `run`)",
    )
    .option("--umask <mode>", "mask for the modes of new files, in octal (default: that of this shell)")
    .option("--max-memory <size>", "memory limit, for example 512M")
    .option("--allow-tools <globs>", "grant tools of the host's plugins: files.read, files.*,… (see docs/host.md)")
    .option(
      "--unsafe-tools",
      "grant them under a policy that shows your files too; none of high risk or with a credential",
    )
    .option("--approval-timeout <time>", "how long a person is asked about a call of high risk (default: 5m)")
    .option("--tool-group <name>", "whose data its tools work on (default: that of its name)")
    .addOption(
      new Option("--transport <how>", "how it asks for its tools (default: shm; see docs/host.md)").choices([
        ...TRANSPORTS,
      ]),
    );
}

/** What runs, and as which user: the effect of a policy depends on both. */
function definitionFlags(command: Command): Command {
  return command
    .option("--command <cmd>", "run a command instead of a script")
    .option("--interpreter <path>", "run the script with this program")
    .option("-d, --cwd <dir>", "working directory (default: this one)")
    .option("-e, --env <name=value>", "set a variable (repeatable)", collect)
    .option("--env-file <file>", "read variables from a file at every start")
    .option("--snapshot <name>", "fork it from a snapshot instead of starting Python")
    .option("--uid <user>", "run as this user, by name or number (root only)")
    .option("--gid <group>", "run as this group, by name or number (root only)");
}

/**
 * Global flags may stand on either side of the command. A typed flag wins over a default, and the nearer one over the
 * farther.
 */
function globalFlags(command: Command): GlobalFlags {
  const flags: Record<string, unknown> = {};
  for (const key of ["socket", "json", "color", "autostart", "quiet", "verbose"]) {
    for (let at: Command | null = command; at !== null && flags[key] === undefined; at = at.parent)
      if (at.getOptionValueSource(key) === "cli") flags[key] = at.getOptionValue(key);
  }
  return flags;
}

function grace(seconds: string | undefined): { graceMs?: number } {
  return seconds === undefined ? {} : { graceMs: parseDurationMs(seconds, "--timeout") };
}

function waiting(ms: string | undefined): { waitMs?: number } {
  return ms === undefined ? {} : { waitMs: parseDurationMs(ms, "--wait", "ms") };
}
