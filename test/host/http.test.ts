/** What workers fetch: from real servers, some of which lie, by names that do not mean the same thing twice. */
import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer as createHttpServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { createServer as createHttpsServer } from "node:https";
import { connect, createServer, Socket, type AddressInfo, type Server as NetServer } from "node:net";
import { networkInterfaces, tmpdir } from "node:os";
import { join } from "node:path";
import type { TLSSocket } from "node:tls";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import fc from "fast-check";
import { LIMITS } from "../../contract/limits.ts";
import manifest from "../../plugins/http/manifest.json" with { type: "json" };
import type { Running, ToolError, ToolRequest } from "../../src/host/plugin.ts";
import { compileSchema } from "../../src/host/schemas.ts";
import type { Ways } from "../../src/web/reach.ts";
import { webTools, type SiteConfig } from "../../src/web/fetcher.ts";
import { Sites } from "../../src/web/sites.ts";
import { waitUntil } from "../deadline.ts";
import { seed } from "../seed.ts";

const ROOT = join(import.meta.dir, "../..");
const PUBLIC = "93.184.215.14";
const SECRET = "s3cret-of-the-site";

type Answer = {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  readonly encoding: string;
  readonly truncated: boolean;
  readonly url: string;
  readonly origin: string;
};
type Seen = {
  readonly method: string;
  readonly url: string;
  readonly headers: IncomingMessage["headers"];
  readonly raw: readonly string[];
  readonly body: string;
  readonly address: string;
  readonly sni: string | false | null | undefined;
};

let dir: string;
let ca: string;
const tls = (name: string): { key: Buffer; cert: Buffer } => ({
  key: readFileSync(join(dir, `${name}.key`)),
  cert: readFileSync(join(dir, `${name}.pem`)),
});

/** A CA, a certificate of it for the names and addresses here, and one that nobody has signed. */
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "ipcctl-http-"));
  const key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
  writeFileSync(join(dir, "names"), "subjectAltName=DNS:a.test,DNS:b.test,DNS:*.wild.test,IP:127.0.0.4");
  const { exitCode, stderr } = Bun.spawnSync(
    [
      "sh",
      "-ec",
      `openssl req -x509 ${key} -days 2 -subj /CN=ca -keyout ca.key -out ca.pem -addext basicConstraints=critical,CA:TRUE
       openssl req ${key} -subj /CN=a.test -keyout site.key -out site.csr
       openssl x509 -req -in site.csr -CA ca.pem -CAkey ca.key -days 2 -extfile names -out site.pem
       openssl req -x509 ${key} -days 2 -subj /CN=a.test -keyout own.key -out own.pem -addext subjectAltName=DNS:a.test`,
    ],
    { cwd: dir },
  );
  if (exitCode !== 0) throw new Error(stderr.toString());
  ca = readFileSync(join(dir, "ca.pem"), "utf8");
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const open: { close: () => void }[] = [];
afterEach(() => {
  for (const one of open.splice(0)) one.close();
});

const portOf = (server: NetServer): number => (server.address() as AddressInfo).port;
const listening = async <S extends NetServer>(server: S, address: string, port = 0): Promise<S> => {
  await new Promise<void>((resolve, reject) => server.once("error", reject).listen(port, address, resolve));
  return server;
};

type Handle = (request: Seen, response: ServerResponse) => void;

/** A server that remembers what it was asked. */
async function serve(
  handle: Handle = (_, response) => response.end("ok"),
  { secure, address = "127.0.0.1", port = 0 }: { secure?: string; address?: string; port?: number } = {},
): Promise<{ port: number; seen: Seen[] }> {
  const seen: Seen[] = [];
  const onRequest = (request: IncomingMessage, response: ServerResponse): void => {
    let body = "";
    request.on("data", (chunk: Buffer) => (body += chunk.toString()));
    request.on("end", () => {
      const one: Seen = {
        ...{ method: request.method!, url: request.url!, headers: request.headers, raw: request.rawHeaders, body },
        ...{ address: request.socket.localAddress!, sni: (request.socket as TLSSocket).servername },
      };
      seen.push(one);
      handle(one, response);
    });
  };
  const server: Server = secure === undefined ? createHttpServer(onRequest) : createHttpsServer(tls(secure), onRequest);
  await listening(server, address, port);
  open.push({
    close: () => {
      server.close();
      server.closeAllConnections();
    },
  });
  return { port: portOf(server), seen };
}

