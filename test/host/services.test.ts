/** Plugins that come with ipcctl, in processes of their own, asked by a worker: a database, and a site. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { Ipcctl } from "ipcctl";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Home } from "../home.ts";
import { skipUnless } from "../needs.ts";
import { hasPostgres, startPostgres } from "../real/postgres.ts";

const TOKEN = "correct-horse-battery-staple";
const ASKER = `
import ipcctl
from ipcctl import host
@ipcctl.expose
def ask(tool, arguments):
    try:
        return {"result": host.call(tool, arguments)}
    except host.HostError as error:
        return vars(error)
ipcctl.serve()
`;

let home: Home;
let ipc: Ipcctl;
let site: Bun.Server<undefined>;
beforeAll(async () => {
  home = new Home();
  ipc = new Ipcctl(await home.connect());
  site = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: (request) =>
      Response.json({ path: new URL(request.url).pathname, authorized: request.headers.get("authorization") }),
  });
});
afterAll(async () => {
  await site.stop(true);
  ipc[Symbol.dispose]();
  await home[Symbol.asyncDispose]();
});

/** Switches them on, and starts a worker that may ask them. */
async function configure(
  plugins: object,
  ...tools: string[]
): Promise<(tool: string, args: object) => Promise<object>> {
  const project = join(home.dir, "project");
  mkdirSync(project, { recursive: true });
  writeFileSync(join(home.paths.config, "../host.json"), JSON.stringify({ plugins }));
  writeFileSync(join(project, "asker.py"), ASKER);
  for (const name of Object.keys(plugins)) await ipc.reloadPlugin(name);
  const name = `asks-${tools.length}-${Object.keys(plugins).join("-")}`;
  await home.start(name, join(project, "asker.py"), { cwd: project, policy: "analysis", tools });
  const worker = await ipc.worker(name);
  return (tool, args) => worker.call<object>("ask", tool, args);
}

test("a worker without a network fetches from a site that is listed, with a credential that it never sees", async () => {
  await ipc.addCredential("token", TOKEN, { plugin: "http" });
  const host = { host: "127.0.0.1", port: site.port, scheme: "http", allow_private: true };
  const credential = { name: "token", header: "Authorization", prefix: "Bearer " };
  const ask = await configure({ http: { config: { sites: [{ ...host, credential }] } } }, "http.*");
  const found = await ask("http.fetch", { url: `http://127.0.0.1:${site.port}/a` });
  expect(found).toMatchObject({
    result: {
      ...{ status: 200, origin: { plugin: "http", tool: "fetch", source: `http:127.0.0.1:${site.port}` } },
    },
  });
  const text = JSON.stringify(found);
  expect(text).toContain("/a");
  expect(text).toContain("[redacted]"); // what the site repeats of it
  expect(text).not.toContain(TOKEN);
  expect(await ask("http.fetch", { url: "http://example.org/" })).toMatchObject({ code: "POLICY_REFUSED" });
  expect((await ipc.status("plugin-http")).policy).toContain("strict");
});

const isSkipped = skipUnless(await hasPostgres(), "PostgreSQL", "the plugin postgres in its process");
test.skipIf(isSkipped)("a worker reads a database by an account whose password it never sees", async () => {
  await using server = await startPostgres();
  await using admin = new Bun.SQL(server.url, { max: 1 });
  await admin
    .unsafe(
      `
    create role app login password '${TOKEN}';
    create table accounts (id int primary key, owner text);
    insert into accounts values (1, 'ada'), (2, 'bob');
    grant select, insert on accounts to app`,
    )
    .simple();
  await ipc.addCredential("password", TOKEN, { plugin: "postgres" });
  const config = { host: "127.0.0.1", port: server.port, user: "app", database: "postgres" };
  const ask = await configure({ postgres: { config } }, "postgres.*", "echo.*");
  expect(await ask("postgres.query", { sql: "select id, owner from accounts order by id" })).toMatchObject({
    result: {
      rows: [
        [1, "ada"],
        [2, "bob"],
      ],
      truncated: false,
    },
  });
  expect(await ask("postgres.query", { sql: "insert into accounts values (3, 'eve')" })).toHaveProperty("code");
  const leak = await ask("postgres.query", { sql: `select '${TOKEN}' as password` });
  expect(JSON.stringify(leak)).not.toContain(TOKEN);
  expect(await admin`select count(*)::int as count from accounts`).toEqual([{ count: 2 }] as never);
});
