/** `ipcctl types`: declarations from annotations, checked by the compiler against a program that uses them. */
import { expect, test } from "bun:test";
import { existsSync, mkdirSync, statSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { Home, ROOT } from "../home.ts";

const SCRIPT = `
import ipcctl
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Literal, NotRequired, Optional, TypedDict
raise SystemExit("it must not be run")

@ipcctl.expose
def greet(name: str, times: int = 1, mood: Literal["warm", "cold"] = "warm") -> list[str]:
    """Says hello."""

@ipcctl.expose(name="look_up")
async def find(key: "str | None", table: dict[str, list[float]], *rest: bytes) -> Optional[tuple[int, str]]: ...

@ipcctl.expose
def rows(source: AsyncIterator[int]) -> Iterator[dict[int, set[str]]]: ...

class Named(TypedDict):
    name: str

class Row(Named, total=False):
    size: NotRequired[int]
    inside: "list[Row]"

class Record(TypedDict):
    price: Decimal

@ipcctl.expose
def records(like: Row) -> Iterator[Row]: ...

@ipcctl.expose
def find_record(query: str, /, size: int = 1, *, order: Literal["up", "down"] = "up") -> Record: ...

@ipcctl.expose
def must(*, price: float, **rest) -> timedelta: ...

@ipcctl.expose
def words(default: int, /, function=1, *this: str) -> dict[UUID, int]: ""

if "a":
    @ipcctl.expose
    def twice(a: str): ...
else:
    @ipcctl.expose
    def twice(a: int): ...

class Loose(TypedDict, total=False):
    a: ReadOnly[Required[int]]
    b: "Required[int]"
    c: "int"

class Strict(TypedDict):
    a: Annotated[NotRequired[int], "x y"]

@ipcctl.expose
def odd(x: NDArray[Shape["*, 3 rgb"], int], y: Literal[b"a"], z: Literal[-1, None, True]) -> dict[Literal["a", "b"], "some prose"]: ...

def hidden(): ...
`;

test("annotations become types, and the compiler holds a program to them", async () => {
  await using home = new Home();
  home.script("worker.py", SCRIPT);
  const { stdout, stderr, status } = await home.cli("types", "worker.py");
  expect({ stderr, status }).toEqual({ stderr: "", status: 0 });
  expect(stdout).toContain("/** Says hello. */");
  expect(stdout).toContain('greet: (name: string, times?: number | bigint, mood?: "warm" | "cold") => string[];');
  expect(stdout).toContain(
    "look_up: (key: string | null, table: Record<string, number[]>, ...rest: (Uint8Array)[]) => [number, string] | null;",
  );
  expect(stdout).toContain(
    "rows: (source: AsyncIterable<number | bigint>) => AsyncIterableIterator<Map<number, Set<string>>>;",
  );
  expect(stdout).toContain(`
export interface Named {
  name: string;
}
export interface Row extends Named {
  size?: number;
  inside?: Row[];
}
export interface Record_ {
  price: string;
}
`);
  expect(stdout).toContain("records: (like: Row) => AsyncIterableIterator<Row>;");
  expect(stdout).toContain(
    'find_record: ((query: string, size?: number | bigint) => Record_) & { readonly kwargs?: { size?: number | bigint; order?: "up" | "down" } };',
  );
  expect(stdout).toContain("must: (() => number) & { readonly kwargs: { price: number; [name: string]: unknown } };");
  expect(stdout).toContain(
    "  words: (default_: number | bigint, function_?: unknown, ...this_: (string)[]) => Map<string, number>;",
  );
  expect(stdout).toContain("twice: (a: number | bigint) => unknown;");
  expect(stdout).not.toContain("twice: (a: string)");
  expect(stdout).toContain("Loose {\n  a: number;\n  b: number;\n  c?: number;\n}");
  expect(stdout).toContain("Strict {\n  a?: number;\n}");
  expect(stdout).toContain("odd: (x: unknown, y: unknown, z: -1 | null | true) => Record<string, unknown>;");
  expect(stdout).not.toContain("hidden");
  home.script("worker.d.ts", stdout);
  // A checkout has the types of the package once it was packed.
  const [types, built] = [join(ROOT, "build/js/ipcctl.d.ts"), join(ROOT, "build/js/main.js")];
  if (!existsSync(types) || statSync(types).mtimeMs < statSync(built).mtimeMs)
    Bun.spawnSync([process.execPath, "--no-env-file", join(ROOT, "scripts/types.ts")]);
  mkdirSync(join(home.dir, "node_modules/@types"), { recursive: true });
  symlinkSync(ROOT, join(home.dir, "node_modules/ipcctl"));
  symlinkSync(join(ROOT, "node_modules/@types/bun"), join(home.dir, "node_modules/@types/bun"));
  home.script(
    "tsconfig.json",
    JSON.stringify({
      compilerOptions: {
        target: "ESNext",
        module: "Preserve",
        lib: ["ESNext"],
        types: ["bun"],
        strict: true,
        noEmit: true,
        allowImportingTsExtensions: true,
        skipLibCheck: true,
      },
      include: ["good.ts", "bad.ts"],
    }),
  );
  const program = (body: string): string =>
    `import { connect } from "ipcctl";\nimport type { Worker } from "./worker.d.ts";\nawait using ipc = await connect();\nconst py = await ipc.start<Worker>("worker.py");\n${body}\nexport {};\n`;
  home.script(
    "good.ts",
    program(`const said: string[] = await py.call("greet", "you", 2, "cold");
for await (const row of py.stream("rows", (async function* () { yield 1; })())) row.get(1)!.has(said[0]!);
for await (const row of py.stream("records", { name: "a" })) row.inside?.[0]!.name.trim();
const found: string = (await py.callWith("find_record", ["a"], { kwargs: { size: 2, order: "down" } })).price;
const seconds: number = await py.callWith("must", [], { kwargs: { price: 1, more: found }, timeout: 100 });
await py.callWith("greet", ["you"], { kwargs: { times: seconds } });
const untyped = await ipc.worker("any");
await untyped.callWith("thing", [1], { kwargs: { a: 1 } });
const sum = await untyped.call<number>("add", 2, 3);
for await (const name of untyped.stream<string>("names", sum.toFixed())) name.trim();
(await untyped.eval<string[]>("['a']")).concat(await untyped.call<string>("name"), untyped.callSync<string>("name"));
await ipc.start("b.py", { restart_policy: "no" });`),
  );
  const wrong = [
    'await py.call("greet", 7);',
    'await py.call("hidden");',
    'await py.callWith("find_record", ["a"], { kwargs: { order: "sideways" } });',
    '(await (await ipc.worker("any")).call("add", 2, 3)).toFixed();',
    'await py.call<number>("hidden");',
    'await py.callWith("must", []);',
    'await py.callWith("must", [], { kwargs: {} });',
    'await ipc.start("b.py", { restart_policy: "sometimes" });',
  ];
  home.script("bad.ts", program(wrong.join("\n")));
  const check = Bun.spawnSync([process.execPath, "check"], { cwd: home.dir });
  const said = check.stdout.toString() + check.stderr.toString();
  for (const [index] of wrong.entries()) expect(said).toContain(`bad.ts(${5 + index},`);
  expect(said).not.toMatch(/good\.ts|worker\.d\.ts/);
  expect((await home.cli("types", "nope.py")).status).toBe(4);
  home.script("broken.py", "def (:\n");
  expect((await home.cli("types", "broken.py")).stderr).toContain("SyntaxError");
}, 30_000);
