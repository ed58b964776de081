/** What an HTTP request is to the host, and what its answer is to a client, without a listener and without a daemon. */
import { expect, test } from "bun:test";
import fc from "fast-check";
import { HOST_CODES } from "../../contract/host.ts";
import { LIMITS } from "../../contract/limits.ts";
import {
  answerDelivery,
  answerHttp,
  BODY_BYTES,
  readHttp,
  unknownOutcome,
  type HttpCall,
  type HttpRequest,
  type HttpResponse,
} from "../../src/host/http-calls.ts";
import { readRequest } from "../../src/host/wire.ts";
import { seed } from "../seed.ts";

const TOKEN = "0123456789abcdef".repeat(4);
const PORT = 4000;
const HEADERS = { host: `127.0.0.1:${PORT}`, authorization: `Bearer ${TOKEN}` };
const bytes = (body: unknown): Uint8Array => Buffer.from(typeof body === "string" ? body : JSON.stringify(body));
const read = (more: Partial<HttpRequest> & { readonly json?: unknown } = {}): ReturnType<typeof readHttp> => {
  const { json = { method: "echo.echo", params: { value: 1 } }, ...request } = more;
  return readHttp(
    { method: "POST", target: "/call", headers: HEADERS, body: bytes(json), ...request },
    PORT,
    () => "new",
  );
};
const call = (more?: Parameters<typeof read>[0]): HttpCall => {
  const found = read(more);
  if (!("kind" in found) || found.kind !== "call") throw new Error(`no call: ${JSON.stringify(found)}`);
  return found;
};
const refused = (more: Parameters<typeof read>[0]): number => (read(more) as HttpResponse).status;

test("a method with its parameters is a request of three fields; the id is its correlation", () => {
  expect(call()).toEqual({
    ...{ kind: "call", token: TOKEN, correlation: "new", form: { as: "line", id: undefined, fault: undefined } },
    request: '{"topic":"tool.invoke.echo.echo","correlation":"new","arguments":{"value":1}}',
  });
  expect(call({ json: { id: "mine", method: "a.b" } })).toMatchObject({
    ...{ correlation: "mine", form: { as: "line", id: "mine" } },
    request: '{"topic":"tool.invoke.a.b","correlation":"mine","arguments":{}}',
  });
  const wire = '{"topic": "t", "correlation": "c", "arguments": {"a": 1}}';
  expect(call({ json: wire })).toMatchObject({ request: wire, correlation: "c", form: { as: "wire" } });
  expect(call({ method: "GET", target: "/api/mcp/files?conversation_id=c%201&count=2", json: "" })).toMatchObject({
    ...{ form: { as: "result" } },
    request: '{"topic":"tool.invoke.files.list","correlation":"new","arguments":{"conversation_id":"c 1","count":2}}',
  });
});

/** None of them is a request; each reaches the router all the same, which refuses and records it. */
const MALFORMED: readonly unknown[] = [
  ...["", "null", "[]", '"x"', "{", '{"method": "a.b", "method": "c.d"}', '{"method":"a.b","params":{"x":1,"x":2}}'],
  ...[{}, { method: 1 }, { method: "a.b", params: [] }, { method: "a.b", params: null }, { method: "a.b", id: 1 }],
  ...[{ method: "a.b", source: "core" }, { method: "a.b", params: {}, arguments: {} }, { topic: "x" }],
  ...["[".repeat(100_000), `{"method":"a.b","params":${'{"a":'.repeat(70)}1${"}".repeat(70)}}`],
  ...[
    '{"method":"a.b","params":{"__proto__":{"x":1}}}',
    '{"method":"a.b","params":{"x":"\\ud800"}}',
    '\ufeff{"method":"a.b"}',
  ],
];

