/**
 * A listener as small as one can be: what a request is, and who may send it, the relay knows. As a program it takes its
 * port, and prints it once it listens.
 */
import { resolvePaths } from "../../src/base/paths.ts";
import { connectDaemon } from "../../src/sdk/autostart.ts";
import { Relay } from "../../src/listener/relay.ts";
import type { Connection } from "../../src/sdk/connection.ts";

export type Listener = AsyncDisposable & { readonly port: number; readonly url: string };

/** @param port 0 for a free one */
export async function listen(connect: () => Promise<Connection>, port = 0): Promise<Listener> {
  const ready = Promise.withResolvers<Relay>();
  const server = Bun.serve({
    ...{ hostname: "127.0.0.1", port, idleTimeout: 0 },
    fetch: async (request) => (await ready.promise).fetch(request),
  });
  const relay = await Relay.open(connect, server.port!);
  ready.resolve(relay);
  return {
    ...{ port: server.port!, url: `http://127.0.0.1:${server.port}` },
    [Symbol.asyncDispose]: async () => {
      relay[Symbol.dispose]();
      await server.stop(true);
    },
  };
}

if (import.meta.main) {
  const { port } = await listen(
    () => connectDaemon(resolvePaths(process.env, process.getuid!()), true),
    Number(process.argv[2]),
  );
  process.stdout.write(`${port}\n`);
}
