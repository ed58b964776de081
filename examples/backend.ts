/** An HTTP server whose work is done in Python: bun examples/backend.ts, then curl localhost:3000/primes?limit=100 */
import { join } from "node:path";
import { connect, PythonError } from "ipcctl";

const ipc = await connect();
const py = await ipc.start(join(import.meta.dir, "calc.py"));

const server = Bun.serve({
  port: Number(process.env.PORT ?? 3000),
  hostname: "127.0.0.1",
  routes: {
    "/add": async ({ url }) => {
      const { searchParams } = new URL(url);
      return Response.json(await py.call("add", Number(searchParams.get("a")), Number(searchParams.get("b"))));
    },
    "/primes": ({ url }) => {
      const limit = Number(new URL(url).searchParams.get("limit") ?? 100);
      return new Response(
        (async function* () {
          // A client that leaves ends the generator.
          for await (const prime of py.stream<number>("primes", limit)) yield `${prime}\n`;
        })(),
      );
    },
  },
  error: (error) => Response.json({ error: error.message }, { status: error instanceof PythonError ? 422 : 503 }),
});
console.log(`listening on ${server.url.href}`);