test("what is no request is passed on as what it is, and its sender is told what is wrong", () => {
  for (const json of MALFORMED) {
    const { request } = call({ json });
    expect([json, readRequest(Buffer.from(request)).refusal?.code]).toEqual([
      json,
      expect.stringMatching(/^(MALFORMED|TOO_LARGE)$/),
    ]);
  }
  const wrong = call({ json: { method: 1 } });
  const answer = readRequest(Buffer.from(wrong.request)).refusal!;
  const told = answerHttp(wrong, JSON.stringify({ correlation: null, error: answer }));
  expect([told.status, JSON.parse(told.body)]).toMatchObject([
    400,
    { error: "MALFORMED: method is not a string, such as files.list", code: "MALFORMED", retriable: false },
  ]);
  const { request } = call({ body: new Uint8Array([0x22, 0xff, 0x22]) });
  expect(readRequest(Buffer.from(request)).refusal?.code).toBe("MALFORMED");
});

test("hostMessageBytes: of a larger body no more is passed on than shows that", () => {
  for (const filler of ["x", "ä", "\ud83d\ude00"]) {
    const body = bytes(JSON.stringify(filler.repeat(BODY_BYTES)));
    const { request } = call({ body });
    expect(request.length).toBe(BODY_BYTES + 1);
    expect(readRequest(Buffer.from(request)).refusal?.code).toBe("TOO_LARGE");
  }
  const empty = '{"topic":"tool.invoke.a.b","correlation":"new","arguments":{"value":""}}'.length;
  const largest = call({ json: { method: "a.b", params: { value: "x".repeat(BODY_BYTES - empty) } } });
  expect(readRequest(Buffer.from(largest.request)).refusal).toBeUndefined();
});

test("whoever asks another host, or by a page of another origin, gets no further, on any path and by any method", () => {
  for (const method of ["GET", "POST", "DELETE", "OPTIONS", "PUT"])
    for (const target of ["/call", "/api/mcp/files", "/hooks/a", "/", "/metrics"]) {
      for (const host of [
        "",
        "localhost",
        "evil.example:4000",
        "127.0.0.1:4001",
        "127.0.0.1",
        "127.0.0.1:4000.evil.example",
        "[::1]",
      ])
        expect([host, refused({ method, target, headers: { ...HEADERS, host } })]).toEqual([host, 421]);
      expect(refused({ method, target, headers: { authorization: HEADERS.authorization } })).toBe(421);
      for (const origin of [
        "null",
        "http://localhost",
        "https://127.0.0.1:4000",
        "http://127.0.0.1:4000.evil.example",
        "",
      ])
        expect([origin, refused({ method, target, headers: { ...HEADERS, origin } })]).toEqual([origin, 403]);
      for (const site of ["cross-site", "same-site", ""])
        expect([site, refused({ method, target, headers: { ...HEADERS, "sec-fetch-site": site } })]).toEqual([
          site,
          403,
        ]);
    }
  for (const host of ["127.0.0.1:4000", "localhost:4000", "[::1]:4000"])
    expect(
      call({ headers: { ...HEADERS, host, origin: `http://${host}`, "sec-fetch-site": "same-origin" } }).kind,
    ).toBe("call");
});

test("paths, methods and tokens", () => {
  for (const target of ["/", "/calls", "/call/", "/CALL", "/hooks", "/api/mcp", "/api/mcp/files/x"])
    expect([target, refused({ target })]).toEqual([target, 404]);
  for (const target of ["http://127.0.0.1:4000/call", "//evil.example/call", "call", "*", ""])
    expect([target, refused({ target })]).toEqual([target, 400]);
  for (const method of ["GET", "PUT", "DELETE", "OPTIONS", "HEAD", "post"]) expect(refused({ method })).toBe(405);
  expect(read({ method: "PUT" })).toMatchObject({ headers: { allow: "POST" } });
  expect(refused({ target: "/api/mcp/files" })).toBe(405);
  expect(refused({ method: "GET", target: "/api/mcp/files?count=1&count=2" })).toBe(400);
  const { host } = HEADERS;
  for (const authorization of [
    "",
    TOKEN,
    `Basic ${TOKEN}`,
    "Bearer",
    `Bearer ${TOKEN}0`,
    `Bearer ${TOKEN},`,
    `Bearer x${TOKEN.slice(1)}`,
  ])
    expect([authorization, refused({ headers: { host, authorization } })]).toEqual([authorization, 401]);
  expect(refused({ headers: { host } })).toBe(401);
  expect(call({ target: "/call?token=x" }).token).toBe(TOKEN); // a query is nothing to it
});

