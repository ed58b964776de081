/**
 * Makes one module of a package, or of a source with all that it imports. It reads only below one folder, and runs in a
 * process of its own, which may read nothing else either: nobody trusts what is in packages.
 */
import { initSync, parse } from "cjs-module-lexer";
import { readFileSync, realpathSync } from "node:fs";
import { isBuiltin } from "node:module";
import { dirname, extname, join, sep } from "node:path";

export type BundleRequest = {
  /** The folder that contains `node_modules`. */
  readonly root: string;
  /** A file below it. */
  readonly entry: string;
  /** What the entry contains, if it is no file. */
  readonly source: string | null;
  /** Packages that its modules import are left to whoever imports it. */
  readonly isAlone: boolean;
  readonly isScript: boolean;
  readonly isMinified: boolean;
};

export type Bundle =
  /** Its files are those that were read, below the root. */
  { readonly code: string; readonly map: string; readonly files: readonly string[] } | { readonly error: string };

const CODE: Readonly<Record<string, "js" | "jsx" | "ts" | "tsx">> = {
  ...{ ".js": "jsx", ".mjs": "js", ".cjs": "js", ".jsx": "jsx" },
  ...{ ".ts": "ts", ".mts": "ts", ".cts": "ts", ".tsx": "tsx" },
};
const DATA: Readonly<Record<string, Bun.Loader>> = { ".json": "json", ".txt": "text", ".md": "text" };
const BARE = /^[^./#]/;
const PLAIN_NAME = /^[A-Za-z_$][\w$]*$/;
const DEPTH_MAX = 50;
const SHOWN = 3;

export async function bundle(request: BundleRequest): Promise<Bundle> {
  const { root, entry, source } = request;
  const files = new Set<string>();
  /** Files that are ES modules: what they import may stay a module of its own. */
  const modern = new Set<string>();
  const read = (path: string): string => {
    const real = realpathSync(path);
    if (!real.startsWith(root + sep)) throw new Error(`${path} lies outside of ${root}`);
    files.add(real.slice(root.length + 1));
    return readFileSync(real, "utf8");
  };
  const facade = join(dirname(entry), "ipcctl-entry.js");
  try {
    const given = source ?? facadeOf(entry, read);
    const start = source === null && given !== undefined ? facade : entry;
    const built = await Bun.build({
      entrypoints: [start],
      ...(given === undefined ? {} : { files: { [start]: given } }),
      root,
      target: "browser",
      format: request.isScript ? "iife" : "esm",
      minify: request.isMinified,
      sourcemap: "external",
      throw: false,
      define: { "process.env.NODE_ENV": '"production"' },
      plugins: [
        {
          name: "below one folder",
          setup(builder) {
            builder.onResolve({ filter: BARE }, ({ path, importer, kind }) => {
              const isImport = kind === "import-statement" || kind === "dynamic-import";
              if (!request.isAlone || !isImport || !modern.has(importer) || isBuiltin(path)) return undefined;
              return { path, external: true };
            });
            builder.onLoad({ filter: /./, namespace: "file" }, ({ path }) => {
              const code = CODE[extname(path)];
              const loader = code ?? DATA[extname(path)];
              if (loader === undefined) throw new Error(`${path}: a file ${extname(path)} cannot be bundled`);
              const contents = path === start && given !== undefined ? given : read(path);
              if (code !== undefined && isModern(contents, code)) modern.add(path);
              return { contents, loader };
            });
          },
        },
      ],
    });
    if (!built.success) return { error: told(built.logs) };
    const [code, map] = ["entry-point", "sourcemap"].map((kind) => built.outputs.find((one) => one.kind === kind));
    return { code: (await code?.text()) ?? "", map: (await map?.text()) ?? "", files: [...files] };
  } catch (error) {
    return { error: told(error instanceof AggregateError ? error.errors : [error]) };
  }
}

function told(errors: readonly unknown[]): string {
  const shown = errors.slice(0, SHOWN).map((one) => {
    const { message, position } = one as { message: string; position?: { file: string; line: number; column: number } };
    return position ? `${message} (${position.file}:${position.line}:${position.column})` : message;
  });
  return shown.join("\n") || "nothing says why";
}

/** A module that exports what a CommonJS module does, by the names that its text shows; undefined for other modules. */
function facadeOf(entry: string, read: (path: string) => string): string | undefined {
  const text = read(entry);
  const loader = CODE[extname(entry)];
  if (loader === undefined || isModern(text, loader)) return undefined;
  initSync();
  const names = [...namesOf(entry, text, read, 0)].filter((name) => name !== "default" && PLAIN_NAME.test(name));
  return [
    `const exported = require(${JSON.stringify(entry)});`,
    `export default exported?.__esModule === true && "default" in exported ? exported.default : exported;`,
    ...names.map((name, at) => `const $${at} = exported[${JSON.stringify(name)}];`),
    `export { ${names.map((name, at) => `$${at} as ${name}`).join(", ")} };`,
  ].join("\n");
}

function namesOf(file: string, text: string, read: (path: string) => string, depth: number): Set<string> {
  const names = new Set<string>();
  try {
    const found = parse(text);
    for (const name of found.exports) names.add(name);
    for (const other of depth < DEPTH_MAX ? found.reexports : []) {
      const path = Bun.resolveSync(other, dirname(file));
      for (const name of namesOf(path, read(path), read, depth + 1)) names.add(name);
    }
  } catch {
    // Its names are not to be seen; its default export has them.
  }
  return names;
}

function isModern(text: string, loader: "js" | "jsx" | "ts" | "tsx"): boolean {
  try {
    const { exports, imports } = new Bun.Transpiler({ loader, macro: false as never }).scan(text);
    return (
      exports.length > 0 || imports.some(({ kind }) => kind === "import-statement") || /\bimport\.meta\b/.test(text)
    );
  } catch {
    return false;
  }
}
