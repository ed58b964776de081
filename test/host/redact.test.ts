/** What leaves a plugin holds nothing of its credentials, however they are written, and nothing that looks like one. */
import { expect, test } from "bun:test";
import fc from "fast-check";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { REDACTED, Redactor, type Redacted } from "../../src/host/redact.ts";
import { LIMITS } from "../../contract/limits.ts";
import { seed } from "../seed.ts";

const SECRET = 'Zq7/"k+ä&<x>%41 9w\\=v';
const bytesOf = (text: string): Buffer => Buffer.from(text);
const percent = (text: string): string =>
  [...bytesOf(text)].map((byte) => `%${byte.toString(16).padStart(2, "0")}`).join("");
const units = (text: string): number[] => Array.from({ length: text.length }, (_, at) => text.charCodeAt(at));
const hex4 = (unit: number): string => unit.toString(16).padStart(4, "0");
const html = (text: string): string =>
  text
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;")
    .replaceAll("'", "&#39;");

/** What an encoder makes of it, within a text that is not encoded. */
const ENCODINGS: Record<string, (text: string) => string> = {
  "as it is": (text) => text,
  JSON: (text) => JSON.stringify(text).slice(1, -1),
  "JSON in JSON": (text) => JSON.stringify(JSON.stringify(text).slice(1, -1)).slice(1, -1),
  "JSON in ASCII": (text) =>
    JSON.stringify(text)
      .slice(1, -1)
      .replaceAll(/[^\x20-\x7e]/g, (unit) => `\\u${hex4(unit.charCodeAt(0))}`),
  "JSON with escaped slashes": (text) => JSON.stringify(text).slice(1, -1).replaceAll("/", "\\/"),
  "\\u of each character": (text) =>
    units(text)
      .map((unit) => `\\u${hex4(unit).toUpperCase()}`)
      .join(""),
  "\\x of each byte": (text) => [...bytesOf(text)].map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join(""),
  "a URL's component": encodeURIComponent,
  "a URL's component with small digits": (text) =>
    encodeURIComponent(text).replaceAll(/%../g, (escape) => escape.toLowerCase()),
  "a form": (text) => new URLSearchParams({ "": text }).toString().slice(1),
  "a URL, twice": (text) => encodeURIComponent(encodeURIComponent(text)),
  "percent of each byte": percent,
  HTML: html,
  "HTML by numbers": (text) =>
    Array.from(text)
      .map((char) => `&#${char.codePointAt(0)!};`)
      .join(""),
  "HTML by hex numbers": (text) =>
    Array.from(text)
      .map((char) => `&#x${char.codePointAt(0)!.toString(16)};`)
      .join(""),
  "JSON in HTML": (text) => html(JSON.stringify(text).slice(1, -1)),
  hex: (text) => bytesOf(text).toString("hex"),
  HEX: (text) => bytesOf(text).toString("hex").toUpperCase(),
  base64: (text) => bytesOf(text).toString("base64"),
  base64url: (text) => bytesOf(text).toString("base64url"),
  "base64 in a URL": (text) => encodeURIComponent(bytesOf(text).toString("base64")),
  "base64 of JSON": (text) => bytesOf(JSON.stringify(text).slice(1, -1)).toString("base64"),
  "wrapped base64": (text) => bytesOf(text).toString("base64").replaceAll(/.{7}/g, "$&\r\n"),
  "wrapped base64 in JSON": (text) => bytesOf(text).toString("base64").replaceAll(/.{7}/g, "$&\\n"),
  reversed: (text) => Array.from(text).toReversed().join(""),
};

const redactor = (credential: string): Redactor => new Redactor({ "p.key": credential });
const valueOf = ({ value }: Redacted): unknown => value;

/** Whatever may be one: no white space at its ends, which is cut off when it is read from a file. */
const credentials = fc
  .oneof(
    fc.string({ unit: "grapheme", minLength: 8, maxLength: 40 }),
    fc.string({ unit: "binary-ascii", minLength: 8, maxLength: 90 }),
    fc.string({ unit: fc.constantFrom("a", "b"), minLength: 8, maxLength: 12 }),
    fc.string({
      unit: fc.constantFrom("%", "4", "1", "&", "#", ";", "\\", "u", "x", "/", '"'),
      minLength: 8,
      maxLength: 20,
    }),
    fc.base64String({ minLength: 8, maxLength: 64 }),
  )
  .filter((text) => text.length >= 8 && text === text.trim() && !/[\r\n]/.test(text) && !"[redacted]".includes(text));

