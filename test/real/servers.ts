/** What the servers of databases in tests have in common: none runs as root, and each has a port of its own. */
import { chownSync } from "node:fs";
import { isRoot } from "../needs.ts";

/** What setpriv is told, so that the server may write the folder and is another user than root. */
export function asUser(name: string, folder: string): readonly string[] {
  if (!isRoot) return [];
  const idOf = (option: string): number => Number(Bun.spawnSync(["id", option, name]).stdout.toString());
  chownSync(folder, idOf("-u"), idOf("-g"));
  return [`--reuid=${name}`, `--regid=${name}`, "--clear-groups"];
}

/** Undefined when it does; all that it said if it ends before. What it says later is read and dropped. */
export function saysReady(stderr: ReadableStream<Uint8Array>, sign: string): Promise<string | undefined> {
  return new Promise((resolve) => {
    void (async () => {
      let said = "";
      let isReady = false;
      for await (const part of stderr) {
        if (isReady) continue;
        said += Buffer.from(part).toString();
        isReady = said.includes(sign);
        if (isReady) resolve(undefined);
      }
      resolve(said);
    })();
  });
}

/** One that was free a moment ago: it may be taken again. */
export function freePort(): number {
  const listener = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => undefined } });
  listener.stop(true);
  return listener.port;
}
