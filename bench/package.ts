/**
 * What is published: how large it is, packed and installed, and what commands take from it, side by side with this
 * checkout and with Bun doing nothing, in one run: `bun bench/package.ts [ROUNDS]`. Medians; ratios are to Bun.
 */
import { readdirSync, rmSync, statSync } from "node:fs";
import { loadavg } from "node:os";
import { basename, dirname, join } from "node:path";
import { ROOT } from "../test/home.ts";
import { Machine, pack } from "../test/package/installed.ts";
import { Registry } from "../test/package/registry.ts";

const rounds = Number(process.argv[2] ?? 31);
const median = (numbers: readonly number[]): number => numbers.toSorted((a, b) => a - b)[numbers.length >> 1]!;
const mebibytes = (bytes: number): string => `${(bytes / 1024 ** 2).toFixed(1)} MiB`;
const sizeOf = (path: string): number =>
  statSync(path).isDirectory()
    ? readdirSync(path, { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .reduce((sum, { parentPath, name }) => sum + statSync(join(parentPath, name)).size, 0)
    : statSync(path).size;

const tarballs = await pack();
using registry = new Registry(tarballs);
await using machine = new Machine(registry.url);
const prefix = machine.folder("prefix");
const { status, stderr } = await machine.run(prefix, [
  ...["npm", "install", "-g", "--prefix", prefix, "--ignore-scripts", "ipcctl"],
]);
if (status !== 0) throw new Error(stderr);
machine.ipcctl = join(prefix, "bin/ipcctl");
const root = join(prefix, "lib/node_modules/ipcctl");

for (const { path } of tarballs) console.log(`${basename(path)}: ${mebibytes(sizeOf(path))}`);
const bun = sizeOf(join(root, "node_modules/@oven")) + sizeOf(join(root, "node_modules/bun"));
const all = sizeOf(root);
console.log(`installed: ${mebibytes(all)}, of it Bun ${mebibytes(bun)}, the rest ${mebibytes(all - bun)}`);

const checkout = join(ROOT, "bin/ipcctl");
const worker = join(machine.dir, "worker.py");
await Bun.write(worker, "import time\ntime.sleep(3600)\n");
for (let i = 0; i < 10; i++) await machine.cli(machine.dir, "start", worker, "--name", `worker-${i}`);
const nothing = [join(ROOT, "node_modules/bun/bin/bun.exe"), "--no-env-file", "-e", "0"];
const COMMANDS = [["--version"], ["status"], ["start", "--help"], ["run", "-c", "pass"]];

async function time(command: readonly string[]): Promise<number> {
  const began = performance.now();
  const said = await machine.run(machine.dir, command);
  if (said.status !== 0) throw new Error(`${command.join(" ")}: ${said.stderr}`);
  return performance.now() - began;
}

for (const words of COMMANDS) {
  const times = { bun: [] as number[], package: [] as number[], checkout: [] as number[] };
  for (let round = 0; round <= rounds; round++) {
    const [first, second, third] = [
      await time(nothing),
      await time([machine.ipcctl, ...words]),
      await time([checkout, ...words]),
    ];
    if (round === 0) continue; // the first one reads files into memory
    times.bun.push(first);
    times.package.push(second);
    times.checkout.push(third);
  }
  const base = median(times.bun);
  const told = (of: readonly number[]): string => `${median(of).toFixed(1)} ms (${(median(of) / base).toFixed(2)}×)`;
  console.log(
    `ipcctl ${words.join(" ").padEnd(14)} package ${told(times.package)}, checkout ${told(times.checkout)}, bun -e 0 ${base.toFixed(1)} ms; load ${loadavg()[0]!.toFixed(1)}`,
  );
}
rmSync(dirname(tarballs[0]!.path), { recursive: true });