/** A server that says whatever it is told to. */
async function serveRaw(say: (socket: Socket) => void): Promise<{ port: number; sockets: Socket[]; asked: string[] }> {
  const sockets: Socket[] = [];
  const asked: string[] = [];
  const server = await listening(
    createServer((socket) => {
      let text = "";
      const onData = (chunk: Buffer): void => {
        text += chunk.toString("latin1");
        if (!text.includes("\r\n\r\n")) return;
        socket.off("data", onData);
        socket.resume();
        asked.push(text);
        say(socket);
      };
      sockets.push(socket.on("error", () => undefined).on("data", onData));
    }),
    "127.0.0.1",
  );
  open.push({
    close: () => {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  });
  return { port: portOf(server), sockets, asked };
}

/** Names with what they resolve to, one answer after the other; connections really go where they are dialed. */
const names = (answers: Readonly<Record<string, readonly (readonly string[])[]>>, at?: string) => {
  const resolved: string[] = [];
  const dialed: string[] = [];
  const ways: Ways = {
    resolve: (host) => {
      const all = answers[host];
      if (all === undefined) return Promise.reject(new Error(`getaddrinfo ENOTFOUND ${host}`));
      const answer = all[Math.min(resolved.filter((one) => one === host).length, all.length - 1)]!;
      resolved.push(host);
      return Promise.resolve(answer);
    },
    dial: (address, port) => {
      dialed.push(address);
      return connect({ host: at ?? address, port });
    },
    isGuarded: false,
  };
  return { ways, resolved, dialed };
};
/** All names are here. */
const HERE = names(
  Object.fromEntries(["a.test", "b.test", "c.test", "x.wild.test"].map((name) => [name, [["127.0.0.1"]]])),
).ways;

const REQUEST: ToolRequest = {
  ...{ worker: "w", session: "w#1", group: "g", correlation: "c", signal: new AbortController().signal },
};

/** As a worker calls it: the arguments pass the schema of the manifest, and so does the configuration. */
function callerOf(sites: readonly SiteConfig[], ways: Ways = HERE, credentials: Record<string, string> = {}) {
  compileSchema(manifest.config_schema).parse({ sites });
  const running: Running = webTools(sites, credentials, ways);
  const schemas = new Map(
    manifest.provides.tools.map((tool) => [tool.name, compileSchema(tool.arguments_schema as never)]),
  );
  const call = async (tool: string, args: object, as: Partial<ToolRequest> = {}): Promise<Answer> =>
    JSON.parse(
      JSON.stringify(
        await running.tools[tool]!(schemas.get(tool)!.parse(args) as Record<string, unknown>, { ...REQUEST, ...as }),
      ),
    ) as Answer;
  return {
    running,
    fetch: (url: string, more: object = {}, as: Partial<ToolRequest> = {}) => call("fetch", { url, ...more }, as),
    send: (method: string, url: string, more: object = {}) => call("send", { url, method, ...more }),
    ask: (url: string, more: object = {}) => call("ask", { url, body: "{}", ...more }),
  };
}

type Refused = Pick<ToolError, "name" | "code" | "field" | "message" | "retriable">;
const refusal = (work: Promise<unknown>): Promise<Refused> =>
  work.then(
    (answer) => Promise.reject(new Error(`it should have been refused: ${JSON.stringify(answer).slice(0, 300)}`)),
    ({ name, code, field, message, retriable }: Refused) => ({ name, code, field, message, retriable }),
  );
const codeOf = async (work: Promise<unknown>): Promise<string> => (await refusal(work)).code;
const wrongConfig = (site: object, credentials: Record<string, string> = {}): string => {
  try {
    webTools([site as SiteConfig], credentials);
  } catch (error) {
    expect((error as { code: string }).code).toBe("BAD_CONFIG");
    return (error as Error).message;
  }
  throw new Error(`it should have been refused: ${JSON.stringify(site)}`);
};

const local = (port: number, more: Partial<SiteConfig> = {}): SiteConfig => ({
  ...{ host: "a.test", port, scheme: "http", allow_private: true, ...more },
});

// What a request says, and where it goes.

test("a connection goes to the address that was checked, whatever the name means later, and TLS and Host keep the name", async () => {
  const first = await serve(undefined, { secure: "site", address: "127.0.0.2" });
  const second = await serve(undefined, { secure: "site", address: "127.0.0.3", port: first.port });
  const { ways, resolved } = names({ "a.test": [["127.0.0.2"], ["127.0.0.3"]] });
  const { fetch } = callerOf([{ host: "a.test", port: first.port, ca, allow_private: true }], ways);
  const answer = await fetch(`https://A.test:${first.port}/x?y=1#part`);
  expect(answer).toMatchObject({ status: 200, body: "ok", encoding: "utf8", truncated: false });
  expect([answer.url, answer.origin]).toEqual([`https://a.test:${first.port}/x?y=1`, `http:a.test:${first.port}`]);
  expect(resolved).toEqual(["a.test"]);
  expect(second.seen).toEqual([]);
  expect(first.seen).toHaveLength(1);
  const [{ sni, address, url, raw }] = first.seen as [Seen];
  expect([sni, address, url]).toEqual(["a.test", "127.0.0.2", "/x?y=1"]);
  expect(raw).toEqual([
    ...["Host", `a.test:${first.port}`, "Accept-Encoding", "gzip, br", "User-Agent", "ipcctl", "Connection", "close"],
  ]);
  await fetch(`https://a.test:${first.port}/`);
  expect(second.seen).toHaveLength(1); // resolved anew, checked anew
});

test("a name that is public when it is checked and loopback afterwards leads to the public address", async () => {
  const { port, seen } = await serve();
  const { ways, resolved, dialed } = names({ "a.test": [[PUBLIC], ["127.0.0.1"]] }, "127.0.0.1");
  const { fetch } = callerOf([{ host: "a.test", port, scheme: "http" }], ways);
  expect((await fetch(`http://a.test:${port}/`)).status).toBe(200);
  expect([resolved, dialed, seen.length]).toEqual([["a.test"], [PUBLIC], 1]);
  expect(await codeOf(fetch(`http://a.test:${port}/`))).toBe("POLICY_REFUSED");
  expect([dialed, seen.length]).toEqual([[PUBLIC], 1]);
});

test("a redirect is resolved and checked as the first request was", async () => {
  const { port, seen } = await serve((_, response) => response.writeHead(302, { location: "/next" }).end());
  const { ways, dialed } = names({ "a.test": [[PUBLIC], ["169.254.169.254"]] }, "127.0.0.1");
  const { fetch } = callerOf([{ host: "a.test", port, scheme: "http", allow_private: true }], ways);
  expect(await codeOf(fetch(`http://a.test:${port}/`))).toBe("POLICY_REFUSED");
  expect([dialed, seen.length]).toEqual([[PUBLIC], 1]);
});

test("no proxy of the environment gets a request, and no variable switches off what certificates say", async () => {
  const { port, seen } = await serve(undefined, { secure: "site" });
  const proxy = await serveRaw((socket) => socket.end());
  const site = { host: "a.test", port, ca, allow_private: true };
  const code = `import { webTools } from ${JSON.stringify(join(ROOT, "src/web/fetcher.ts"))};
import { SYSTEM } from ${JSON.stringify(join(ROOT, "src/web/reach.ts"))};
const ways = { ...SYSTEM, resolve: () => Promise.resolve(["127.0.0.1"]) };
const request = { signal: new AbortController().signal };
const site = ${JSON.stringify(site)};
const ask = (host) => webTools([{ ...site, host }], {}, ways).tools.fetch({ url: "https://" + host + ":${port}/" }, request)
  .then(({ status }) => status, ({ code }) => code);
console.log(JSON.stringify([await ask("a.test"), await ask("evil.test")]));`;
  const child = Bun.spawn([process.execPath, "--no-env-file", "-e", code], {
    env: {
      ...process.env,
      ...Object.fromEntries(
        ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"].map((name) => [
          name,
          `http://127.0.0.1:${proxy.port}`,
        ]),
      ),
      ...{ NODE_TLS_REJECT_UNAUTHORIZED: "0", NODE_USE_ENV_PROXY: "1" },
    },
    stdio: ["ignore", "pipe", "ignore"],
  });
  expect(JSON.parse(await new Response(child.stdout).text())).toEqual([200, "TLS_REFUSED"]);
  expect([seen.length, proxy.sockets.length]).toEqual([1, 0]);
});

test("a certificate has to be for the name, and signed by whom the site trusts", async () => {
  const good = await serve(undefined, { secure: "site" });
  const own = await serve(undefined, { secure: "own" });
  const at = (port: number, more: Partial<SiteConfig> = {}) =>
    callerOf([{ host: "*.test", port, allow_private: true, ca, ...more }]).fetch;
  expect((await at(good.port)(`https://b.test:${good.port}/`)).status).toBe(200);
  expect((await at(good.port)(`https://x.wild.test:${good.port}/`)).status).toBe(200);
  const refused = await refusal(at(good.port)(`https://c.test:${good.port}/`));
  expect(refused).toMatchObject({ code: "TLS_REFUSED", retriable: false });
  expect(refused.message).toContain("ERR_TLS_CERT_ALTNAME_INVALID");
  expect(await codeOf(at(own.port)(`https://a.test:${own.port}/`))).toBe("TLS_REFUSED");
  const { ca: _, ...untold } = { host: "a.test", port: good.port, allow_private: true, ca };
  expect(await codeOf(callerOf([untold]).fetch(`https://a.test:${good.port}/`))).toBe("TLS_REFUSED");
  expect([good.seen.length, own.seen.length]).toEqual([2, 0]);
  // An address in the URL: no SNI, and the certificate has to name the address.
  const bare = await serve(undefined, { secure: "site", address: "127.0.0.4" });
  const other = await serve(undefined, { secure: "site", address: "127.0.0.5", port: bare.port });
  const literal = (host: string) => callerOf([{ host, port: bare.port, ca, allow_private: true }]).fetch;
  expect((await literal("127.0.0.4")(`https://127.0.0.4:${bare.port}/`)).status).toBe(200);
  expect(await codeOf(literal("127.0.0.5")(`https://127.0.0.5:${bare.port}/`))).toBe("TLS_REFUSED");
  expect(other.seen).toEqual([]);
});

