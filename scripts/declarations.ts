/** Makes src/cli/plugin-declarations.ts: what a handler is written against, where the package is not at hand. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { transpileDeclaration } from "@typescript/typescript6";

const SOURCE = join(import.meta.dir, "../src/host/plugin.ts");

/** @throws Error for a type that is not written down, or is not its own */
export function pluginDeclarations(): string {
  const { outputText, diagnostics = [] } = transpileDeclaration(readFileSync(SOURCE, "utf8"), {
    reportDiagnostics: true,
  });
  const [first] = diagnostics;
  if (first !== undefined) throw new Error(`${SOURCE}: ${JSON.stringify(first.messageText)}`);
  // Memory that is sealed already only our own plugins have.
  const body = outputText
    .replace(/^\/\*\*.*\*\/\n/, "")
    .replace(/^import type \{ Sealed \}.*\n/m, "")
    .replaceAll("Sealed | ", "")
    .replace(/^export \{\};\n/m, "")
    .replaceAll("export declare ", "export ")
    .replaceAll(/^ +/gm, (indent) => " ".repeat(Math.ceil(indent.length / 2)))
    .replaceAll(/^(?=.)/gm, "  ");
  if (/\bimport\b|\bSealed\b/.test(body)) throw new Error(`${SOURCE}: a plugin has none of our files`);
  const said = "/** What a handler is written against. Written by: ipcctl plugin new. */";
  const text = `${said}\ndeclare module "ipcctl/plugin" {\n${body}}\n`;
  return `/** Written by scripts/generate.ts from src/host/plugin.ts. \`plugin new\` writes it beside a handler. */
export const DECLARATIONS = \`${text.replaceAll(/[\\`]|\$\{/g, "\\$&")}\`;
`;
}
