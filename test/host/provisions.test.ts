/** What the router keeps of programs that provide tools, without any of them. */
import { expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import { IpcError } from "../../src/base/errors.ts";
import { CORE_TOOLS, runCore } from "../../src/host/core-tools.ts";
import { Grants } from "../../src/host/host-tools.ts";
import type { Session } from "../../src/host/pipeline.ts";
import { parseTools } from "../../src/host/manifest.ts";
import { shippedManifests } from "../../src/host/shipped-manifests.ts";
import { skillOf } from "../../src/host/skills.ts";
import { parseRequest } from "../../src/protocol/requests.ts";
import { Provisions } from "../../src/router/provisions.ts";

const arguments_schema = { type: "object", properties: {}, additionalProperties: false };
const offer = (name: string, whose: { readonly owner?: number; readonly groups?: readonly string[] }) => ({
  ...{ name, owner: whose.owner ?? null, groups: whose.groups ?? [] },
  tools: [
    { name: "list", description: `of ${whose.owner ?? whose.groups?.join(",")}`, risk_level: "low", arguments_schema },
  ],
});
const session = (group: string, owner?: number): Session => ({
  ...{ worker: "w", id: "w.1", group, owner, grants: new Grants(["*"]), approvalMs: 1 },
  policy: { name: "strict", digest: "" },
});
const codeOf = (work: () => unknown): string => {
  try {
    work();
  } catch (error) {
    return (error as IpcError).code;
  }
  return "none";
};
const answerTo = (tool: string, facts: object, args: object): unknown =>
  runCore(CORE_TOOLS.get(tool)!, facts as never, args as never);
const none = (): boolean => false;

test("a session sees what its owner provides before what is for its group, and nothing of others", () => {
  const provisions = new Provisions(() => undefined);
  provisions.restore([
    offer("notes", { groups: ["web", "shop"] }),
    offer("notes", { owner: 7 }),
    offer("mail", { groups: ["shop"] }),
    { name: "of another version" },
  ]);
  const seen = (of: Session): string[] =>
    provisions.all(of).map(({ manifest }) => `${manifest.name} ${manifest.description}`);
  expect(seen(session("web"))).toEqual(["notes.list of web,shop"]);
  expect(seen(session("web", 7))).toEqual(["notes.list of 7"]);
  expect(seen(session("shop", 8))).toEqual(["notes.list of web,shop", "mail.list of shop"]);
  expect(seen(session("none"))).toEqual([]);
  expect(provisions.find(session("web"), "mail.list")).toBeUndefined();
  const found = provisions.find(session("shop"), "mail.list")!;
  expect(provisions.providerOf(found)).toMatchObject({ state: "idle" });
  expect(provisions.providerOf({ ...found })).toBeUndefined(); // it is known by itself, not by its name
});

test("a name that reads like another one is refused; a plugin that comes takes it", () => {
  const provisions = new Provisions(() => undefined);
  provisions.restore([offer("my_notes", { groups: ["web"] })]);
  expect(codeOf(() => provisions.offer("a", offer("mynotes", { groups: ["other"] }), none))).toBe("FAILED");
  expect(codeOf(() => provisions.offer("a", offer("files", { owner: 1 }), () => true))).toBe("FAILED");
  expect(codeOf(() => provisions.offer("a", { name: "x" }, none))).toBe("BAD_REQUEST");
  expect(provisions.isOffered("a")).toBe(false);
  expect(codeOf(() => provisions.offer("a", offer("other", { owner: 1 }), none))).toBe("none");
  expect(provisions.isOffered("a")).toBe(true);
  provisions.yield("mynotes");
  expect(provisions.all(session("web"))).toEqual([]);
});

test("a tool that brings tables is for plugins only", () => {
  const tool = { name: "list", description: "x", risk_level: "low", idempotent: true };
  const parse = (more: object) => (): unknown =>
    parseTools("notes", [{ ...tool, arguments_schema: { type: "object", additionalProperties: false }, ...more }]);
  expect(codeOf(parse({ tables: true }))).toBe("BAD_CONFIG");
  expect(codeOf(parse({ tables: false, results: "external" }))).toBe("none");
});

test("provisions: as many as the limit, and one more is refused", () => {
  const most = LIMITS.provisions.value;
  const provisions = new Provisions(() => undefined);
  const some = Array.from({ length: most }, (_, at) => offer(`notes${at}`, { owner: 1 }));
  provisions.restore(some.slice(1));
  expect(codeOf(() => provisions.offer("a", some[0], none))).toBe("none");
  provisions.restore(some.slice(0, 1));
  expect(codeOf(() => provisions.offer("b", offer("more", { owner: 1 }), none))).toBe("LIMIT");
});

test("provisionGroups: as many as the limit, and one more is refused", () => {
  const most = LIMITS.provisionGroups.value;
  const ask = (count: number): string =>
    codeOf(() =>
      parseRequest(
        Buffer.from(JSON.stringify({ PluginProvide: { name: "a", tools: [], groups: Array(count).fill("g") } })),
      ),
    );
  expect([ask(1), ask(most), ask(most + 1), ask(0)]).toEqual(["none", "none", "BAD_REQUEST", "BAD_REQUEST"]);
});

test("skillBytes: of a program as many, and one more is refused", () => {
  const ask = (bytes: number): string =>
    codeOf(() =>
      parseRequest(
        Buffer.from(JSON.stringify({ PluginProvide: { name: "a", tools: [], skill: `é${"x".repeat(bytes - 2)}` } })),
      ),
    );
  const most = LIMITS.skillBytes.value;
  expect([ask(most), ask(most + 1)]).toEqual(["none", "BAD_REQUEST"]);
});

test("every plugin that comes with ipcctl says when to call its tools", () => {
  const names = [...shippedManifests().keys()];
  const textOf = (name: string): string =>
    readFileSync(join(import.meta.dir, "../../plugins", name, "skills", `${name}.md`), "utf8");
  expect(names.map((name) => skillOf(name, undefined))).toEqual(names.map(textOf));
});

test("skillBytes: a text of as many bytes is told whole, and a longer one is cut", () => {
  const folder = mkdtempSync(join(tmpdir(), "ipcctl-skills-"));
  try {
    expect(skillOf("mail", folder)).toBeUndefined();
    mkdirSync(join(folder, "skills"));
    const most = LIMITS.skillBytes.value;
    for (const [text, told] of [
      ["x".repeat(most), "x".repeat(most)],
      [`x${"é".repeat(most / 2)}`, `x${"é".repeat(most / 2 - 1)}`],
    ] as const) {
      writeFileSync(join(folder, "skills/mail.md"), text);
      expect(skillOf("mail", folder)).toBe(told);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test("skill texts come in pages, of granted plugins only, each once", () => {
  const names = Array.from({ length: 40 }, (_, at) => `plugin${at}`).toSorted();
  const text = "\u0001".repeat(10_000);
  const tools = ["core", ...names, ...names].map((plugin) => ({ plugin }));
  const facts = { tools, skillOf: (plugin: string) => (plugin === "core" ? undefined : `${plugin} ${text}`) };
  const found: string[] = [];
  for (let after: string | null = ""; after !== null;) {
    const page = answerTo("core.get_skills", facts, { after }) as {
      skills: Record<string, string>;
      next: string | null;
    };
    expect(JSON.stringify(page).length).toBeLessThan(LIMITS.hostMessageBytes.value);
    found.push(...Object.keys(page.skills));
    after = page.next;
  }
  expect(found).toEqual(names);
});