test("addresses that are not public are refused before anything is dialed, also one among public ones", async () => {
  const own = Object.values(networkInterfaces()).flatMap((all) => (all ?? []).map(({ address }) => address));
  const cases = [
    ...["127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.1.1", "0.0.0.0", "224.0.0.1"],
    ...["::1", "fe80::1", "fc00::1", "ff02::1", "::", "::ffff:127.0.0.1", "::ffff:a00:1", "64:ff9b::7f00:1"],
    ...["169.254.169.254", "fd00:ec2::254", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "fe80::1%1", "nonsense"],
    ...own.map((address) => address.split("%")[0]!),
  ];
  for (const address of cases) {
    for (const answer of [[address], [PUBLIC, address]]) {
      const { ways, dialed } = names({ "a.test": [answer] });
      const refused = await refusal(callerOf([{ host: "a.test" }], ways).fetch("https://a.test/"));
      expect([address, refused.code, dialed]).toEqual([address, "POLICY_REFUSED", []]);
      expect(refused.message).not.toContain(address);
    }
  }
  for (const address of ["169.254.169.254", "fd00:ec2::254", "64:ff9b::a9fe:a9fe", "224.0.0.1", "0.0.0.0", "::"]) {
    const { ways, dialed } = names({ "a.test": [[address]] });
    const { fetch } = callerOf([{ host: "a.test", allow_private: true }], ways);
    expect([address, await codeOf(fetch("https://a.test/")), dialed]).toEqual([address, "POLICY_REFUSED", []]);
  }
});

test("an address of a policy's stub stands for a name only where there is such a policy", async () => {
  const { port, seen } = await serve();
  const { ways, dialed } = names({ "a.test": [["198.18.0.1"]], "b.test": [["198.18.0.1", "127.0.0.1"]] }, "127.0.0.1");
  const sites = ["a.test", "b.test", "198.18.0.1"].map((host) => ({ host, port, scheme: "http" as const }));
  const ask = (isGuarded: boolean, host: string): Promise<Answer> =>
    callerOf(sites, { ...ways, isGuarded }).fetch(`http://${host}:${port}/`);
  expect(await codeOf(ask(false, "a.test"))).toBe("POLICY_REFUSED");
  expect(await codeOf(ask(true, "b.test"))).toBe("POLICY_REFUSED");
  expect(await codeOf(ask(true, "198.18.0.1"))).toBe("POLICY_REFUSED");
  expect([dialed, seen.length]).toEqual([[], 0]);
  expect((await ask(true, "a.test")).status).toBe(200);
  expect(dialed).toEqual(["198.18.0.1"]);
});

test("an address in a URL is the same one in every spelling, and refused like one that a name has", async () => {
  const { ways, resolved, dialed } = names({});
  const v4 = fc.constantFrom("127.0.0.1", "10.1.2.3", "169.254.169.254", "192.168.0.9", "100.64.3.4").chain((text) => {
    const bytes = text.split(".").map(Number);
    const spelled = (value: number): fc.Arbitrary<string> =>
      fc.constantFrom(
        ...[`${value}`, `0${value.toString(8)}`, `0x${value.toString(16)}`, `0X00${value.toString(16).toUpperCase()}`],
      );
    const value = bytes.reduce((sum, byte) => sum * 256 + byte, 0);
    const parts = fc.constantFrom(
      bytes,
      [bytes[0]!, value % 2 ** 24],
      [bytes[0]!, bytes[1]!, value % 2 ** 16],
      [value],
    );
    return fc.tuple(
      fc.constant(text),
      parts.chain((all) => fc.tuple(...all.map(spelled))).map((all) => all.join(".")),
    );
  });
  await fc.assert(
    fc.asyncProperty(v4, fc.boolean(), async ([text, host], isEncoded) => {
      const written = isEncoded ? host.replace(/^./, (char) => `%${char.charCodeAt(0).toString(16)}`) : host;
      for (const site of [text, "a.test"])
        expect(await codeOf(callerOf([{ host: site }], ways).fetch(`https://${written}/`))).toBe("POLICY_REFUSED");
    }),
    { seed, numRuns: 200 },
  );
  for (const host of ["[::1]", "[0:0::1]", "[::ffff:127.0.0.1]", "[::FFFF:7f00:1]", "[64:ff9b::a00:1]"])
    for (const site of ["::1", "::ffff:7f00:1", "64:ff9b::a00:1", "127.0.0.1"])
      expect(await codeOf(callerOf([{ host: site }], ways).fetch(`https://${host}/`))).toBe("POLICY_REFUSED");
  expect([resolved, dialed]).toEqual([[], []]);
});

test("what a URL only seems to be is refused", async () => {
  const { ways, resolved } = names({ "a.test": [["127.0.0.1"]] });
  const { fetch } = callerOf(
    [{ host: "a.test", paths: ["/v1"] }, { host: "*.wild.test" }, { host: "bücher.test" }],
    ways,
  );
  for (const [url, code] of [
    ["https://evil.test#@a.test/v1", "POLICY_REFUSED"],
    ["https://evil.test/@a.test/v1", "POLICY_REFUSED"],
    ["https://evil.test?@a.test/v1", "POLICY_REFUSED"],
    ["https://a.test@evil.test/v1", "USAGE"],
    ["https://user:pass@a.test/v1", "USAGE"],
    ["https://@a.test/v1", "USAGE"],
    ["https:\\\\a.test\\v1", "USAGE"],
    ["https://a.test\t/v1", "USAGE"],
    ["https://a.test/v1\r\nHost: evil", "USAGE"],
    [" https://a.test/v1", "USAGE"],
    ["https://a.test./v1", "USAGE"],
    ["https://a.test%2e/v1", "USAGE"],
    ["//a.test/v1", "USAGE"],
    ["file:///etc/passwd", "USAGE"],
    ["ftp://a.test/v1", "USAGE"],
    ["data:text/plain,x", "USAGE"],
    ["http://a.test/v1", "POLICY_REFUSED"],
    ["https://a.test:8443/v1", "POLICY_REFUSED"],
    ["https://a.test.evil.test/v1", "POLICY_REFUSED"],
    ["https://evila.test/v1", "POLICY_REFUSED"],
    ["https://wild.test/", "POLICY_REFUSED"],
    ["https://evilwild.test/", "POLICY_REFUSED"],
    ["https://.wild.test/", "POLICY_REFUSED"],
    ["https://а.test/v1", "POLICY_REFUSED"], // the first letter is Cyrillic
    ["https://a.test/v10", "POLICY_REFUSED"],
    ["https://a.test/v1/../admin", "POLICY_REFUSED"],
    ["https://a.test/v1/%2e%2e/admin", "POLICY_REFUSED"],
    ["https://a.test/v1/..%2fadmin", "POLICY_REFUSED"],
    ["https://a.test/v1/%252e%252e/admin", "POLICY_REFUSED"],
    ["https://a.test/v1/..;/admin", "POLICY_REFUSED"],
    ["https://a.test/v1/..%5cadmin", "POLICY_REFUSED"],
  ] as const) {
    const refused = await refusal(fetch(url));
    expect([url, refused.name, refused.code, refused.field]).toEqual([url, "ToolError", code, "url"]);
  }
  expect(resolved).toEqual([]);
  // These are what they seem to be, and fail later, as the name is not public.
  for (const url of [
    ...["https://a.test/v1", "https://A.TEST:443/v1/x#y", "https://ａ.test/v1", "https://a.test/x/../v1/"],
    ...["https://a.x.wild.test/", "https://BÜCHER.test/", "https://xn--bcher-kva.test/"],
  ])
    expect([url, (await refusal(fetch(url))).message]).toEqual([url, expect.not.stringContaining("allowed")]);
  expect(resolved).toHaveLength(4); // the others have no address at all
});

