/** Logins by the device flow, with a service that a test serves: allowed, refused, renewed, over, and hostile. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { IpcError } from "../../src/base/errors.ts";
import { parseCredentialName } from "../../src/desk/credential-name.ts";
import { Credentials } from "../../src/desk/credentials.ts";
import { askDevice, awaitTokens, discover, refreshTokens, requireSafeUrl, type Client } from "../../src/desk/oauth.ts";
import { ROOT, waitUntil, within, withDaemon } from "../home.ts";

/** A service as RFC 8628 says it, whose tokens for renewal are good once. */
class Service implements Disposable {
  readonly asked: Record<string, string>[] = [];
  /** What the next requests for tokens are answered, instead of tokens. */
  readonly replies: (Response | { error: string })[] = [];
  isPublished = true;
  lifeSeconds = 3600;
  #given = 0;
  readonly #server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: (request) => this.#answer(request) });

  get url(): string {
    return `http://127.0.0.1:${this.#server.port}`;
  }

  tokens(number: number): { access: string; refresh: string } {
    return { access: `access-token-${number}`, refresh: `refresh-token-${number}` };
  }

  [Symbol.dispose](): void {
    void this.#server.stop(true);
  }

  async #answer(request: Request): Promise<Response> {
    const { pathname } = new URL(request.url);
    if (pathname === "/.well-known/openid-configuration" && this.isPublished)
      return Response.json({
        device_authorization_endpoint: `${this.url}/device`,
        token_endpoint: `${this.url}/token`,
      });
    if (request.method !== "POST") return new Response("nothing here", { status: 404 });
    const form = Object.fromEntries(new URLSearchParams(await request.text()));
    this.asked.push({ path: pathname, ...form });
    if (pathname === "/device")
      return Response.json({
        ...{ device_code: "the-device-code", user_code: "ABCD-EFGH", expires_in: 60, interval: 1 },
        ...{ verification_uri: `${this.url}/allow`, verification_uri_complete: `${this.url}/allow?code=ABCD-EFGH` },
      });
    const reply = this.replies.shift();
    if (reply instanceof Response) return reply;
    if (reply) return Response.json(reply, { status: 400 });
    const isRenewal = form.grant_type === "refresh_token";
    if (isRenewal && form.refresh_token !== this.tokens(this.#given).refresh)
      return Response.json({ error: "invalid_grant" }, { status: 400 });
    const { access, refresh } = this.tokens(++this.#given);
    return Response.json({ access_token: access, refresh_token: refresh, expires_in: this.lifeSeconds });
  }
}

let service: Service;
let state: string;
let now = Date.now();
beforeEach(() => {
  service = new Service();
  state = mkdtempSync(join(tmpdir(), "ipcctl-login-"));
});
afterEach(() => {
  service[Symbol.dispose]();
  rmSync(state, { recursive: true, force: true });
});

const NAME = parseCredentialName("mail/token");
const at = (): Client => ({
  ...{ tokenUrl: `${service.url}/token`, clientId: "ipcctl", deviceUrl: `${service.url}/device`, scope: "read mail" },
});
/** What is said of a login that is over. */
const again = (): string =>
  `log in again: ipcctl auth login mail/token --client-id ipcctl --device-url ${service.url}/device --token-url ${service.url}/token`;
const errorOf = (work: Promise<unknown>): Promise<IpcError> =>
  work.then(
    () => Promise.reject(new Error("it should have failed")),
    (error: IpcError) => error,
  );
const begun = (): ReturnType<typeof askDevice> => askDevice(`${service.url}/device`, "ipcctl", "read");

/** Credentials with a login that the service has given. */
async function loggedIn(): Promise<Credentials> {
  const credentials = new Credentials(state, undefined, () => now);
  credentials.login(NAME, at(), await awaitTokens(at(), await begun(), () => Promise.resolve()));
  return credentials;
}

test("the person is asked, and waited for as slowly as the service wants", async () => {
  service.replies.push({ error: "authorization_pending" }, { error: "slow_down" }, { error: "authorization_pending" });
  const device = await begun();
  expect(device).toMatchObject({
    ...{ code: "ABCD-EFGH", url: `${service.url}/allow`, completeUrl: `${service.url}/allow?code=ABCD-EFGH` },
    pauseSeconds: 1,
  });
  const pauses: number[] = [];
  const tokens = await awaitTokens(at(), device, (ms) => Promise.resolve(pauses.push(ms)));
  expect(tokens).toEqual({ ...service.tokens(1), expiresInSeconds: 3600 });
  expect(pauses).toEqual([1000, 1000, 6000, 6000]);
  expect(service.asked.slice(0, 2)).toEqual([
    { path: "/device", client_id: "ipcctl", scope: "read" },
    {
      ...{ path: "/token", grant_type: "urn:ietf:params:oauth:grant-type:device_code" },
      ...{ device_code: "the-device-code", client_id: "ipcctl" },
    },
  ]);
});

test("a no, a code that nobody entered and a broken service are told apart", async () => {
  const device = await begun();
  const outcome = async (...replies: Service["replies"]): Promise<IpcError> => {
    service.replies.splice(0, service.replies.length, ...replies);
    return await errorOf(awaitTokens(at(), device, () => Promise.resolve()));
  };
  expect(await outcome({ error: "access_denied" })).toMatchObject({
    code: "POLICY_REFUSED",
    message: "the login was refused where it was to be allowed",
  });
  const over = { code: "DEADLINE", message: "nobody allowed the login within 60 s" };
  expect(await outcome({ error: "expired_token" })).toMatchObject(over);
  const pending = Array.from({ length: 60 }, () => ({ error: "authorization_pending" }));
  expect(await outcome(...pending)).toMatchObject(over);
  const url = `${service.url}/token`;
  expect((await outcome({ error: "invalid_client" })).message).toBe(
    `waiting for the login: ${url} answered 400 (invalid_client)`,
  );
  // What stands there may be a token: it is not repeated.
  expect((await outcome({ error: "the-device-code was wrong" })).message).toBe(
    `waiting for the login: ${url} answered 400`,
  );
  for (const body of ["", "the-device-code", "[", "null", '"text"'])
    expect((await outcome(new Response(body))).message).toBe(
      `waiting for the login: ${url} answered 200 without an object of JSON`,
    );
  expect((await outcome(new Response("x".repeat(300_000)))).message).toContain("broke off its answer");
  expect((await outcome(Response.json({ access_token: 5 }))).message).toEndWith("answered 200");
});

test("a secret is sent to the URL that was named, and to no other that it leads to", async () => {
  using elsewhere = new Service();
  service.replies.push(Response.redirect(`${elsewhere.url}/token`, 307));
  const error = await errorOf(refreshTokens(at(), "a-refresh-token", "mail/token"));
  expect(error.message).toContain("answered 307 without an object of JSON");
  expect(elsewhere.asked).toEqual([]);
});

test("only URLs with https are taken, but for this machine", async () => {
  for (const url of ["https://example.org/token", "http://127.0.0.1:8080/", "http://[::1]/", "http://localhost/x"])
    expect(requireSafeUrl(url, "--token-url")).toBe(url);
  const bad = ["http://example.org/", "ftp://127.0.0.1/", "file:///etc/passwd", "x", "https://me:pw@example.org/"];
  for (const url of [...bad, "http://127.0.0.1.example.org/", "http://localhost.example.org/"])
    expect(() => requireSafeUrl(url, "--token-url")).toThrow("--token-url: ");
});

test("a service that publishes its URLs is enough", async () => {
  expect(await discover(`${service.url}/`)).toEqual({
    deviceUrl: `${service.url}/device`,
    tokenUrl: `${service.url}/token`,
  });
  service.isPublished = false;
  expect(await errorOf(discover(service.url))).toMatchObject({
    message: `${service.url} does not say where devices log in`,
    hint: "name both with --device-url and --token-url",
  });
});

test("a token is renewed before it ends, once for all who ask, and the old one is kept for redaction", async () => {
  const credentials = await loggedIn();
  expect(await credentials.use(NAME)).toBe("access-token-1");
  expect(credentials.list()).toMatchObject([{ kind: "login", expiresAtMs: now + 3_600_000, usedAtMs: now }]);
  now += 3_541_000; // 59 seconds before
  expect(await Promise.all([1, 2, 3].map(() => credentials.use(NAME)))).toEqual(Array(3).fill("access-token-2"));
  expect(service.asked.filter(({ grant_type: grant }) => grant === "refresh_token")).toHaveLength(1);
  expect(credentials.secrets()).toEqual(["access-token-2", "refresh-token-2", "access-token-1", "refresh-token-1"]);
  expect(await new Credentials(state, undefined, () => now).use(NAME)).toBe("access-token-2");
});

test("what a plugin was told is no longer what it would be told: a new value, and a login that is about to end", async () => {
  const credentials = await loggedIn();
  const told = now;
  const changed = (sinceMs = told): boolean => credentials.hasChanged("mail", sinceMs);
  expect(changed()).toBe(false);
  now += 3_539_999;
  expect(changed()).toBe(false);
  now += 1;
  expect(changed()).toBe(true);
  expect(changed(now)).toBe(false); // it was told since, and the service has not renewed it
  now += 60_000;
  expect(changed(now - 1)).toBe(true);
  await credentials.use(NAME);
  expect([changed(), changed(now)]).toEqual([true, false]);
  const since = now;
  now += 5;
  credentials.add(NAME, "an-api-key");
  expect(changed(since)).toBe(true);
  now += 3_600_000; // of the login, which is not used
  expect([changed(now - 3_600_000), credentials.hasChanged("other", 0)]).toEqual([false, false]);
});

test("where the service does not answer a token is used to its end", async () => {
  const credentials = await loggedIn();
  now += 3_590_000;
  service.replies.push(new Response("", { status: 503 }), new Response("", { status: 503 }));
  expect(await credentials.use(NAME)).toBe("access-token-1");
  now += 10_000;
  expect((await errorOf(credentials.use(NAME))).message).toContain("answered 503");
  expect(await credentials.use(NAME)).toBe("access-token-2");
});

test("a login that the service does not renew is over, and a new one takes its place", async () => {
  const credentials = await loggedIn();
  now += 3_600_000;
  service.replies.push({ error: "invalid_grant" });
  expect(await errorOf(credentials.use(NAME))).toMatchObject({
    message: "the login mail/token is over: the service does not renew it",
    hint: `${again()} --scope 'read mail'`,
  });
  credentials.login(NAME, at(), { access: "from-a-new-login", refresh: null, expiresInSeconds: null });
  expect(await credentials.use(NAME)).toBe("from-a-new-login");
  expect(credentials.secrets()).toEqual(["from-a-new-login", "access-token-1", "refresh-token-1"]);
  credentials.login(NAME, { ...at(), deviceUrl: null }, { access: "a-short-one", refresh: null, expiresInSeconds: 5 });
  now += 5000;
  expect(await errorOf(credentials.use(NAME))).toMatchObject({
    message: "the login mail/token is over, and its service gave nothing to renew it with",
    hint: "log in again, and store the tokens under the same name",
  });
});

test("a login that is removed while it is renewed does not come back", async () => {
  const credentials = await loggedIn();
  now += 3_600_000;
  const using = errorOf(credentials.use(NAME));
  credentials.remove(NAME);
  expect(await using).toMatchObject({ code: "NOT_FOUND" });
  expect(credentials.list()).toEqual([]);
});

test("a value that was added wins over a login of the same name, and both go together", async () => {
  const credentials = await loggedIn();
  expect(await errorOf(Promise.resolve().then(() => credentials.rotate(NAME, "a-new-value")))).toMatchObject({
    code: "NOT_FOUND",
    message: "mail/token is a login, which its service renews",
    hint: "ipcctl auth login mail/token begins a new one",
  });
  credentials.add(NAME, "an-api-key");
  expect(await credentials.use(NAME)).toBe("an-api-key");
  expect(credentials.list().map(({ name, kind }) => `${name} ${kind}`)).toEqual(["mail/token key", "mail/token login"]);
  expect(credentials.rotateKey()).toBe(2);
  expect(await credentials.verify(NAME)).toEqual([
    { name: "mail/token", isOk: true, message: "opens" },
    { name: "mail/token", isOk: true, message: "was renewed by its service" },
  ]);
  credentials.remove(NAME);
  expect(credentials.list()).toEqual([]);
});

test("renewals without end leave no file without end", async () => {
  service.lifeSeconds = 0;
  const credentials = await loggedIn();
  for (let count = 0; count < 30; count++) await credentials.use(NAME);
  expect(credentials.secrets()).toHaveLength(18); // the two of now, and the newest of before
  expect(credentials.secrets().slice(0, 2)).toEqual(["access-token-31", "refresh-token-31"]);
});

test("the command shows where to go and with which code, and no token is ever shown or left in clear", async () => {
  await withDaemon(async (home) => {
    home.env.IPCCTL_LOG_LEVEL = "debug";
    service.replies.push({ error: "authorization_pending" });
    const flags = ["--issuer", service.url, "--client-id", "ipcctl"];
    expect(await home.cli("auth", "login", "token", "--plugin", "mail", ...flags)).toEqual({
      status: 0,
      stdout: "mail/token: logged in\n",
      stderr: `open ${service.url}/allow and enter ABCD-EFGH\n  or open ${service.url}/allow?code=ABCD-EFGH\n`,
    });
    expect(await home.cli("auth", "verify")).toEqual({
      ...{ status: 0, stdout: "mail/token: was renewed by its service\n", stderr: "" },
    });
    service.replies.push({ error: "invalid_grant" });
    expect(await home.cli("auth", "verify", "mail/token")).toMatchObject({
      ...{ status: 1, stdout: "" },
      stderr: `ipcctl: the login mail/token is over: the service does not renew it; ${again()}\n`,
    });
    expect(await home.cli(...again().split("ipcctl ").slice(1).join("ipcctl ").split(" "))).toMatchObject({
      ...{ status: 0, stdout: "mail/token: logged in\n" },
    });
    expect((await home.cli("auth", "rotate", "mail/token")).stderr).toContain("mail/token is a login");
    expect((await home.cli("auth", "login", "x", "--client-id", "c")).status).toBe(2);
    expect((await home.cli("auth", "login", "x", "--client-id", "c", "--issuer", "http://example.org")).status).toBe(2);
    const folder = home.env.IPCCTL_HOME!;
    const files = readdirSync(folder, { recursive: true, encoding: "utf8" })
      .map((name) => join(folder, name))
      .filter((path) => statSync(path).isFile());
    const told = (await Promise.all([home.cli("auth", "list", "--json"), home.cli("audit", "--json")])).map(
      ({ stdout }) => stdout,
    );
    expect(told.join("")).toContain('"action":"login"');
    for (const text of [...told, ...files.map((path) => readFileSync(path, "latin1"))])
      expect(text).not.toMatch(/access-token|refresh-token|the-device-code/);
  });
});

test("a person who gives up waiting leaves nothing behind", async () => {
  await withDaemon(async (home) => {
    service.replies.push(...Array.from({ length: 100 }, () => ({ error: "authorization_pending" })));
    const command = [join(ROOT, "bin/ipcctl"), "auth", "login", "token", "--issuer", service.url, "--client-id", "c"];
    const child = Bun.spawn(command, { env: home.env, stdio: ["ignore", "ignore", "ignore"] });
    await waitUntil(() => service.asked.some(({ path }) => path === "/token"), "it waits");
    child.kill("SIGINT");
    await within(10_000, "the command to end", child.exited);
    expect((await home.cli("auth", "list")).stderr).toBe("no credentials; add one with: ipcctl auth add NAME\n");
  });
});