test.each(Object.keys(ENCODINGS))("nothing of a credential is left: %s", (name) => {
  const encode = ENCODINGS[name]!;
  const check = (credential: string): void => {
    const { value, found } = redactor(credential).value({ a: [1, `»${encode(credential)}«`] });
    expect(value).toEqual({ a: [1, `»${REDACTED}«`] });
    expect(found).toEqual([{ path: "a.1", what: "the credential p.key" }]);
    expect(valueOf(redactor(credential).value({ [`»${encode(credential)}«`]: 1 }))).toEqual({ [`»${REDACTED}«`]: 1 });
  };
  check(SECRET);
  fc.assert(fc.property(credentials, check), { seed, numRuns: 150 });
});

type Case = { readonly name: string; readonly credential: string; readonly value: unknown; readonly clean: unknown };

test("each case is as plugins in Python have it", () => {
  const cases = JSON.parse(readFileSync(join(import.meta.dir, "../vectors/redact.json"), "utf8")) as Case[];
  expect(cases.length).toBeGreaterThan(100);
  for (const { name, credential, value, clean } of cases)
    expect([name, valueOf(redactor(credential).value(value))]).toEqual([name, clean]);
});

test("base64 of something longer is found at each alignment, with the characters at its edges", () => {
  const surroundings = fc.string({ unit: "binary-ascii", maxLength: 7 });
  fc.assert(
    fc.property(credentials, surroundings, surroundings, fc.boolean(), (credential, before, after, isUrl) => {
      const encoded = bytesOf(before + credential + after).toString(isUrl ? "base64url" : "base64");
      const text = valueOf(redactor(credential).value(encoded)) as string;
      expect(text).toContain(REDACTED);
      const [head = "", tail = ""] = text.split(REDACTED);
      // What is left does not depend on the credential.
      const other = bytesOf(before + "\0".repeat(bytesOf(credential).length) + after).toString(
        isUrl ? "base64url" : "base64",
      );
      expect(other.startsWith(head) && other.endsWith(tail)).toBe(true);
    }),
    { seed },
  );
});

test.each(["as it is", "hex", "base64", "a URL's component", "HTML by numbers", "reversed"])(
  "a credential that is split over neighbouring fields leaves all of them: %s",
  (name) => {
    fc.assert(
      fc.property(credentials, fc.nat(), fc.nat(), (credential, one, two) => {
        // The last character of base64 may hold two bits of it, which say nothing by themselves.
        const text = ENCODINGS[name]!(credential).replace(name === "base64" ? /.=+$/ : /$^/, "");
        const [first = 0, second = 0] = [one % text.length, two % text.length].toSorted((a, b) => a - b);
        const pieces = [text.slice(0, first), text.slice(first, second), text.slice(second)] as const;
        const gone = pieces.map((piece) => (piece === "" ? "" : REDACTED));
        const redact = redactor(credential);
        expect(valueOf(redact.value(pieces))).toEqual(gone);
        const rows = (a: unknown, b: unknown, c: unknown): unknown => [{ "☃": a, n: null }, { "☃": b }, [{ "☃": c }]];
        expect(valueOf(redact.value(rows(...pieces)))).toEqual(rows(...(gone as [string, string, string])));
        const keys = pieces.filter((piece) => piece !== "");
        if (new Set(keys).size === keys.length && !keys.some((key) => /^\d+$/.test(key))) {
          const { value } = redact.value(Object.fromEntries(keys.map((key) => [key, null])));
          expect(Object.keys(value as object).every((key) => key.startsWith(REDACTED))).toBe(true);
        }
        if (pieces[0] !== "")
          expect(valueOf(redact.value({ [pieces[0]]: text.slice(first) }))).toEqual({ [REDACTED]: REDACTED });
      }),
      { seed, numRuns: 60 },
    );
  },
);