test("a site has its scheme, port, paths and methods, and the first that fits holds", async () => {
  const { port, seen } = await serve();
  const { fetch, send } = callerOf([
    local(port, { paths: ["/v1/", "/open"], methods: ["GET"] }),
    local(port, { paths: ["/v1/things"], methods: ["POST", "DELETE"] }),
  ]);
  const base = `http://a.test:${port}`;
  expect((await fetch(`${base}/v1/a`)).status).toBe(200);
  expect((await fetch(`${base}/open`)).status).toBe(200);
  expect((await send("POST", `${base}/v1/things`, { body: "é", headers: { "X-A": "1" } })).status).toBe(200);
  expect((await send("DELETE", `${base}/v1/things/1`)).status).toBe(200);
  expect((await send("POST", `${base}/v1/things`, { body: "AP8=", body_encoding: "base64" })).status).toBe(200);
  expect((await send("POST", `${base}/v1/things`)).status).toBe(200);
  expect(seen.map(({ method, headers }) => [method, headers["content-length"]])).toEqual([
    ["GET", undefined],
    ["GET", undefined],
    ["POST", "2"],
    ["DELETE", undefined],
    ["POST", "2"],
    ["POST", "0"],
  ]);
  expect(seen[2]).toMatchObject({ body: "é", headers: { "x-a": "1" } });
  for (const [work, field, text] of [
    [fetch(`${base}/v1`), "url", "/v1/, /open"],
    [fetch(`${base}/v1/a`, { method: "HEAD" }), "method", "allowed are: GET"],
    [send("PUT", `${base}/v1/things`), "method", "GET, POST, DELETE"],
    [fetch("http://b.test/"), "url", `allowed are: http://a.test:${port}`],
  ] as const) {
    const refused = await refusal(work);
    expect(refused).toMatchObject({ code: "POLICY_REFUSED", field });
    expect(refused.message).toContain(text);
  }
  // Unless a site says otherwise, nothing is changed there.
  expect(await codeOf(callerOf([local(port)]).send("POST", `${base}/`))).toBe("POLICY_REFUSED");
  expect(await codeOf(callerOf([]).fetch(base))).toBe("POLICY_REFUSED");
  for (const [more, code] of [
    [{ body: "AAA", body_encoding: "base64" }, "USAGE"],
    [{ body: "\ud800" }, "USAGE"],
  ] as const)
    expect(await refusal(send("POST", `${base}/v1/things`, more))).toMatchObject({ code, field: "body" });
  expect((await refusal(fetch(base, { method: "POST" }))).name).toBe("ZodError");
  expect((await refusal(send("GET", base))).name).toBe("ZodError");
  const body = { body: "x" };
  expect((await refusal(fetch(base, body))).name).toBe("ZodError");
});

// Headers and credentials.

test("a worker sets no header of the connection, of the credential or of a gateway, and none with a line break", async () => {
  const { port, seen } = await serve();
  const { fetch } = callerOf(
    [
      local(port, { paths: ["/key"], credential: { name: "key", header: "X-Api-Key" } }),
      local(port, { paths: ["/open"] }),
    ],
    HERE,
    { key: SECRET },
  );
  const ask = (path: string, headers: object): Promise<Answer> => fetch(`http://a.test:${port}${path}`, { headers });
  for (const [name, value, code] of [
    ["Host", "evil.test", "POLICY_REFUSED"],
    ["hOsT", "evil.test", "POLICY_REFUSED"],
    ["Content-Length", "5", "POLICY_REFUSED"],
    ["Transfer-Encoding", "chunked", "POLICY_REFUSED"],
    ["Content_Length", "5", "POLICY_REFUSED"],
    ["Connection", "keep-alive", "POLICY_REFUSED"],
    ["Upgrade", "h2c", "POLICY_REFUSED"],
    ["Proxy-Authorization", "x", "POLICY_REFUSED"],
    ["X-Forwarded-For", "127.0.0.1", "POLICY_REFUSED"],
    ["X-HTTP-Method-Override", "DELETE", "POLICY_REFUSED"],
    ["X-Original-URL", "/admin", "POLICY_REFUSED"],
    ["Cookie", "a=1", "POLICY_REFUSED"],
    ["Accept-Encoding", "zstd", "POLICY_REFUSED"],
    ["X-A", "a\r\nHost: evil", "USAGE"],
    ["X-A", "a\nb", "USAGE"],
    ["X-A", "a\0", "USAGE"],
    ["X-A", "é", "USAGE"],
    ["X-A: b\r\nX-B", "c", "USAGE"],
    ["X A", "c", "USAGE"],
    ["X-A:", "c", "USAGE"],
    ["", "c", "USAGE"],
  ] as const)
    for (const path of ["/key", "/open"]) {
      const refused = await refusal(ask(path, { [name]: value }));
      expect([name, refused.code, refused.field]).toEqual([name, code, `headers.${name}`]);
      expect(refused.message).not.toContain(SECRET);
    }
  for (const name of ["Authorization", "authorization", "x-api-key", "X_Api_Key"])
    expect(await codeOf(ask("/key", { [name]: "mine" }))).toBe("POLICY_REFUSED");
  expect(await codeOf(ask("/open", { "X-A": "1", x_a: "2" }))).toBe("USAGE");
  expect(seen).toEqual([]);
  await ask("/open", { Authorization: "mine", "X-Api-Key": "mine", "User-Agent": "me", ["__proto__"]: "1" });
  expect(seen[0]!.headers).toMatchObject({ authorization: "mine", "x-api-key": "mine", "user-agent": "me" });
  await ask("/key", { Accept: "text/plain", Range: "bytes=0-9" });
  expect(seen[1]!.headers).toMatchObject({ range: "bytes=0-9", "accept-encoding": "identity" });
  expect(seen[1]!.raw.filter((text) => text === SECRET)).toHaveLength(1);
  expect(seen[1]!.headers).toMatchObject({ accept: "text/plain", "x-api-key": SECRET });
});

