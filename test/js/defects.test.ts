/** Where jsrun fails, ours holds; and the table of docs/javascript-defects.md is of this list. */
import { expect, test } from "bun:test";
import { join } from "node:path";
import { testCases } from "./cases.ts";

testCases("defects.py");

test("the table of the documentation has these cases, in this order", async () => {
  const list = Bun.spawnSync(["python3", join(import.meta.dir, "defects.py"), "list"]);
  const titles = (JSON.parse(list.stdout.toString()) as [string, string][]).map(([, title]) => title);
  const page = await Bun.file(join(import.meta.dir, "../../docs/javascript-defects.md")).text();
  const rows = [...page.matchAll(/^\| (.+?) \| .* \| .* \|$/gm)].map(([, title]) => title);
  expect(rows.filter((row) => row !== "what holds" && row !== "---")).toEqual(titles);
});
