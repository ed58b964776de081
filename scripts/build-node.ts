/** The SDK for Node, as one file: build/js/ipcctl.node.js. What differs from Bun lies in files of its own, which take the places of theirs. */
import { join } from "node:path";

const ROOT = join(import.meta.dir, "..");
const TWINS = ["src/base/platform.ts", "src/plane/system.ts"];

const { outputs, logs } = await Bun.build({
  entrypoints: [join(ROOT, "src/index.ts")],
  target: "node",
  format: "esm",
  naming: "ipcctl.node.js",
  outdir: join(ROOT, "build/js"),
  plugins: [
    {
      name: "twins",
      setup(build) {
        build.onResolve({ filter: /\/(platform|system)\.ts$/ }, ({ path, importer }) => {
          const file = join(importer, "..", path);
          if (!TWINS.some((twin) => file === join(ROOT, twin))) return undefined;
          return { path: file.replace(/\.ts$/, "-node.ts") };
        });
      },
    },
  ],
});
if (outputs.length === 0) throw new AggregateError(logs, "the bundle for Node could not be built");
