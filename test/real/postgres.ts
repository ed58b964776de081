/** PostgreSQL from Debian's package, with a database and a port of the test's own. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { within } from "../deadline.ts";
import { hasInstalled } from "../needs.ts";
import { asUser, freePort, saysReady } from "./servers.ts";

export type Postgres = AsyncDisposable & { readonly port: number; readonly url: string };

const READY_MS = 120_000;
/** A port that was free a moment ago may be taken. */
const TRIES = 5;

const programs = (): string | undefined =>
  [...new Bun.Glob("/usr/lib/postgresql/*/bin").scanSync({ onlyFiles: false, cwd: "/" })].at(-1);

/** Whether it can be started here. */
export function hasPostgres(): Promise<boolean> {
  return hasInstalled(() => programs() !== undefined, "postgresql");
}

/** @param more settings, beside those that make it a server for tests */
export async function startPostgres(more: readonly string[] = []): Promise<Postgres> {
  const bin = programs()!;
  const folder = mkdtempSync(join(tmpdir(), "ipcctl-postgres-"));
  const as = asUser("postgres", folder);
  const spawn = (...command: string[]) =>
    Bun.spawn(["setpriv", "--pdeathsig=QUIT", ...as, ...command], {
      cwd: folder,
      env: { PATH: process.env.PATH! },
      stdio: ["ignore", "ignore", "pipe"],
    });
  const data = join(folder, "data");
  const made = spawn(
    join(bin, "initdb"),
    "-D",
    data,
    "-U",
    "tester",
    "--auth=trust",
    "--no-sync",
    "--no-locale",
    "-E",
    "UTF8",
  );
  const said = await new Response(made.stderr).text();
  if ((await made.exited) !== 0) throw new Error(`initdb: ${said}`);
  for (let attempt = 1; ; attempt++) {
    const port = freePort();
    const settings = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", ...more].flatMap((one) => [
      "-c",
      one,
    ]);
    const server = spawn(join(bin, "postgres"), "-D", data, "-p", `${port}`, ...settings);
    const failure = await within(
      READY_MS,
      "PostgreSQL accepts connections",
      saysReady(server.stderr, "ready to accept connections"),
    );
    if (failure === undefined)
      return {
        port,
        url: `postgresql://tester@localhost:${port}/postgres`,
        async [Symbol.asyncDispose]() {
          server.kill("SIGQUIT");
          await server.exited;
          rmSync(folder, { recursive: true, force: true });
        },
      };
    await server.exited;
    if (attempt === TRIES) throw new Error(`postgres: ${failure}`);
  }
}
