/**
 * The process of one plugin, which the daemon starts as a worker of its own: `plugin FOLDER`. It holds the plugin's
 * credentials, and takes them out of all that the handler says before anything leaves it.
 */
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { callContext } from "../calls/server.ts";
import { IpcError } from "../base/errors.ts";
import * as plugin from "../host/plugin.ts";
import type { PluginAnswer, PluginRequest, PluginSetup } from "../host/plugin-calls.ts";
import { Redactor } from "../host/redact.ts";
import { answerWith, said } from "../host/tool-answer.ts";
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

void serve({
  /** Told by the daemon: the only way in which a credential comes here. One that is set up stays as it is. */
  setUp: async (setup: PluginSetup): Promise<void> => {
    starting ??= setUp(setup).finally(() => {
      if (running === undefined) starting = undefined; // it may be tried again
    });
    await starting; // another router may have come meanwhile, and asks the same
  },
  invoke: (tool: string, args: string, request: PluginRequest): Promise<PluginAnswer> => {
    const { signal } = callContext();
    return answerWith(() => {
      const run = running !== undefined && Object.hasOwn(running.tools, tool) ? running.tools[tool] : undefined;
      if (run === undefined) throw new Error(`the handler has no tool ${tool}`);
      return run(JSON.parse(args) as Record<string, never>, { ...request, signal });
    }, redactor);
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
  shutDown: async (): Promise<void> => {
    await running?.shutdown?.();
  },
});

async function setUp({ config, credentials, secrets, data, isGuarded }: PluginSetup): Promise<void> {
  const names = Object.keys(credentials);
  const others = secrets.filter((one) => !Object.values(credentials).includes(one));
  redactor = new Redactor({ ...credentials, ...Object.fromEntries(others.map((one, at) => [`former-${at}`, one])) });
  try {
    const { default: start } = await load(process.argv[2]!);
    if (typeof start !== "function") throw new Error("handler.ts exports no function as its default");
    running = await start({ config, credentials, data, isGuarded });
  } catch (error) {
    throw new IpcError("FAILED", `the handler did not start (${names.length} credentials): ${said(error, redactor)}`);
  }
}

type Handler = { readonly default: plugin.Plugin };

/** @param place its folder, or `shipped:NAME` */
async function load(place: string): Promise<Handler> {
  switch (place) {
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
