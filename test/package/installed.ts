/** Packages as they would be published, and machines to install them on that have next to nothing. */
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { type CliResult, outcomeOf, ROOT } from "../home.ts";
import { within } from "../deadline.ts";
import type { Tarball } from "./registry.ts";

const COMMAND_MS = 300_000;
const COMPILER = /^(.*-)?(cc|c[89]9|gcc|g\+\+|cpp|clang|tcc|ld|as|make)(-[\d.]+|\.bfd|\.gold)?$/;

/** A command to its end, which comes in time or is brought about. */
export async function runCommand(
  command: readonly string[],
  { cwd, env }: { readonly cwd: string; readonly env: Readonly<Record<string, string | undefined>> },
  ms = COMMAND_MS,
): Promise<CliResult> {
  const child = Bun.spawn([...command], { cwd, env, stdio: ["ignore", "pipe", "pipe"] });
  try {
    return await within(ms, command.join(" "), outcomeOf(child));
  } finally {
    child.kill("SIGKILL");
  }
}

/** A folder of one's own, and commands that run in it with an empty home and no compiler on the PATH. */
export class Machine implements AsyncDisposable {
  readonly dir = mkdtempSync(join(tmpdir(), "ipcctl-package-"));
  readonly env: Record<string, string>;
  /** What was installed last. */
  ipcctl = "";

  constructor(registry: string) {
    const bin = join(this.dir, "bin");
    for (const folder of [bin, join(this.dir, "home")]) mkdirSync(folder);
    const folders = [
      "/usr/local/bin",
      "/usr/bin",
      "/bin",
      ...["node", "npm"].map((name) => join(Bun.which(name)!, "..")),
    ];
    const names = new Map(
      folders
        .filter((folder) => existsSync(folder))
        .flatMap((folder) => readdirSync(folder).map((name) => [name, join(folder, name)] as const)),
    );
    for (const [name, path] of names) if (!COMPILER.test(name) && name !== "bun") symlinkSync(path, join(bin, name));
    this.env = {
      PATH: bin,
      HOME: join(this.dir, "home"),
      IPCCTL_HOME: join(this.dir, "state"),
      npm_config_registry: registry,
      npm_config_update_notifier: "false",
      npm_config_cache: join(this.dir, "npm-cache"),
      NO_COLOR: "1",
      ...(process.env.NODE_EXTRA_CA_CERTS === undefined
        ? {}
        : { NODE_EXTRA_CA_CERTS: process.env.NODE_EXTRA_CA_CERTS }),
    };
  }

  /** A folder that is not there yet. */
  folder(name: string): string {
    const path = join(this.dir, name);
    mkdirSync(path);
    return path;
  }

  run(cwd: string, command: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<CliResult> {
    return runCommand(command, { cwd, env: { ...this.env, ...env } });
  }

  /** Runs the command line that was installed. */
  async cli(cwd: string, ...args: string[]): Promise<string> {
    const { status, stdout, stderr } = await this.run(cwd, [this.ipcctl, ...args]);
    if (status !== 0) throw new Error(`ipcctl ${args.join(" ")}: exit ${status}: ${stdout}${stderr}`);
    return stdout;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (existsSync(this.ipcctl)) await this.run(this.dir, [this.ipcctl, "daemon", "stop"]);
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** Both packages, made from what git knows of this checkout in a folder of its own. */
export async function pack(): Promise<Tarball[]> {
  const dir = mkdtempSync(join(tmpdir(), "ipcctl-pack-"));
  const clone = join(dir, "clone");
  const listed = Bun.spawnSync(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], { cwd: ROOT });
  for (const file of listed.stdout.toString().split("\0"))
    if (file !== "" && existsSync(join(ROOT, file))) cpSync(join(ROOT, file), join(clone, file));
  symlinkSync(join(ROOT, "node_modules"), join(clone, "node_modules"));
  const { status, stderr } = await runCommand(["sh", "scripts/pack.sh", dir], { cwd: clone, env: process.env });
  if (status !== 0) throw new Error(`scripts/pack.sh: ${stderr}`);
  rmSync(clone, { recursive: true });
  return readdirSync(dir).map((name) => {
    const path = join(dir, name);
    const manifest = Bun.spawnSync(["tar", "-xzOf", path, "package/package.json"]).stdout.toString();
    return { path, manifest: JSON.parse(manifest) as Tarball["manifest"] };
  });
}

export const fileNames = (tarballs: readonly Tarball[]): string[] =>
  tarballs.map(({ path }) => basename(path)).toSorted();
