/** The plugins that come with ipcctl, hold no credential, and reach nothing but the stores: they run in the router. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import echo from "../../plugins/echo/handler.ts";
import echoManifest from "../../plugins/echo/manifest.json";
import files from "../../plugins/files/handler.ts";
import filesManifest from "../../plugins/files/manifest.json";
import memory from "../../plugins/memory/handler.ts";
import memoryManifest from "../../plugins/memory/manifest.json";
import project from "../../plugins/project/handler.ts";
import projectManifest from "../../plugins/project/manifest.json";
import { hostTool, type ToolManifest } from "../host/host-tools.ts";
import type { Plugin as Handler } from "../host/plugin.ts";
import { Groups } from "../stores/database.ts";
import { FileStore } from "../stores/file-store.ts";
import type { FilesNamed, Plugin } from "./plugin-link.ts";

type Manifest = { readonly provides: { readonly tools: readonly object[] } };

const SHIPPED: Readonly<Record<string, readonly [handler: Handler<never>, manifest: Manifest]>> = {
  echo: [echo, echoManifest],
  files: [files, filesManifest],
  memory: [memory, memoryManifest],
  project: [project, projectManifest],
};

/** @param dataDir each has a folder of its own there */
export async function startShipped(dataDir: string): Promise<Map<string, Plugin>> {
  const started = new Map<string, Plugin>();
  for (const [name, [handler, manifest]] of Object.entries(SHIPPED)) {
    const data = join(dataDir, name);
    mkdirSync(data, { recursive: true, mode: 0o700 });
    const { tools } = await handler({ config: undefined as never, credentials: {}, data });
    started.set(name, {
      state: "ready",
      tools: (manifest.provides.tools as readonly ToolManifest[]).map((tool) => hostTool(name, tool)),
      call: (call, begin) => {
        begin();
        return tools[call.tool!.manifest.name.slice(name.length + 1)]!(call.args, call); // as declared
      },
    });
  }
  return started;
}

/** @param folder of the plugin `files` */
export function filesNamedIn(folder: string): FilesNamed {
  const groups = new Groups(folder, (where, group) => new FileStore(where, group));
  return async (group, texts) => (groups.has(group) ? await groups.use(group, (store) => store.named(texts)) : []);
}