test("a credential is a header with a prefix or a password, and what is wrong with it is said without it", async () => {
  const { port, seen } = await serve();
  const with_ = async (credential: SiteConfig["credential"] & object): Promise<string | undefined> => {
    await callerOf([local(port, { credential })], HERE, { key: SECRET }).fetch(`http://a.test:${port}/`);
    return seen.at(-1)!.headers.authorization;
  };
  expect(await with_({ name: "key", header: "Authorization", prefix: "Bearer " })).toBe(`Bearer ${SECRET}`);
  expect(await with_({ name: "key", basic: "me" })).toBe(`Basic ${Buffer.from(`me:${SECRET}`).toString("base64")}`);
  const secure = (credential: object, credentials: Record<string, string> = { key: SECRET }): string =>
    wrongConfig({ host: "a.test", credential }, credentials);
  expect(secure({ name: "key" })).toContain("either");
  expect(secure({ name: "key", header: "A", basic: "b" })).toContain("either");
  expect(secure({ name: "other", header: "A" })).toContain('nobody has entered "other"');
  expect(secure({ name: "toString", header: "A" })).toContain("nobody has entered");
  expect(secure({ name: "key", header: "Host" })).toContain('"Host" cannot be the header');
  expect(secure({ name: "key", header: "A b" })).toContain("cannot be the header");
  expect(secure({ name: "key", basic: "a:b" })).toContain("colon");
  const broken = secure({ name: "key", header: "A" }, { key: `${SECRET}\r\nHost: evil` });
  expect(broken).toContain("characters");
  expect(broken).not.toContain(SECRET);
  expect(
    wrongConfig({ host: "a.test", scheme: "http", credential: { name: "key", header: "A" } }, { key: SECRET }),
  ).toContain("over http");
});

test("a credential goes to the site that has it, and not with a redirect to another one, nor back", async () => {
  const other = await serve((request, response) =>
    request.url === "/back"
      ? response.writeHead(302, { location: `https://a.test:${port}/end` }).end()
      : response.end("b"),
  );
  const { port, seen } = await serve(
    ({ url }, response) => {
      const to: Record<string, string> = {
        "/here": "/end",
        "/there": `http://b.test:${other.port}/`,
        "/back": `http://b.test:${other.port}/back`,
        "/second": `https://b.test:${port}/end`,
      };
      if (to[url] === undefined) response.end("a");
      else response.writeHead(307, { location: to[url] }).end();
    },
    { secure: "site" },
  );
  const key = { credential: { name: "key", header: "X-Key" } };
  const { fetch } = callerOf(
    [
      { host: "a.test", port, ca, allow_private: true, ...key },
      { host: "b.test", port, ca, allow_private: true, credential: { name: "second", header: "X-Second" } },
      { ...local(other.port), host: "b.test" },
    ],
    HERE,
    { key: SECRET, second: "another-secret" },
  );
  const base = `https://a.test:${port}`;
  const headers = { "X-Mine": "1", Accept: "text/plain" };
  expect(await fetch(`${base}/here`, { headers })).toMatchObject({ body: "a", url: `${base}/end` });
  expect(seen.map(({ headers: all }) => [all["x-key"], all["x-mine"]])).toEqual([
    [SECRET, "1"],
    [SECRET, "1"],
  ]);
  // From https to http, and to another host.
  expect(await fetch(`${base}/there`, { headers })).toMatchObject({ body: "b", origin: `http:b.test:${other.port}` });
  expect(other.seen[0]!.headers).toMatchObject({ accept: "text/plain" });
  expect(other.seen[0]!.headers["x-mine"]).toBeUndefined();
  seen.length = 0;
  await fetch(`${base}/back`, { headers });
  expect(seen.map(({ url, headers: all }) => [url, all["x-key"]])).toEqual([
    ["/back", SECRET],
    ["/end", undefined],
  ]);
  // The other site has one too. It goes only with what a worker asks of that site itself.
  seen.length = 0;
  await fetch(`${base}/second`);
  await fetch(`https://b.test:${port}/end`);
  expect(seen.map(({ sni, headers: all }) => [sni, all["x-key"], all["x-second"]])).toEqual([
    ["a.test", SECRET, undefined],
    ["b.test", undefined, undefined],
    ["b.test", undefined, "another-secret"],
  ]);
  expect(JSON.stringify(other.seen)).not.toContain(SECRET);
});

test("a redirect leads only where the worker may go by itself, and `send` follows none", async () => {
  let location = "";
  const { port, seen } = await serve(({ url }, response) =>
    url === "/end" ? response.end("end") : response.writeHead(302, { location }).end("moved"),
  );
  const { fetch, send } = callerOf([
    local(port, { methods: ["GET", "POST"] }),
    local(port, { host: "b.test", methods: ["HEAD"] }),
  ]);
  const base = `http://a.test:${port}`;
  for (const [to, code] of [
    ["https://evil.test/", "POLICY_REFUSED"],
    [`http://b.test:${port}/`, "POLICY_REFUSED"], // GET is not allowed there
    [`http://127.0.0.1:${port}/`, "POLICY_REFUSED"],
    [`//evil.test:${port}/`, "POLICY_REFUSED"],
    [`http://user@a.test:${port}/end`, "BAD_ANSWER"],
    ["file:///etc/passwd", "BAD_ANSWER"],
    ["http://[", "BAD_ANSWER"],
    ["\\\\evil.test\\", "BAD_ANSWER"],
  ] as const) {
    location = to;
    expect([to, await codeOf(fetch(base))]).toEqual([to, code]);
  }
  for (const to of [`${base}/end`, "/end", "end", `//A.test:${port}/end#x`, "/x/../end"]) {
    location = to;
    expect([to, (await fetch(base)).body]).toEqual([to, "end"]);
  }
  location = "/end";
  seen.length = 0;
  expect(await send("POST", base, { body: "x" })).toMatchObject({ status: 302, headers: { location }, body: "moved" });
  expect(seen).toHaveLength(1);
});