test("eventBytes: a delivery of as many bytes is passed on, unread, and a longer one is not", () => {
  const body = new Uint8Array(LIMITS.eventBytes.value).fill(0xff);
  const headers = { host: HEADERS.host, "x-hub-signature-256": "x" };
  expect(read({ target: "/hooks/a/b?x=1", headers, body })).toEqual({
    kind: "delivery",
    path: "/hooks/a/b",
    headers,
    body,
  });
  expect(refused({ target: "/hooks/a", headers, body: Buffer.concat([body, body.subarray(0, 1)]) })).toBe(413);
  expect(answerDelivery({ id: "e", is_new: true })).toMatchObject({ status: 202, body: '{"id":"e"}' });
  expect(answerDelivery({ id: "e", is_new: false })).toMatchObject({ status: 200, body: '{"id":"e"}' });
  expect(answerDelivery(undefined).status).toBe(403);
});

test("a result comes as it was answered, and each code has a status of an error", () => {
  const long = '{"correlation":"new","result":{"n":12345678901234567890,"f":1.0}}';
  expect(answerHttp(call(), long)).toMatchObject({
    status: 200,
    body: '{"result":{"n":12345678901234567890,"f":1.0}}',
  });
  expect(answerHttp(call({ json: { method: "a.b", id: '"\\' } }), '{"correlation":"\\"\\\\","result":1}').body).toBe(
    '{"id":"\\"\\\\","result":1}',
  );
  const list = call({ method: "GET", target: "/api/mcp/files", json: "" });
  expect(answerHttp(list, '{"correlation":"new","result":{"files":[]}}').body).toBe('{"files":[]}');
  expect(answerHttp(call(), "")).toMatchObject({ status: 204, body: "" });
  for (const [code, { retriable, stage }] of Object.entries(HOST_CODES)) {
    const error = { code, message: "why", retriable, stage, field: "a.b", retry_after: 1.2 };
    const { status, headers, body } = answerHttp(
      call({ json: { method: "a.b", id: "i" } }),
      JSON.stringify({ correlation: "i", error }),
    );
    expect(status).toBeGreaterThanOrEqual(400);
    expect(headers["retry-after"]).toBe("2");
    expect(JSON.parse(body)).toEqual({
      id: "i",
      error: `${code}: why`,
      code,
      retriable,
      stage,
      field: "a.b",
      retry_after: 1.2,
    });
  }
  const lost = unknownOutcome(call({ json: { method: "a.b", id: "i" } }));
  expect([lost.status, JSON.parse(lost.body)]).toMatchObject([
    502,
    { id: "i", code: "UNKNOWN_OUTCOME", retriable: false },
  ]);
});

test("whatever comes, it is read or refused, and refused as JSON", () => {
  const header = fc.dictionary(fc.constantFrom("host", "origin", "authorization", "sec-fetch-site"), fc.string());
  fc.assert(
    fc.property(
      fc.string(),
      fc.string(),
      header,
      fc.boolean(),
      fc.uint8Array(),
      (method, target, headers, isOurs, body) => {
        const all = isOurs
          ? { ...headers, ...HEADERS, origin: `http://${HEADERS.host}`, "sec-fetch-site": "none" }
          : headers;
        const one = readHttp(
          { method: isOurs ? "POST" : method, target: isOurs ? "/call" : target, headers: all, body },
          PORT,
          () => "c",
        );
        if ("kind" in one) expect(isOurs).toBe(true);
        else expect(JSON.parse(one.body)).toMatchObject({ code: expect.any(String), retriable: expect.any(Boolean) });
        if ("kind" in one && one.kind === "call") expect(typeof one.request).toBe("string");
      },
    ),
    { seed, numRuns: 2000 },
  );
});
