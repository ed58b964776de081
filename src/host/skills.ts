/** Texts by which a model learns when to call the tools of a plugin: `skills/NAME.md` in its folder. */
import { closeSync, openSync, readSync } from "node:fs";
import { join } from "node:path";
import duckdb from "../../plugins/duckdb/skills/duckdb.md" with { type: "text" };
import echo from "../../plugins/echo/skills/echo.md" with { type: "text" };
import files from "../../plugins/files/skills/files.md" with { type: "text" };
import http from "../../plugins/http/skills/http.md" with { type: "text" };
import memory from "../../plugins/memory/skills/memory.md" with { type: "text" };
import mysql from "../../plugins/mysql/skills/mysql.md" with { type: "text" };
import postgres from "../../plugins/postgres/skills/postgres.md" with { type: "text" };
import project from "../../plugins/project/skills/project.md" with { type: "text" };
import { limit } from "../base/limits.ts";

/** Of those that come with ipcctl. */
const SHIPPED: Readonly<Record<string, string>> = { duckdb, echo, files, http, memory, mysql, postgres, project };

/**
 * Undefined if it has none that can be read.
 * @param folder the accepted copy; undefined for one that comes with ipcctl
 */
export function skillOf(name: string, folder: string | undefined): string | undefined {
  if (folder === undefined) return Object.hasOwn(SHIPPED, name) ? SHIPPED[name] : undefined;
  const bytes = Buffer.alloc(limit("skillBytes"));
  try {
    const file = openSync(join(folder, "skills", `${name}.md`), "r");
    try {
      const text = new TextDecoder().decode(bytes.subarray(0, readSync(file, bytes, 0, bytes.length, 0)));
      return text.replace(/\ufffd$/, ""); // of a character that the limit cuts
    } finally {
      closeSync(file);
    }
  } catch {
    return undefined;
  }
}
