/**
 * The HTTP side of examples/http-model for bench/http.ts, with something else in place of the worker:
 *   bun bench/http-forward.ts URL    asks a server over HTTP, with connections kept alive
 *   bun bench/http-forward.ts        answers with the same prediction always: what the HTTP side alone costs
 */
import { listen, Refusal, type Prediction } from "../examples/http-model/app.ts";

const [url] = process.argv.slice(2);
const same: Prediction[] = [{ label: "setosa", probability: 0.9816 }];

const server = listen(0, async (rows) => {
  if (url === undefined) return same;
  const response = await fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ rows }),
    proxy: false,
  } as RequestInit);
  if (!response.ok) throw new Refusal(response.status, await response.text());
  return (await response.json()) as Prediction[];
});
console.log(`listening on ${server.url.href}`);
