/**
 * Makes build/js/ipcctl.d.ts: the types of the SDK as one file that needs no other, for TypeScript in any of its modes.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { rollup } from "rollup";
import { dts } from "rollup-plugin-dts";

const ROOT = join(import.meta.dir, "..");
const OUT = join(ROOT, "build/js/ipcctl.d.ts");
/** Libraries of the language that we use and that the settings of a program may leave out. */
const LIBRARIES = ["es2022", "esnext.disposable"];

const bundle = await rollup({
  input: join(ROOT, "src/index.ts"),
  plugins: [dts({ tsconfig: join(ROOT, "tsconfig.json") })],
  onwarn: ({ message }) => {
    throw new Error(message);
  },
});
await bundle.write({ file: OUT, format: "es" });
const text = readFileSync(OUT, "utf8");
if (/^import\b|\bBun\.|\bNodeJS\.|\bBuffer\b/m.test(text))
  throw new Error(`${OUT} needs types that its users may not have`);
writeFileSync(OUT, `${LIBRARIES.map((name) => `/// <reference lib="${name}" />\n`).join("")}${text}`);
