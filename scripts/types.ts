/**
 * Makes build/js/ipcctl.d.ts and handler.d.ts: the types of the SDK, and of what handlers of plugins are written
 * against, each as one file that needs no other, for TypeScript in any of its modes.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { rollup } from "rollup";
import { dts } from "rollup-plugin-dts";

const ROOT = join(import.meta.dir, "..");
/** Libraries of the language that we use and that the settings of a program may leave out. */
const LIBRARIES = ["es2022", "esnext.disposable"];

await write("src/index.ts", "ipcctl.d.ts");
await write("src/host/plugin.ts", "handler.d.ts");

async function write(source: string, name: string): Promise<void> {
  const file = join(ROOT, "build/js", name);
  const bundle = await rollup({
    input: join(ROOT, source),
    plugins: [dts({ tsconfig: join(ROOT, "tsconfig.json") })],
    onwarn: ({ message }) => {
      throw new Error(message);
    },
  });
  await bundle.write({ file, format: "es" });
  const text = readFileSync(file, "utf8");
  if (/^import\b|\bBun\.|\bNodeJS\.|\bBuffer\b/m.test(text))
    throw new Error(`${file} needs types that its users may not have`);
  writeFileSync(file, `${LIBRARIES.map((lib) => `/// <reference lib="${lib}" />\n`).join("")}${text}`);
}
