/** The router of a copy of what is installed, built with other text in places: what tests change, nobody ships. */
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "../home.ts";

/** In a source file below `src`, what stands there once, and what stands there instead. */
export type Change = { readonly file: string; readonly from: string; readonly to: string };

/** @throws if something is not there to be changed */
export async function buildRouter(app: string, changes: readonly Change[]): Promise<void> {
  const { success } = await Bun.build({
    entrypoints: [join(ROOT, "src/router/main.ts")],
    outdir: join(app, "build/js"),
    naming: "router.js",
    target: "bun",
    format: "cjs",
    define: { IPCCTL_IS_BUNDLE: "true", __dirname: '"."' },
    plugins: [
      {
        name: "changes",
        setup(builder) {
          for (const file of new Set(changes.map((one) => one.file))) {
            const contents = changes
              .filter((one) => one.file === file)
              .reduce((text, change) => changed(text, change), readFileSync(join(ROOT, "src", file), "utf8"));
            const filter = new RegExp(`/src/${file.replaceAll(".", "\\.")}$`);
            builder.onLoad({ filter }, () => ({ contents, loader: "ts" }));
          }
        },
      },
    ],
  });
  if (!success) throw new Error("the router could not be built");
  rmSync(join(app, "build/js/router.js.jsc"), { force: true });
}

function changed(text: string, { file, from, to }: Change): string {
  if (text.split(from).length !== 2) throw new Error(`${file} has not once: ${from}`);
  return text.replace(from, () => to);
}
