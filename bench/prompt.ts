/**
 * How long `ipcctl prompt` takes to the first line of its session, from the start of the command: `bun bench/prompt.ts
 * [ROUNDS]`. With a script that prints at once, one that calls a tool first, and a shell; beside `ipcctl run` of the
 * same script, which has no event, no queue and no record, and a bare Python. The ancestor's documents claim 260 ms.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { Home, ROOT } from "../test/home.ts";
import { median } from "./beside-hogs.ts";

const CLAIM_MS = 260;
const rounds = Number(process.argv[2] ?? 15);
await using home = new Home();
const folder = join(home.dir, "agent");
mkdirSync(folder);
const write = (name: string, text: string): string => {
  writeFileSync(join(folder, name), text);
  return join(folder, name);
};
const plain = write("plain.py", `print("first", flush=True)\n`);
const asking = write(
  "asking.py",
  `from ipcctl import host\nprint(host.call("echo.echo", value="first"), flush=True)\n`,
);
const rules = [
  { name: "plain", on: "none.plain", start: { script: plain } },
  { name: "asking", on: "none.asking", start: { script: asking, tools: ["echo.*"] } },
  { name: "shell", on: "none.shell", start: { command: "echo first" } },
];
mkdirSync(dirname(home.paths.config), { recursive: true });
writeFileSync(join(dirname(home.paths.config), "host.json"), JSON.stringify({ rules, prompt: "plain" }));
const ipcctl = join(ROOT, "bin/ipcctl");
const ways: readonly (readonly [what: string, ...command: string[]])[] = [
  ["prompt, a script under analysis", ipcctl, "prompt", "x"],
  ["prompt, a script that calls a tool first", ipcctl, "prompt", "x", "--rule", "asking"],
  ["prompt, a program under read-only", ipcctl, "prompt", "x", "--rule", "shell"],
  ["run, the script under strict", ipcctl, "run", plain],
  ["python3, the script", "python3", plain],
];
const times = new Map(ways.map(([what]) => [what, [] as number[]]));
for (let round = -1; round < rounds; round++)
  for (const [what, ...command] of ways) {
    const ms = await firstLine(command);
    if (round >= 0) times.get(what)!.push(ms); // the first starts daemon and router
  }
const base = median(times.get(ways.at(-1)![0])!);
for (const [what, all] of times) {
  const ms = median(all);
  console.log(`${what.padEnd(42)} ${ms.toFixed(0).padStart(5)} ms  ×${(ms / base).toFixed(1)}`);
}
console.log(`${"the ancestor's claim".padEnd(42)} ${`${CLAIM_MS}`.padStart(5)} ms`);

async function firstLine(command: readonly string[]): Promise<number> {
  const began = performance.now();
  const child = Bun.spawn([...command], { cwd: folder, env: home.env, stdio: ["ignore", "pipe", "inherit"] });
  let ms = 0;
  let text = "";
  for await (const bytes of child.stdout) {
    text += Buffer.from(bytes).toString();
    if (ms === 0 && text.includes("\n")) ms = performance.now() - began;
  }
  if (!text.includes("first")) throw new Error(`${command.join(" ")}: ${JSON.stringify(text)}`);
  return ms;
}