test("a POST that only asks goes to sites that say so, with their credential, and nothing else does", async () => {
  let status = 200;
  const { port, seen } = await serve((_, response) => response.writeHead(status, { location: "/v1/else" }).end("ok"));
  const credential = { name: "key", header: "X-Api-Key" };
  const sites = [local(port, { paths: ["/v1"], ask: true, credential }), local(port, { methods: ["GET", "POST"] })];
  const { ask, send } = callerOf(sites, HERE, { key: SECRET });
  const base = `http://a.test:${port}`;
  expect(await ask(`${base}/v1/messages`, { body: "é" })).toMatchObject({ status: 200, body: "ok" });
  expect(seen[0]).toMatchObject({ method: "POST", body: "é", headers: { "x-api-key": SECRET } });
  status = 307; // it follows none
  expect(await ask(`${base}/v1/messages`)).toMatchObject({ status: 307 });
  expect(seen).toHaveLength(2);
  // What may be sent is not what may be asked, nor the other way round.
  expect(await refusal(ask(`${base}/v2`))).toMatchObject({ code: "POLICY_REFUSED", field: "url" });
  expect(await codeOf(callerOf([local(port, { ask: true })]).send("POST", `${base}/`))).toBe("POLICY_REFUSED");
  expect(await codeOf(callerOf([local(port, { ask: true })]).ask("http://b.test/"))).toBe("POLICY_REFUSED");
  expect(await codeOf(ask(`${base}/v1/../v2`))).toBe("POLICY_REFUSED");
  expect(await codeOf(ask(`${base}/v1`, { headers: { "x-api-key": "mine" } }))).toBe("POLICY_REFUSED");
  expect((await refusal(ask(`${base}/v1`, { method: "PUT" }))).name).toBe("ZodError");
  expect((await send("POST", `${base}/v2`)).status).toBe(307);
  expect(seen).toHaveLength(3);
});

test("what a worker sees of an answer has no cookies and nothing of the connection", async () => {
  const { port } = await serve((_, response) => {
    response.setHeader("Set-Cookie", ["a=1", "b=2"]);
    response.setHeader("X-Two", ["1", "2"]);
    response.setHeader("Proxy-Authenticate", "x");
    response.setHeader("Content-Type", "text/plain; charset=utf-8");
    response.setHeader("Content-Length", 3);
    response.writeHead(404).end("né");
  });
  const { fetch } = callerOf([local(port)]);
  const { status, headers, body } = await fetch(`http://a.test:${port}/`);
  expect([status, body]).toEqual([404, "né"]);
  delete (headers as { date?: string }).date;
  expect(headers).toEqual({ "x-two": "1, 2", "content-type": "text/plain; charset=utf-8", "content-length": "3" });
  expect(await fetch(`http://a.test:${port}/`, { method: "HEAD" })).toMatchObject({ status: 404, body: "" });
});

// How much, and how long.

test("webBodyBytes: a body as long as the limit comes whole, with one byte more it is cut, in text or in base64", async () => {
  let body: Uint8Array = Buffer.from("");
  const { port } = await serve((_, response) => response.end(body));
  const { fetch } = callerOf([local(port)]);
  const url = `http://a.test:${port}/`;
  const most = LIMITS.webBodyBytes.value;
  for (const more of [0, 1]) {
    body = Buffer.alloc(most + more, "a");
    const answer = await fetch(url);
    expect([answer.body.length, answer.encoding, answer.truncated]).toEqual([most, "utf8", more === 1]);
    body = Buffer.alloc(most + more, 255);
    const bytes = await fetch(url);
    expect(bytes.encoding).toBe("base64");
    expect([Buffer.from(bytes.body, "base64").length, bytes.truncated]).toEqual([most, more === 1]);
    expect(JSON.stringify(bytes).length).toBeLessThan(LIMITS.hostMessageBytes.value);
    body = Buffer.alloc(most + more, 1); // text that JSON writes with six characters each
    const worst = await fetch(url);
    expect([worst.encoding, worst.truncated]).toEqual(["base64", more === 1]);
    expect(JSON.stringify(worst).length).toBeLessThan(LIMITS.hostMessageBytes.value);
  }
  body = Buffer.from("aé€");
  expect(await fetch(url, { max_bytes: 6 })).toMatchObject({ body: "aé€", truncated: false });
  expect(await fetch(url, { max_bytes: 5 })).toMatchObject({ body: "aé", encoding: "utf8", truncated: true });
  expect(await fetch(url, { max_bytes: 1 })).toMatchObject({ body: "a", truncated: true });
  body = Buffer.from([0xc3]); // not cut: it ends in the middle of a character
  expect(await fetch(url)).toMatchObject({ body: "ww==", encoding: "base64", truncated: false });
  body = Buffer.from("\ufeffa");
  expect((await fetch(url)).body).toBe("\ufeffa");
});

test("a compressed body counts decompressed, and a bomb is cut where the limit is", async () => {
  let [encoding, body]: [string, Uint8Array] = ["gzip", gzipSync("hello")];
  const { port } = await serve((_, response) => response.writeHead(200, { "content-encoding": encoding }).end(body));
  const { fetch } = callerOf([local(port)]);
  const url = `http://a.test:${port}/`;
  const plain = await fetch(url);
  expect(plain).toMatchObject({ body: "hello", truncated: false });
  expect(Object.keys(plain.headers)).not.toContain("content-encoding");
  [encoding, body] = ["br", brotliCompressSync("hello")];
  expect((await fetch(url)).body).toBe("hello");
  body = new Uint8Array();
  expect(await fetch(url)).toMatchObject({ body: "", truncated: false });
  const many = Buffer.alloc(64 * 1024 * 1024);
  for (const [name, bomb] of [
    ["gzip", gzipSync(many)],
    ["br", brotliCompressSync(many, { params: { [constants.BROTLI_PARAM_QUALITY]: 1 } })],
  ] as const) {
    [encoding, body] = [name, bomb];
    expect(bomb.length).toBeLessThan(LIMITS.webBodyBytes.value);
    const before = process.memoryUsage.rss();
    const answer = await fetch(url, { max_bytes: 1000 });
    expect([answer.body.length, answer.truncated]).toEqual([1000, true]);
    expect(process.memoryUsage.rss() - before).toBeLessThan(32 * 1024 * 1024);
  }
  // What is not asked for is not decompressed; what is broken is no answer.
  [encoding, body] = ["zstd", Buffer.from([1, 255])];
  expect(await fetch(url)).toMatchObject({ body: "Af8=", encoding: "base64", headers: { "content-encoding": "zstd" } });
  [encoding, body] = ["gzip", gzipSync("hello").subarray(0, 20)];
  expect(await codeOf(fetch(url))).toBe("BAD_ANSWER");
  body = Buffer.from("hello");
  expect(await codeOf(fetch(url))).toBe("BAD_ANSWER");
});

test("webWireBytes: as much of a compressed body as the limit is read, and of more what has come of it by then", async () => {
  /** Gzip of "a" and of blocks with nothing in them. */
  const empty = (bytes: number): Buffer => {
    const content = Buffer.concat([Buffer.from([0, 1, 0, 254, 255]), Buffer.from("a")]);
    const end = Buffer.concat([Buffer.from([1, 0, 0, 255, 255]), gzipSync("a").subarray(-8)]);
    const rest = bytes - 10 - content.length - end.length;
    const blocks = Math.floor((rest - 1) / 5);
    const name = Buffer.concat([Buffer.alloc(rest - 5 * blocks - 1, "n"), Buffer.of(0)]);
    const head = Buffer.from([0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 3]);
    const nothing = Buffer.concat(Array<Buffer>(blocks).fill(Buffer.from([0, 0, 0, 255, 255])));
    return Buffer.concat([head, name, content, nothing, end]);
  };
  let body = empty(100);
  const { port } = await serve((_, response) => response.writeHead(200, { "content-encoding": "gzip" }).end(body));
  const { fetch } = callerOf([local(port)]);
  for (const more of [0, 1]) {
    body = empty(LIMITS.webWireBytes.value + more);
    expect(body.length).toBe(LIMITS.webWireBytes.value + more);
    expect(await fetch(`http://a.test:${port}/`)).toMatchObject({ body: "a", truncated: more === 1 });
  }
});

