/** What the plugins that come with ipcctl say of themselves. They are part of it, so nobody has to accept them. */
import duckdb from "../../plugins/duckdb/manifest.json";
import echo from "../../plugins/echo/manifest.json";
import files from "../../plugins/files/manifest.json";
import http from "../../plugins/http/manifest.json";
import memory from "../../plugins/memory/manifest.json";
import mysql from "../../plugins/mysql/manifest.json";
import postgres from "../../plugins/postgres/manifest.json";
import project from "../../plugins/project/manifest.json";
import { parseManifest, type Manifest } from "./manifest.ts";

/** Those that hold no credential and reach nothing but the stores: the router runs them itself. */
export const IN_ROUTER: ReadonlySet<string> = new Set(["echo", "files", "memory", "project"]);

/** Of DuckDB's library, an optional dependency: 24 MB to download, 68 MB on the disk. */
export const DUCKDB_PACKAGE = `@duckdb/node-bindings-linux-${process.arch}`;

export const DUCKDB_VERSION = "1.5.6-r.1";

/** By name. */
export function shippedManifests(): ReadonlyMap<string, Manifest> {
  return new Map(
    Object.entries({ duckdb, echo, files, http, memory, mysql, postgres, project }).map(([name, manifest]) => [
      name,
      parseManifest(name, JSON.stringify(manifest), `plugins/${name}/manifest.json`),
    ]),
  );
}
