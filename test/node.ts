/** Node 22, for the tests of the SDK on it. */
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { environment } from "./needs.ts";

export const NODE_VERSION = "22.23.3";
const FOLDER = join(import.meta.dir, "../build/test-node");
const NODE = join(FOLDER, `node_modules/node-linux-${process.arch}/bin/node`);

/** From the npm registry, once. Undefined where it cannot be had. */
export async function installNode(): Promise<string | undefined> {
  if (existsSync(NODE)) return NODE;
  mkdirSync(FOLDER, { recursive: true });
  const packages = [`node-linux-${process.arch}@${NODE_VERSION}`];
  const npm = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--no-package-lock", "--prefix", FOLDER];
  await Bun.spawn([...npm, ...packages], { env: environment, stdio: ["ignore", "ignore", "inherit"] }).exited;
  return existsSync(NODE) ? NODE : undefined;
}
