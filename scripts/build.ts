/**
 * Makes build/js: the command line with the daemon, compiled ahead of time, and the SDK, for Bun and for Node. They
 * contain all that they import, so users install nothing else. Code that differs on Node is in separate files, which
 * replace those for Bun.
 */
import { renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { LIMITS } from "../contract/limits.ts";

const ROOT = join(import.meta.dir, "..");
const OUT = join(ROOT, "build/js");
/**
 * Replaces the folder as a whole: a program that starts meanwhile finds the old one or the new one, and a build that is
 * killed leaves no partial one.
 */
const MADE = `${OUT}.${process.pid}.tmp`;
const TWINS = [
  "src/base/platform.ts",
  "src/plane/system.ts",
  "src/runtime/spawn.ts",
  "src/engine/engine-platform.ts",
  "src/engine/module-record.ts",
];
const twins: Bun.BunPlugin = {
  name: "twins",
  setup(builder) {
    builder.onResolve(
      { filter: /\/(platform|system|spawn|engine-platform|module-record)\.ts$/ },
      ({ path, importer }) => {
        const file = join(importer, "..", path);
        if (!TWINS.some((twin) => file === join(ROOT, twin))) return undefined;
        return { path: file.replace(/\.ts$/, "-node.ts") };
      },
    );
  },
};

/** The daemon stays in memory, and the command line must start at once: neither loads the other's code. */
const PROGRAMS = { "./cli/main.ts": "cli", "./daemon/main.ts": "daemon" };
const program: Bun.BuildConfig = {
  entrypoints: [],
  target: "bun",
  format: "cjs",
  minify: true,
  bytecode: true,
  // Packages ask for their own folder, which would be that of the machine where this is built.
  define: { IPCCTL_IS_BUNDLE: "true", __dirname: '"."' },
};
await build({
  ...program,
  entrypoints: [join(ROOT, "src/main.ts")],
  plugins: [
    {
      name: "programs",
      setup(builder) {
        builder.onResolve({ filter: /^\.\/(cli|daemon)\/main\.ts$/ }, ({ path }) => ({
          path: `./${PROGRAMS[path as keyof typeof PROGRAMS]}.js`,
          external: true,
        }));
      },
    },
  ],
});
const OTHERS = { "./router/main.ts": "router", "./plugin/main.ts": "plugin" };
for (const [path, name] of Object.entries({ ...PROGRAMS, ...OTHERS }))
  await build({ ...program, entrypoints: [join(ROOT, "src", path)], naming: `${name}.[ext]` });
/** Stacks of a guest pass through it: they are not to tell where it lies, which has the name of a user in it. */
const NAME_OF_ENGINE = "//# sourceURL=ipcctl:engine";
/** An engine starts often, and few need these. */
const ON_DEMAND = ["typescript", "bundler", "guest-net", "guest-files", "streams-library"];
/** Without their reasons, which an engine would keep three times. */
const valuesOfLimits: Bun.BunPlugin = {
  name: "values of limits",
  setup(builder) {
    builder.onLoad({ filter: /\/contract\/limits\.ts$/ }, () => {
      const values = Object.entries(LIMITS).map(([name, { value }]) => [name, { value }]);
      return { loader: "js", contents: `export const LIMITS = ${JSON.stringify(Object.fromEntries(values))};` };
    });
  },
};
for (const name of ["main", ...ON_DEMAND])
  await build({
    ...program,
    entrypoints: [join(ROOT, `src/engine/${name}.ts`)],
    naming: name === "main" ? "engine.[ext]" : `engine-${name}.[ext]`,
    footer: NAME_OF_ENGINE,
    plugins: [
      valuesOfLimits,
      {
        name: "on demand",
        setup(builder) {
          // Of ES modules the build makes one function, whose loop at the top level has all of it compiled: that took
          // 100 MB for a tenth of a second, which the limit of a guest counts.
          builder.onResolve({ filter: /^sucrase$/ }, () => ({
            path: join(ROOT, "node_modules/sucrase/dist/index.js"),
          }));
          builder.onResolve({ filter: new RegExp(`^\\./(${ON_DEMAND.join("|")})\\.ts$`) }, ({ path, kind }) =>
            kind === "entry-point-build"
              ? undefined
              : { path: path.replace("./", "./engine-").replace(".ts", ".js"), external: true },
          );
        },
      },
    ],
  });
const sdk: Bun.BuildConfig = { entrypoints: [join(ROOT, "src/index.ts")], format: "esm" };
// Syntax that an older Bun cannot parse is replaced by older syntax, as for Node: a program may import us there, and
// gets an error when it connects.
await build({ ...sdk, target: "node", external: ["bun:*"], naming: "ipcctl.js" });
await build({ ...sdk, target: "node", naming: "ipcctl.node.js", plugins: [twins] });
for (const [path, name] of [
  ["main.ts", "engine"],
  ["debugger-node.ts", "debugger"],
] as const)
  await build({
    entrypoints: [join(ROOT, "src/engine", path)],
    format: "esm",
    target: "node",
    minify: true,
    naming: `${name}.node.js`,
    footer: NAME_OF_ENGINE,
    plugins: [twins],
  });

// What handlers of plugins are written against: their process has it in any case, and their tests import it.
await build({ entrypoints: [join(ROOT, "src/host/plugin.ts")], format: "esm", target: "node", naming: "handler.js" });

rmSync(OUT, { recursive: true, force: true });
renameSync(MADE, OUT);

async function build(options: Bun.BuildConfig): Promise<void> {
  const { outputs, logs } = await Bun.build({ outdir: MADE, ...options });
  if (outputs.length === 0) throw new AggregateError(logs, `${options.entrypoints.join(", ")} could not be built`);
}
