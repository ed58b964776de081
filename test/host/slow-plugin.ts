/** A plugin whose tools wait, fail or are refused, for tests of those who call it. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Ipcctl } from "ipcctl";
import { Home } from "../home.ts";
import { effectsOf } from "./asking.ts";

const tool = (name: string, more: object = {}): object => ({
  ...{ name, description: name, risk_level: "low", idempotent: true, ...more },
  arguments_schema: { type: "object", additionalProperties: false, properties: {} },
});
const MANIFEST = {
  description: "For tests",
  version: "1.0.0",
  author: { name: "tests" },
  provides: {
    tools: [
      ...[tool("gate"), tool("gate_once", { idempotent: false }), tool("refuse"), tool("crash")],
      ...[tool("hang", { timeout_s: 0.3 }), tool("danger", { risk_level: "high" })],
    ],
  },
};
const HANDLER = `
import { appendFileSync, existsSync } from "node:fs";
import { join } from "node:path";
import { ToolError, type Plugin } from "ipcctl/plugin";
const plugin: Plugin = ({ data }) => {
  const gate = async (what: string, signal: AbortSignal) => {
    const effect = (kind: string) => appendFileSync(join(data, "effects"), kind + what + "\\n");
    effect("");
    signal.addEventListener("abort", () => effect("aborted "));
    while (!existsSync(join(data, "open " + what))) await new Promise((done) => setTimeout(done, 5));
    return { done: what };
  };
  return {
    tools: {
      gate: (_, { signal }) => gate("gate", signal),
      gate_once: (_, { signal }) => gate("gate_once", signal),
      refuse: () => { throw new ToolError("EMPTY", "nothing is there", { retriable: true, field: "id" }); },
      crash: () => { throw new Error("at /host/path"); },
      hang: () => { for (;;); },
      danger: () => ({}),
    },
  };
};
export default plugin;
`;

export type Slow = {
  /** How often one of its tools did this. */
  readonly effects: (what: string) => number;
  /** Lets one of those that wait answer, from now on. */
  readonly open: (tool: "gate" | "gate_once") => void;
};

/** With a yes of the person whose daemon it is. */
export async function installSlow(home: Home): Promise<Slow> {
  const [folder, configFolder] = [join(home.dir, "slow"), join(home.paths.config, "..")];
  for (const one of [folder, configFolder]) mkdirSync(one, { recursive: true });
  writeFileSync(join(folder, "manifest.json"), JSON.stringify(MANIFEST));
  writeFileSync(join(folder, "handler.ts"), HANDLER);
  writeFileSync(join(configFolder, "host.json"), JSON.stringify({ plugins: { slow: { folder } } }));
  const { stdout } = await home.cli("plugin", "list", "--json");
  const { digest } = (JSON.parse(stdout) as { name: string; digest: string }[]).find(({ name }) => name === "slow")!;
  await home.cli("plugin", "accept", "slow", "--digest", digest);
  const data = join(home.paths.dataDir, "slow");
  return {
    effects: (what) => effectsOf(home, "slow", what),
    open: (name) => writeFileSync(join(data, `open ${name}`), ""),
  };
}

/** A daemon with that plugin, and a folder that its workers may read. */
export type SlowHome = AsyncDisposable & {
  readonly home: Home;
  readonly ipc: Ipcctl;
  readonly folder: string;
  readonly slow: Slow;
};

export async function openSlowHome(): Promise<SlowHome> {
  const home = new Home();
  const slow = await installSlow(home);
  const ipc = new Ipcctl(await home.connect());
  const folder = join(home.dir, "project");
  mkdirSync(folder);
  const end = async (): Promise<void> => {
    ipc[Symbol.dispose]();
    await home[Symbol.asyncDispose]();
  };
  return { home, ipc, folder, slow, [Symbol.asyncDispose]: end };
}

/** How a script is started that may start programs, of which `ipc` is one. */
export type ShellStart = { readonly interpreter: string; readonly policy: object; readonly more?: object };

export async function startShell(
  { home, folder }: SlowHome,
  name: string,
  text: string,
  { interpreter, policy, more = {} }: ShellStart,
): Promise<void> {
  const script = join(folder, `${name}.script`);
  writeFileSync(script, text);
  const whole = {
    ...{ version: 1, extends: "strict", files: { read: [folder], exec: ["/usr/bin", "/bin"] } },
    ...{ process: { exec: true, fork: true }, ...policy },
  };
  await home.start(name, script, {
    ...{ interpreter, policy: JSON.stringify(whole), restart_policy: "no", cwd: folder, ...more },
  });
}
