/** What the plugins that come with ipcctl say of themselves. They are part of it, so nobody has to accept them. */
import echo from "../../plugins/echo/manifest.json";
import files from "../../plugins/files/manifest.json";
import memory from "../../plugins/memory/manifest.json";
import project from "../../plugins/project/manifest.json";
import { parseManifest, type Manifest } from "./manifest.ts";

/** By name. */
export function shippedManifests(): ReadonlyMap<string, Manifest> {
  return new Map(
    Object.entries({ echo, files, memory, project }).map(([name, manifest]) => [
      name,
      parseManifest(name, JSON.stringify(manifest), `plugins/${name}/manifest.json`),
    ]),
  );
}