test.each(["as it is", "hex", "reversed"])("one that is split over any two fields leaves both: %s", (name) => {
  fc.assert(
    fc.property(credentials, fc.nat(), fc.boolean(), (credential, cut, isTurned) => {
      const text = ENCODINGS[name]!(credential);
      const at = 4 + (cut % (text.length - 7));
      const halves = [`☃${text.slice(0, at)}`, `${text.slice(at)}☃`] as const;
      const gone = [`☃${REDACTED}`, `${REDACTED}☃`] as const;
      const between = (a: string, b: string): unknown => ({ x: { a }, y: ["☂☂☂", 1, null], z: [{ b, c: "☂" }] });
      const value = isTurned ? between(halves[1], halves[0]) : between(...halves);
      expect(valueOf(redactor(credential).value(value))).toEqual(
        isTurned ? between(gone[1], gone[0]) : between(...gone),
      );
    }),
    { seed },
  );
  const half = { a: "hunter2h", b: "unter", c: "x unter2" };
  expect(valueOf(redactor("hunter2hunter2").value(half))).toBe(half);
});

test.each(["as it is", "hex", "percent of each byte"])("and over the items of a stream: %s", (name) => {
  const items = fc.array(fc.nat(), { maxLength: 5 });
  fc.assert(
    fc.property(credentials, items, fc.boolean(), (credential, cuts, isRow) => {
      const text = ENCODINGS[name]!(credential);
      const places = [0, ...cuts.map((cut) => cut % text.length), text.length].toSorted((a, b) => a - b);
      const pieces = places.slice(1).map((end, index) => text.slice(places[index], end));
      const sent = ["☃", ...pieces, "☃☃"].map((piece) => (isRow ? { x: piece, y: 1 } : piece));
      const stream = redactor(credential).stream();
      const left = [...sent.flatMap((item) => stream.push(item)), ...stream.end()].map(({ value }) =>
        isRow ? (value as { x: string }).x : (value as string),
      );
      expect(left.length).toBe(sent.length);
      expect([left[0], left.at(-1)]).toEqual(["☃", "☃☃"]);
      // What left before there were four characters of it may be seen; nothing else.
      const seen = left.slice(1, -1).join("").replaceAll(REDACTED, "");
      expect(seen.length).toBeLessThan(name === "percent of each byte" ? 48 : 4);
      expect(text.startsWith(seen)).toBe(true);
    }),
    { seed, numRuns: 100 },
  );
});

test("an item of a stream leaves at once, unless it ends as a credential begins", () => {
  const stream = redactor("correct-horse").stream();
  const texts = (some: Redacted[]): unknown[] => some.map(valueOf);
  expect(texts(stream.push("a cor"))).toEqual(["a cor"]);
  expect(texts(stream.push("rect"))).toEqual([]);
  expect(texts(stream.push("-ho"))).toEqual([]);
  expect(texts(stream.push("rse x"))).toEqual([REDACTED, REDACTED, `${REDACTED} x`]);
  expect(texts(stream.push({ row: "the correct" }))).toEqual([]);
  expect(texts(stream.push({ row: "answer" }))).toEqual([{ row: "the correct" }, { row: "answer" }]);
  expect(texts(stream.push("corre"))).toEqual([]);
  expect(texts(stream.end())).toEqual(["corre"]);
});

test("streamItems: as many items wait, and with one more what has begun is taken out", () => {
  const stream = redactor("correct-horse").stream();
  const left = ["correct", ...Array(LIMITS.streamItems.value - 1).fill("")].flatMap((item) => stream.push(item));
  expect(left).toEqual([]);
  expect(stream.push("").map(valueOf)).toHaveLength(LIMITS.streamItems.value + 1);
});

test("a credential of digits is found where it is a number, and other numbers do not separate the parts of one", () => {
  const one = redactor("1234567890123456789");
  expect(valueOf(one.json('{"a":1234567890123456789,"b":[123456789,0]}'))).toBe('{"a":"[redacted]","b":[123456789,0]}');
  expect(valueOf(redactor("hunter2hunter2").value(["hunter2", 5, "hunter2"]))).toEqual([REDACTED, 5, REDACTED]);
  expect(valueOf(redactor("12345678").value([1234, 5678, 9]))).toEqual([REDACTED, REDACTED, 9]);
});

test("a credential from a file is found without its last newline, and a key file by its lines", () => {
  expect(valueOf(redactor("hunter2hunter2\n").text("is hunter2hunter2!"))).toBe(`is ${REDACTED}!`);
  const key = "-----BEGIN X-----\nMIIEvQIBADANBgkqhkiG9w0BAQ\nEFAASCBKcwggSjAgEAAoIBAQ\n-----END X-----\n";
  expect(valueOf(redactor(key).text("MIIEvQIBADANBgkqhkiG9w0BAQ, -----END X-----"))).toBe(
    `${REDACTED}, -----END X-----`,
  );
});

