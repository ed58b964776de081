/**
 * The process of one plugin, which the daemon starts as a worker of its own: `plugin FOLDER`. It holds the plugin's
 * credentials, and takes them out of all that the handler says before anything leaves it.
 */
import { Console } from "node:console";
import { readSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { callContext } from "../calls/server.ts";
import { IpcError } from "../base/errors.ts";
import * as plugin from "../host/plugin.ts";
import type { PluginAnswer, PluginRequest, PluginSetup } from "../host/plugin-calls.ts";
import { Redactor } from "../host/redact.ts";
import { answerWith, said } from "../host/tool-answer.ts";
import { SealedWriter } from "../plane/sealed-writer.ts";
import type { Sealed } from "../plane/sealed.ts";
import { serve } from "../runtime/serve.ts";

/** What a handler imports, wherever its folder is. */
Bun.plugin({
  name: "ipcctl",
  setup(builder) {
    builder.module("ipcctl/plugin", () => ({ exports: { ...plugin }, loader: "object" }));
  },
});

let running: plugin.Running | undefined;
let starting: Promise<void> | undefined;
let redactor = new Redactor();
/** What it removes, as bytes. */
let exact: readonly Buffer[] = [];

redactOutput();
const serving = serve({
  /** Told by the daemon: the only way in which a credential comes here. One that is set up stays as it is. */
  setUp: async (setup: PluginSetup): Promise<string[]> => {
    starting ??= setUp(setup).finally(() => {
      if (running === undefined) starting = undefined; // it may be tried again
    });
    await starting; // another router may have come meanwhile, and asks the same
    return Object.keys(running!.tools);
  },
  invoke: (tool: string, args: string, request: PluginRequest): Promise<PluginAnswer> => {
    const context = callContext();
    return answerWith(
      () => {
        const run = running !== undefined && Object.hasOwn(running.tools, tool) ? running.tools[tool] : undefined;
        if (run === undefined) throw new Error(`the handler has no tool ${tool}`);
        return run(JSON.parse(args) as Record<string, never>, {
          ...request,
          get signal() {
            return context.signal; // made for whoever asks for it
          },
        });
      },
      redactor,
      tableOf,
    );
  },
  /** What is wrong with its credential or its service; null if nothing is. */
  verify: async (): Promise<string | null> => {
    try {
      await running?.verify?.();
      return null;
    } catch (error) {
      return said(error, redactor);
    }
  },
});
process.once("SIGTERM", () => void shutDown());

/** Whoever has sent the signal ends us if it takes too long. */
async function shutDown(): Promise<void> {
  try {
    (await serving)[Symbol.dispose]();
    await running?.shutdown?.();
  } catch (error) {
    console.error(error);
  }
  process.exit();
}

async function setUp({ config, credentials, secrets, data, contents, isGuarded }: PluginSetup): Promise<void> {
  const names = Object.keys(credentials);
  const others = secrets.filter((one) => !Object.values(credentials).includes(one));
  redactor = new Redactor({ ...credentials, ...Object.fromEntries(others.map((one, at) => [`former-${at}`, one])) });
  exact = [...new Set([...Object.values(credentials), ...others])].map((one) => Buffer.from(one));
  try {
    const { default: start } = await load(process.argv[2]!);
    if (typeof start !== "function") throw new Error("handler.ts exports no function as its default");
    running = await start({ config, credentials, data, contents, isGuarded });
  } catch (error) {
    throw new IpcError("FAILED", `the handler did not start (${names.length} credentials): ${said(error, redactor)}`);
  }
}

/** What a handler prints comes into a log, and its last words too. */
function redactOutput(): void {
  for (const stream of [process.stdout, process.stderr]) {
    const write = stream.write.bind(stream) as (text: string, done?: () => void) => boolean;
    stream.write = (chunk: string | Uint8Array, ...more: unknown[]): boolean => {
      const text = typeof chunk === "string" ? chunk : Buffer.from(chunk).toString();
      return write(
        redactor.text(text).value,
        more.find((one) => typeof one === "function") as (() => void) | undefined,
      );
    };
  }
  Object.assign(console, new Console(process.stdout, process.stderr));
  const end = (error: unknown): never => {
    console.error(error);
    process.exit(1);
  };
  process.on("uncaughtException", end);
  process.on("unhandledRejection", end);
}

/** In tables nothing is replaced: one that holds a credential, as it is, does not leave. Encodings are not sought. */
function tableOf(table: Sealed | Uint8Array): Sealed {
  const sealed = table instanceof Uint8Array ? sealedOf(table) : table;
  if (!exact.some((one) => holds(sealed, one))) return sealed;
  sealed[Symbol.dispose]();
  throw new Error("the table holds a credential");
}

function sealedOf(bytes: Uint8Array): Sealed {
  using writer = new SealedWriter();
  writer.write(bytes);
  return writer.finish();
}

const LOOK_BYTES = 1_048_576;

function holds({ fd, bytes }: Sealed, value: Buffer): boolean {
  const look = Buffer.alloc(Math.min(bytes, LOOK_BYTES + value.length));
  for (let at = 0; at < bytes; at += LOOK_BYTES)
    if (look.subarray(0, readSync(fd, look, 0, look.length, at)).includes(value)) return true;
  return false;
}

type Handler = { readonly default: plugin.Plugin };

/** @param place its folder, or `shipped:NAME` */
async function load(place: string): Promise<Handler> {
  switch (place) {
    case "shipped:duckdb":
      return (await import("../../plugins/duckdb/handler.ts")) as Handler;
    case "shipped:http":
      return (await import("../../plugins/http/handler.ts")) as Handler;
    case "shipped:mysql":
      return (await import("../../plugins/mysql/handler.ts")) as Handler;
    case "shipped:postgres":
      return (await import("../../plugins/postgres/handler.ts")) as Handler;
    default:
      return (await import(pathToFileURL(join(place, "handler.ts")).href)) as Handler;
  }
}
