/** Makes build/js/LICENSES.txt: the licenses of the packages whose code is in build/js. */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const ROOT = join(import.meta.dir, "..");
const { inputs } = (
  await Bun.build({
    entrypoints: ["src/main.ts", "src/index.ts", "src/engine/main.ts"].map((file) => join(ROOT, file)),
    target: "bun",
    metafile: true,
  })
).metafile!;
const packages = new Set(
  Object.keys(inputs).flatMap((path) => /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1] ?? []),
);
const texts = [...packages].toSorted().map((name) => {
  const folder = join(ROOT, "node_modules", name);
  const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as Record<string, string>;
  const file = readdirSync(folder).find((one) => /^licen[cs]e/i.test(one));
  if (file === undefined && license === undefined) throw new Error(`${name} does not say under which license it is`);
  return `${name} ${version} (${license})\n\n${file === undefined ? "" : readFileSync(join(folder, file), "utf8").trim()}\n`;
});
writeFileSync(join(ROOT, "build/js/LICENSES.txt"), texts.join(`\n${"-".repeat(80)}\n\n`));