test("webSendBytes, webUrlChars, webHeaders, webHeaderBytes: as much as the limit is sent, and no more", async () => {
  const { port, seen } = await serve();
  const { fetch, send } = callerOf([local(port, { methods: ["GET", "POST"] })]);
  const base = `http://a.test:${port}/`;
  const body = "a".repeat(LIMITS.webSendBytes.value);
  await send("POST", base, { body });
  expect(seen[0]!.body).toBe(body);
  expect(await refusal(send("POST", base, { body: `${body}a` }))).toMatchObject({ code: "LIMIT", field: "body" });
  const { tools } = webTools([local(port)], {}, HERE); // the schema has the limit too
  const url = base.padEnd(LIMITS.webUrlChars.value, "a");
  await fetch(url);
  expect(await refusal(Promise.try(() => tools.fetch!({ url: `${url}a` }, REQUEST)))).toMatchObject({
    code: "USAGE",
  });
  const headers = Object.fromEntries(Array.from({ length: LIMITS.webHeaders.value }, (_, at) => [`X-${at}`, ""]));
  await fetch(base, { headers });
  expect(await refusal(fetch(base, { headers: { ...headers, "X-More": "" } }))).toMatchObject({
    code: "LIMIT",
    field: "headers",
  });
  const value = "a".repeat(LIMITS.webHeaderBytes.value - 3);
  await fetch(base, { headers: { "X-A": value } });
  expect(await codeOf(fetch(base, { headers: { "X-A": `${value}a` } }))).toBe("LIMIT");
  expect(seen).toHaveLength(4);
});

test("webHeadBytes: a head as long as the limit is read, and one byte more refused", async () => {
  let size = 0;
  const { port } = await serveRaw((socket) => socket.end(`HTTP/1.1 200 OK\r\nX: ${"a".repeat(size - 3)}\r\n\r\n`));
  const { fetch } = callerOf([local(port)]);
  size = LIMITS.webHeadBytes.value; // of OK, X and its value
  const answer = await fetch(`http://a.test:${port}/`);
  expect(answer.headers.x).toHaveLength(size - 3);
  size++;
  expect(await codeOf(fetch(`http://a.test:${port}/`))).toBe("BAD_ANSWER");
});

test("webRedirects: as many as the limit are followed, and one more is refused", async () => {
  let count = 0;
  const { port, seen } = await serve((_, response) =>
    count-- > 0 ? response.writeHead(301, { location: `/${count}` }).end() : response.end("end"),
  );
  const { fetch } = callerOf([local(port)]);
  count = LIMITS.webRedirects.value;
  expect((await fetch(`http://a.test:${port}/`)).body).toBe("end");
  seen.length = 0;
  count = LIMITS.webRedirects.value + 1;
  expect(await codeOf(fetch(`http://a.test:${port}/`))).toBe("LIMIT");
  expect(seen).toHaveLength(LIMITS.webRedirects.value + 1);
});

test("webSites: as many as the limit are taken, and one more refused", () => {
  const sites = Array.from({ length: LIMITS.webSites.value }, (_, at) => ({ host: `h${at}.test` }));
  webTools(sites, {});
  expect(() => webTools([...sites, { host: "more.test" }], {})).toThrow("at most");
});

test("webAddresses: as many as the limit are tried within the time, and one more is not", async () => {
  const { port } = await serve(undefined, { address: "127.0.0.9" });
  for (const [dead, isReached] of [
    [LIMITS.webAddresses.value - 1, true],
    [LIMITS.webAddresses.value, false],
  ] as const) {
    const silent: Socket[] = [];
    const all = [...Array.from({ length: dead }, (_, at) => `127.1.0.${at + 1}`), "127.0.0.9"];
    const { ways } = names({ "a.test": [all] });
    const dial: Ways["dial"] = (address, to) => {
      if (address === "127.0.0.9") return ways.dial(address, to);
      if (address === "127.1.0.1") return ways.dial("127.0.0.9", 1); // refuses
      silent.push(new Socket()); // never opens
      return silent.at(-1)!;
    };
    const { fetch } = callerOf([local(port, { timeout_ms: 1000 })], { ...ways, dial });
    const work = fetch(`http://a.test:${port}/`);
    if (isReached) expect((await work).status).toBe(200);
    else
      expect(await refusal(work)).toMatchObject({
        retriable: true,
        code: expect.stringMatching(/UNREACHABLE|DEADLINE/),
      });
    expect(silent.every((socket) => socket.destroyed)).toBe(true);
  }
});

test("webRequests: as many as the limit are under way, and one more is to come later", async () => {
  const held: Socket[] = [];
  const { port } = await serveRaw((socket) => held.push(socket));
  const { fetch, running } = callerOf([local(port)]);
  const all = Array.from({ length: LIMITS.webRequests.value }, () => codeOf(fetch(`http://a.test:${port}/`)));
  expect(await refusal(fetch(`http://a.test:${port}/`))).toMatchObject({ code: "LIMIT", retriable: true });
  await waitUntil(() => held.length === LIMITS.webRequests.value, "all are asked");
  await running.shutdown!();
  expect(new Set(await Promise.all(all))).toEqual(new Set(["ABORTED"]));
});