test("of several credentials each is named, the longest first", () => {
  const one = new Redactor({ short: "abcdefgh", long: "abcdefghijkl", other: "zyxwvuts" });
  expect(one.value({ x: "abcdefghijkl", y: "abcdefgh zyxwvuts" })).toEqual({
    value: { x: REDACTED, y: `${REDACTED} ${REDACTED}` },
    found: [
      { path: "x", what: "the credential long" },
      { path: "y", what: "the credential short" },
      { path: "y", what: "the credential other" },
    ],
  });
});

test("the path tells nothing either, and a value that is clean comes back as it is", () => {
  const { value, found } = redactor("hunter2hunter2").value({
    rows: [{ "x.hunter2hunter2": { y: "hunter2hunter2" } }],
  });
  expect(value).toEqual({ rows: [{ [`x.${REDACTED}`]: { y: REDACTED } }] });
  expect(found.map(({ path }) => path)).toEqual([`rows.0.x.${REDACTED}`, `rows.0.x.${REDACTED}.y`]);
  const clean = { a: ["x", 1, null, true, { b: "hunter" }] };
  expect(valueOf(redactor("hunter2hunter2").value(clean))).toBe(clean);
  const text = '{"a": "x\\u0041" }';
  expect(valueOf(redactor("hunter2hunter2").json(text))).toBe(text);
  expect(valueOf(redactor("hunter2hunter2").json('{"__proto__":{"a":"hunter2hunter2"}}'))).toBe(
    '{"__proto__":{"a":"[redacted]"}}',
  );
});

const DIGITS = "0123456789abcdefABCDEF0123456789abcdefABCDEF0123456789abcdefABCDEF0123456789abcdef";
const [d20, d32, d40] = [20, 32, 40].map((count) => DIGITS.slice(0, count)) as [string, string, string, string];
const PEM = (kind: string): string => `-----BEGIN ${kind}-----\nMHcCAQEE\nIIrYS\n-----END ${kind}-----`;

test.each([
  ["Bearer abcdefgh12345678", "Bearer [redacted]"],
  ["authorization: Basic dXNlcjpwYXNz", "authorization: Basic [redacted]"],
  ["'Authorization': 'token abcdefgh1234'", "'Authorization': 'token [redacted]'"],
  ["X eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk X", "X [redacted] X"],
  [`k ${PEM("PRIVATE KEY")} k`, "k [redacted] k"],
  [PEM("EC PRIVATE KEY"), REDACTED],
  [PEM("RSA PRIVATE KEY"), REDACTED],
  [PEM("OPENSSH PRIVATE KEY"), REDACTED],
  [PEM("ENCRYPTED PRIVATE KEY"), REDACTED],
  [PEM("PGP PRIVATE KEY BLOCK"), REDACTED],
  [PEM("EC PRIVATE KEY").replaceAll("\n", "\\n"), REDACTED],
  ["-----BEGIN EC PRIVATE KEY-----\ncut off", REDACTED],
  ["postgres://me:hunter2@db:5432/x", "postgres://me:[redacted]@db:5432/x"],
  ["mongodb+srv://me:p%40ss@h/x", "mongodb+srv://me:[redacted]@h/x"],
  ["redis://:hunter2@h:6379", "redis://:[redacted]@h:6379"],
  ["host=db user=me password=hunter2 dbname=x", "host=db user=me password=[redacted] dbname=x"],
  ["Server=db;Uid=me;Pwd=hun ter2", "Server=db;Uid=me;Pwd=[redacted] ter2"],
  [`AccountName=a;AccountKey=${d40}==;x=1`, "AccountName=a;AccountKey=[redacted];x=1"],
  ['{"access_token":"abcd1234efgh","expires_in":3600}', '{"access_token":"[redacted]","expires_in":3600}'],
  ["code=1&refresh_token=abcd1234efgh&x=1", "code=1&refresh_token=[redacted]&x=1"],
  [`aws_secret_access_key = ${d40}`, "aws_secret_access_key = [redacted]"],
  ...[
    ...[`sk-${d20}`, `sk-proj-${d40}_-x`, `sk-ant-api03-${d40}-AA`, `sk_live_${d20}`, `rk_test_${d20}`, `gsk_${d40}`],
    ...["AKIAIOSFODNN7EXAMPLE", `ghp_${d32}ABCD`, `gho_${d32}ABCD`, `github_pat_${d20}_${d40}`, `glpat-${d20}`],
    ...[`xoxb-123456789012-${d20}`, `xapp-1-A0-${d20}`, `AIza${d32}abc`, `ya29.${d40}`, `GOCSPX-${d20}abcdefgh`],
    ...[`npm_${d32}abcd`, `pypi-${d40}${d20}`, `hf_${d32}`, `dop_v1_${d32}${d32}`.toLowerCase(), `SG.${d20}.${d40}`],
    ...[`hvs.${d32}`, `glsa_${d32}`, `shpat_${d32}`, `whsec_${d32}`, `dapi${d32.toLowerCase()}`, `123456789:AA${d32}a`],
  ].map((key) => [`is ${key}, says it`, "is [redacted], says it"]),
] as [string, string][])("%s is recognised", (text, redacted) => {
  const { value, found } = new Redactor().text(text);
  expect(value).toBe(redacted);
  expect(found.length).toBe(1);
  expect(valueOf(new Redactor().value([{ [text]: text }]))).toEqual([{ [redacted]: redacted }]);
});

