/**
 * Load for bench/http.ts, in a process of its own: POSTs one body again and again over so many connections that are
 * kept alive.
 *   bun bench/http-load.ts URL BODY CONNECTIONS SECONDS
 * Prints requests per second and times in µs as JSON. Any answer but the expected one ends it.
 */
export {};

const [url, body, connections, seconds] = process.argv.slice(2) as [string, string, string, string];
const WARM_UP_MS = 1000;

// `proxy: false`: a proxy of the environment is not what is measured.
const init = { method: "POST", headers: { "content-type": "application/json" }, body, proxy: false } as RequestInit;
const once = async (): Promise<string> => {
  const response = await fetch(url, init);
  const text = await response.text();
  if (!response.ok) throw new Error(`${response.status}: ${text}`);
  return text;
};
const expected = await once();

async function load(milliseconds: number): Promise<{ times: number[]; tookMs: number }> {
  const times: number[] = [];
  const begin = performance.now();
  const end = begin + milliseconds;
  const connection = async (): Promise<void> => {
    while (performance.now() < end) {
      const start = Bun.nanoseconds();
      const text = await once();
      times.push((Bun.nanoseconds() - start) / 1000);
      if (text !== expected) throw new Error(`another answer: ${text}`);
    }
  };
  await Promise.all(Array.from({ length: Number(connections) }, connection));
  return { times, tookMs: performance.now() - begin };
}

await load(WARM_UP_MS);
const { times, tookMs } = await load(Number(seconds) * 1000);
times.sort((a, b) => a - b);
const at = (part: number): number => times[Math.floor(times.length * part)]!;
console.log(JSON.stringify({ perSecond: (times.length / tookMs) * 1000, p50: at(0.5), p99: at(0.99) }));
