import { expect, test } from "bun:test";
import { parseRequest } from "../../src/protocol/requests.ts";

const parse = (text: string) => parseRequest(Buffer.from(text));

test.each([
  ['{"Start":{"name":"api","config":"{}"}}', { tag: "Start", name: "api", config: "{}" }],
  ['{"Stop":{"name":"api"}}', { tag: "Stop", name: "api" }],
  ['{"Restart":{"name":"api"}}', { tag: "Restart", name: "api" }],
  ['{"Delete":{"name":"api"}}', { tag: "Delete", name: "api" }],
  ['{"Status":{"name":null}}', { tag: "Status", name: null }],
  ['{"Status":{}}', { tag: "Status", name: null }],
  ['{"Status":{"name":"api"}}', { tag: "Status", name: "api" }],
  ['"List"', { tag: "List" }],
  ['{"List":null}', { tag: "List" }],
  ['{"Logs":{"name":"api","lines":20}}', { tag: "Logs", name: "api", lines: 20 }],
  ['{"Logs":{"lines":5}}', { tag: "Logs", name: null, lines: 5 }],
  [
    '{"Subscribe":{"subscription":{"StatusEvents":{"app_name":null}}}}',
    { tag: "Subscribe", subscription: { kind: "status", app: null } },
  ],
  ['{"Subscribe":{"subscription":{"LogEvents":{}}}}', { tag: "Subscribe", subscription: { kind: "logs", app: null } }],
  [
    '{"Subscribe":{"subscription":{"AllEvents":{"app_name":"api"}}}}',
    { tag: "Subscribe", subscription: { kind: "all", app: "api" } },
  ],
  ['"Unsubscribe"', { tag: "Unsubscribe" }],
  ['{"Stop":["api"]}', { tag: "Stop", name: "api" }],
  ['{"Stop":{"name":"api","extra":[1,{"a":2}]}}', { tag: "Stop", name: "api" }],
  [' \n{"Stop" : {"name":"a\\"b"}} ', { tag: "Stop", name: 'a"b' }],
])("%s is accepted as serde accepts it", (text, expected) => {
  expect(parse(text)).toEqual(expected as ReturnType<typeof parse>);
});

test.each([
  ["", "empty message"],
  ['{"Nope":{}}', "unknown request"],
  ['"Stop"', "needs its fields"],
  ['{"Stop":{"name":"a"},"List":null}', "exactly one key"],
  ['{"Stop":{"name":"a","name":"b"}}', 'duplicate field "name"'],
  ['{"Stop":{"name":"a"},"Stop":{"name":"b"}}', 'duplicate field "Stop"'],
  ['{"Stop":{"name":5}}', "Stop.name"],
  ['{"Stop":{}}', "Stop.name"],
  ['{"Stop":["a","b"]}', "1 elements"],
  ['{"Logs":{"lines":-1}}', "Logs.lines"],
  ['{"Logs":{"lines":1.5}}', "Logs.lines"],
  ['{"List":{}}', "carries no fields"],
  ['"List" x', "not JSON"],
  ["[]", "not an array"],
  ["null", "not null"],
])("%s is refused by name", (text, why) => {
  expect(() => parse(text)).toThrow(why);
});

test("bytes that are not UTF-8 are refused", () => {
  expect(() => parseRequest(Uint8Array.of(0x22, 0xff, 0x22))).toThrow("not UTF-8");
});