test("a key file is recognised line by line too, and where its end is missing what follows stays", () => {
  const lines = PEM("OPENSSH PRIVATE KEY").split("\n");
  const [gone, rows] = [
    [...lines.map(() => REDACTED), "x"],
    [...lines, "x"],
  ];
  const redact = new Redactor();
  expect(valueOf(redact.value({ a: rows }))).toEqual({ a: gone });
  expect(valueOf(redact.value(rows.map((line, n) => ({ line, n }))))).toEqual(gone.map((line, n) => ({ line, n })));
  expect(valueOf(redact.value(rows.slice(0, 1).concat("x")))).toEqual([REDACTED, "x"]);
});

test("a field that is called a token holds one", () => {
  expect(
    valueOf(new Redactor().value({ access_token: "short", clientSecret: "x", token_type: "Bearer", id_token: 5 })),
  ).toEqual({
    ...{ access_token: REDACTED, clientSecret: REDACTED, token_type: "Bearer", id_token: 5 },
  });
});

test.each([
  ...["3f786850-e387-4ff1-9c1c-5a9d2ea9c3a1", d40, `${d32}${d32}`, `data:image/png;base64,iVBORw0KGgo${d40}==`],
  ...["https://registry.example:443/@scope/x", "http://[::1]:80/a@b", "the bearer of bad news", "basic usage", "a://b"],
  ...["sk-toggleable__label-arrow sk-estimator-doc-link", "risk-management-framework-implementation-1", "task_1"],
  ...[
    "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
    "-----BEGIN CERTIFICATE-----",
    "eyJ is base64 of {",
  ],
  ...["token: none", "select password from users", "Token count: 123456789", "12:30:00 AAPL", "key-value", "account=7"],
])("%s is the worker's, and stays", (text) => {
  const value = { text, [text]: [text] };
  expect(valueOf(redactor("hunter2hunter2").value(value))).toBe(value);
});

/** Time of the processor: what else runs on the machine does not count. What grows with the square takes minutes. */
const MOST_SECONDS = 8;

test.each([
  ...["eyJ-", "eyJaaaaaaaaa.", "bearer ", "bearer  + ", "://a:", "sk-", "-----BEGIN PRIVATE KEY", 'password="'],
  ...["-----BEGIN PRIVATE KEY-----", "access_token", "%25", "%63", "\\\\u", "&amp;", "corr", "correct-hors", "\n", "a"],
])("no text makes it slow: %j", (mark) => {
  const count = Math.floor(LIMITS.hostMessageBytes.value / 4 / mark.length);
  const one = redactor("correct-horse");
  const before = process.cpuUsage();
  one.value({ text: mark.repeat(count) });
  one.value(Array(Math.min(count, 50_000)).fill(mark));
  one.value(Object.fromEntries(Array.from({ length: 20_000 }, (_, at) => [`${mark}${10_000_000 + at}`, { at }])));
  const { user, system } = process.cpuUsage(before);
  expect((user + system) / 1e6).toBeLessThan(MOST_SECONDS);
});

test("many names that become alike still differ", () => {
  const names = Object.fromEntries(Array.from({ length: 20_000 }, (_, at) => [`Bearer ${10_000_000 + at}`, 1]));
  expect(Object.keys(valueOf(new Redactor().value(names)) as object)).toHaveLength(20_000);
});
