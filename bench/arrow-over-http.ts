/**
 * For `arrow.ts`: the rows of a Parquet file, by the same DuckDB, as JSON over HTTP: a list of objects. Prints its URL.
 */
import { cellsOf } from "../src/duckdb/arrow.ts";
import { query } from "../src/duckdb/instance.ts";
import { Stop } from "../src/sql/stop.ts";

const [, , parquet] = process.argv;
const settings = { memoryMb: 512, threads: 2, timeoutMs: 60_000 };
const files = [{ name: "rows.parquet", path: parquet! }];
// JSON has numbers for all of them here, and a 64-bit integer need not be a text.
const sql = 'select id::double as id, name, value, kind from "rows.parquet"';

const server = Bun.serve({
  port: 0,
  hostname: "127.0.0.1",
  idleTimeout: 0,
  fetch: async () => {
    using stop = new Stop(new AbortController().signal, settings.timeoutMs);
    const text = await query({ sql, params: [], files, stop }, settings, async ({ batches }) => {
      const rows: object[] = [];
      for await (const columns of batches()) {
        const [id, name, value, kind] = columns.map(cellsOf);
        for (let row = 0; row < columns[0]!.length; row++)
          rows.push({ id: id!(row), name: name!(row), value: value!(row), kind: kind!(row) });
      }
      return JSON.stringify(rows);
    });
    return new Response(text, { headers: { "content-type": "application/json" } });
  },
});
console.log(String(server.url));