test("webMs: no request takes longer, whatever the server does, and a worker that gives up ends it at once", async () => {
  const most = LIMITS.webMs.value;
  for (const [ms, has] of [
    [most - 1, most - 1],
    [most, most],
    [most + 1, most],
    [undefined, most],
  ] as const)
    expect(new Sites([{ host: "a.test", ...(ms === undefined ? {} : { timeout_ms: ms }) }], {}).all[0]!.timeoutMs).toBe(
      has,
    );
  const head = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";
  const drip = (socket: Socket, text: string): void => {
    const timer = setInterval(() => socket.write(text), 5);
    socket.on("close", () => clearInterval(timer));
  };
  const says: ((socket: Socket) => void)[] = [
    () => undefined,
    (socket) => drip(socket, "H"),
    (socket) => {
      socket.write("HTTP/1.1 200 OK\r\n");
      drip(socket, "X");
    },
    (socket) => socket.write(head),
    (socket) => {
      socket.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
      drip(socket, "1\r\na\r\n");
    },
  ];
  const end = async (say: (socket: Socket) => void): Promise<void> => {
    const { port, sockets, asked } = await serveRaw(say);
    const url = `http://a.test:${port}/`;
    const { fetch, send } = callerOf([local(port, { timeout_ms: 2000, methods: ["GET", "POST"] })]);
    const [fetched, sent] = await Promise.all([codeOf(fetch(url)), refusal(send("POST", url))]);
    expect(["DEADLINE", "BAD_ANSWER"]).toContain(fetched); // one of them does not even begin as HTTP does
    expect(sent).toMatchObject({ code: "MAYBE_DONE", retriable: false });
    const control = new AbortController();
    const before = asked.length;
    const work = codeOf(callerOf([local(port)]).fetch(url, {}, { signal: control.signal }));
    await waitUntil(() => asked.length > before, "it is asked");
    control.abort();
    expect(["ABORTED", "BAD_ANSWER"]).toContain(await work);
    await waitUntil(() => sockets.every((socket) => socket.destroyed), "all connections are closed");
  };
  await Promise.all(says.map(end));
  // Nor a handshake that does not begin, a name that does not resolve, or a worker that is gone before.
  const mute = await listening(
    createServer(() => undefined),
    "127.0.0.1",
  );
  open.push({ close: () => mute.close() });
  const secure = { host: "a.test", port: portOf(mute), allow_private: true, timeout_ms: 100 };
  expect(await codeOf(callerOf([secure]).fetch(`https://a.test:${secure.port}/`))).toBe("DEADLINE");
  const never: Ways = { ...HERE, resolve: () => new Promise(() => undefined) };
  expect(await codeOf(callerOf([secure], never).fetch(`https://a.test:${secure.port}/`))).toBe("DEADLINE");
  const signal = AbortSignal.abort();
  expect(await codeOf(callerOf([secure]).fetch(`https://a.test:${secure.port}/`, {}, { signal }))).toBe("ABORTED");
});

// Servers that lie.

test("an answer that is not sound HTTP is refused, and whatever it was, no address of the inside is told", async () => {
  const ok = "HTTP/1.1 200 OK\r\n";
  const cases: Readonly<Record<string, string | ((socket: Socket) => void)>> = {
    nothing: "",
    garbage: "hello\r\n\r\n",
    "another version": "HTTP/3.7 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "two lengths": `${ok}Content-Length: 2\r\nContent-Length: 3\r\n\r\nokk`,
    "a length and chunks": `${ok}Content-Length: 20\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n`,
    "a chunk of no size": `${ok}Transfer-Encoding: chunked\r\n\r\nZZ\r\nok`,
    "a short body": `${ok}Content-Length: 20\r\n\r\nok`,
    "chunks that break off": `${ok}Transfer-Encoding: chunked\r\n\r\n5\r\nok`,
    "a reset": (socket) => {
      socket.write(`${ok}Content-Length: 20\r\n\r\nok`, () => socket.resetAndDestroy());
    },
    "another protocol": "HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nok",
    "a head without end": (socket) => {
      const more = (): void => void (socket.destroyed || socket.write(`X: ${"a".repeat(1000)}\r\n`, more));
      socket.write(ok, more);
    },
    "announcements without end": (socket) => {
      const more = (): void => void (socket.destroyed || socket.write("HTTP/1.1 103 Early Hints\r\n\r\n", more));
      more();
    },
  };
  for (const [name, say] of Object.entries(cases)) {
    const { port } = await serveRaw((socket) => (typeof say === "string" ? socket.end(say) : say(socket)));
    const { fetch, send } = callerOf([local(port, { methods: ["GET", "POST"] })]);
    const refused = await refusal(fetch(`http://a.test:${port}/`));
    expect([name, refused.name, refused.code, refused.retriable]).toEqual([name, "ToolError", "BAD_ANSWER", true]);
    expect(refused.message).not.toContain("127.0.0.1");
    expect([name, await codeOf(send("POST", `http://a.test:${port}/`))]).toEqual([name, "MAYBE_DONE"]);
  }
  const sound: Readonly<Record<string, [string, string]>> = {
    "a body until the end": [`${ok}\r\nok`, "ok"],
    "an announcement": [`HTTP/1.1 100 Continue\r\n\r\n${ok}Content-Length: 2\r\n\r\nok`, "ok"],
    "no body": ["HTTP/1.1 204 No Content\r\n\r\n", ""],
    "more than its length": [`${ok}Content-Length: 2\r\nConnection: close\r\n\r\nok`, "ok"],
  };
  for (const [name, [text, body]] of Object.entries(sound)) {
    const { port } = await serveRaw((socket) => socket.end(text));
    expect([name, (await callerOf([local(port)]).fetch(`http://a.test:${port}/`)).body]).toEqual([name, body]);
  }
});

test("who does not answer is told from who refuses, by name alone", async () => {
  const gone = await listening(createServer(), "127.0.0.1");
  const port = portOf(gone);
  await new Promise((resolve) => gone.close(resolve));
  const { fetch, send, running } = callerOf([
    local(port, { methods: ["GET", "POST"] }),
    { host: "none.test", scheme: "http" },
  ]);
  const closed = await refusal(fetch(`http://a.test:${port}/`));
  expect(closed).toMatchObject({ code: "UNREACHABLE", retriable: true });
  expect(closed.message).not.toMatch(/127\.0\.0\.1|ECONN/);
  expect(await refusal(send("POST", `http://a.test:${port}/`))).toMatchObject({ code: "UNREACHABLE", retriable: true });
  expect(await refusal(fetch("http://none.test/"))).toMatchObject({ code: "UNREACHABLE" });
  expect(await refusal(running.verify!())).toMatchObject({ code: "UNREACHABLE" });
  const { port: there, seen } = await serve(undefined, { secure: "site" });
  const good = { port: there, ca, allow_private: true };
  await callerOf([
    { host: "a.test", ...good },
    { host: "*.wild.test", ...good },
  ]).running.verify!();
  expect(await codeOf(callerOf([{ host: "c.test", ...good }]).running.verify!())).toBe("TLS_REFUSED");
  expect(seen).toEqual([]);
});

test("a site that cannot be meant is refused where it is written", () => {
  for (const host of [
    ...[
      "",
      "a b",
      "http://a.test",
      "a.test:80",
      "a.test/x",
      "a.test.",
      "*",
      "*.",
      "*.*.test",
      "a*.test",
      "user@a.test",
    ],
    ...["[::1]", "*.10.0.0.1", "0x7f.1", "2130706433", "127.1", "1.2.3.4.5", "fe80::1%1", "a%2etest", "a\\b"],
  ])
    expect([host, wrongConfig({ host })]).toEqual([
      host,
      expect.stringContaining(`sites[0].host: ${JSON.stringify(host)}`),
    ]);
  for (const path of ["v1", "/v1/../x", "/v1?x", "/v 1", "/v1#", "/%2e", "/..%2f"])
    expect(wrongConfig({ host: "a.test", paths: [path] })).toContain(JSON.stringify(path));
  expect(wrongConfig({ host: "a.test", ca: "/etc/ssl/ca.pem" })).toContain("PEM");
  for (const host of ["A.test", "*.a.test", "10.0.0.5", "::1", "FD00::1", "bücher.test", "a_b.test", "localhost"])
    webTools([{ host }], {});
});
