import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join, relative } from "node:path";

const src = join(import.meta.dir, "..", "..", "src");

/** Arrows between folders. Adding one means adding a line of why to docs/architecture.md. */
const ALLOWED: Record<string, readonly string[]> = {
  base: [],
  protocol: ["base"],
  logs: ["base"],
  sandbox: ["base"],
  plane: ["base"],
  workers: ["base", "protocol", "sandbox", "logs", "plane"],
  host: ["base", "protocol", "plane"],
  http: ["base", "protocol"],
  sdk: ["base", "protocol"],
  runtime: ["base", "protocol", "plane", "sdk"],
  daemon: ["base", "protocol", "logs", "sandbox", "workers", "plane", "host", "http"],
  // `run` needs no daemon: it makes the same start specification itself.
  cli: ["base", "protocol", "logs", "sdk", "runtime", "workers", "sandbox"],
  ".": ["cli", "daemon", "runtime", "plane", "base"],
};

const files = [...new Bun.Glob("**/*.ts").scanSync(src)];
const importsOf = (file: string): string[] =>
  [...readFileSync(join(src, file), "utf8").matchAll(/(?:from|import)\s*\(?\s*"(\.[^"]+)"/g)].map(([, path]) =>
    relative(src, join(src, file, "..", path!)),
  );
const folderOf = (file: string): string => (file.includes("/") ? file.split("/")[0]! : ".");

test("every arrow between folders is on the list", () => {
  const wrong = files.flatMap((file) =>
    importsOf(file)
      .filter((target) => folderOf(target) !== folderOf(file) && !ALLOWED[folderOf(file)]?.includes(folderOf(target)))
      .map((target) => `${file} → ${target}`),
  );
  expect(wrong).toEqual([]);
});

test("no file imports itself by a circle", () => {
  const done = new Set<string>();
  const visit = (file: string, path: readonly string[]): void => {
    if (path.includes(file)) throw new Error(`circle: ${[...path, file].join(" → ")}`);
    if (done.has(file)) return;
    for (const target of importsOf(file)) visit(target, [...path, file]);
    done.add(file);
  };
  for (const file of files) visit(file, []);
});

test("no default export, no any, no enum, no rooms named after nothing", () => {
  for (const file of files) {
    const text = readFileSync(join(src, file), "utf8");
    expect(file).not.toMatch(/(utils|helpers|common|manager|misc)/);
    expect(text).not.toMatch(/^export default|\bas any\b|: any\b|^(export )?(const )?enum /m);
    expect(text.trimStart()).toMatch(file === "main.ts" ? /^\/\*\*/ : /^\/\*\*/);
  }
});
