/** Project files and projects from the host's side: the commands, and the SDK in both languages, with a daemon. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import type { IpcError } from "../../src/base/errors.ts";
import type { StoredFile } from "../../src/protocol/stored.ts";
import { FileStore } from "../../src/stores/file-store.ts";
import { environment } from "../needs.ts";
import { Home, outcomeOf, ROOT, within, type CliResult } from "../home.ts";

let home: Home;
beforeAll(() => {
  home = new Home();
});
afterAll(() => home[Symbol.asyncDispose]());

const write = (name: string, content: string | Uint8Array): void => writeFileSync(join(home.dir, name), content);
const read = (name: string): string => readFileSync(join(home.dir, name), "utf8");
const listed = async (group: string): Promise<StoredFile[]> =>
  JSON.parse((await home.cli("files", "ls", group, "--json")).stdout) as StoredFile[];
const failed = (status: number, message: string, hint: string): CliResult => ({
  ...{ status, stdout: "" },
  stderr: `ipcctl: ${message}\n  ${hint}\n`,
});
const errorOf = (work: Promise<unknown>): Promise<IpcError> =>
  work.then(
    () => Promise.reject(new Error("it should have failed")),
    (error: IpcError) => error,
  );
/** As a worker writes by the plugin, which has a process of its own. */
const byWorker = async (group: string, name: string, content: string): Promise<StoredFile> => {
  const store = new FileStore(join(home.paths.dataDir, "files"), group);
  const file = await store.write({ name }, Buffer.from(content), { worker: "w" });
  store.close();
  return file;
};

test("a file is put, listed, got and removed", async () => {
  write("data.csv", "x,y\n1,2\n");
  const put = await home.cli("files", "put", "web", "data.csv", "--conversation", "c1");
  const [file] = await listed("web");
  expect(put).toEqual({ status: 0, stdout: `data.csv: 8B, ${file!.id}\n`, stderr: "" });
  expect(file).toMatchObject({ name: "data.csv", conversation_id: "c1", media_type: "text/csv", written_by: "host" });
  expect((await home.cli("files", "ls", "web")).stdout).toBe(`${file!.id}        8B  host  c1  data.csv\n`);
  expect((await home.cli("files", "get", "web", "data.csv", "-o", "-")).stdout).toBe("x,y\n1,2\n");
  expect((await home.cli("files", "get", "web", file!.id, "-o", "copy.csv")).status).toBe(0);
  expect(read("copy.csv")).toBe("x,y\n1,2\n");
  expect(await home.cli("files", "rm", "web", "data.csv")).toMatchObject({ status: 0, stdout: "data.csv: deleted\n" });
  expect(await listed("web")).toEqual([]);
  expect(await home.cli("files", "ls", "nobody")).toMatchObject({
    ...{ status: 0, stdout: "", stderr: "no files; put one there with: ipcctl files put nobody FILE\n" },
  });
  expect(existsSync(join(home.paths.dataDir, "files/nobody.sqlite"))).toBe(false);
});

test("contents of any size go there and back, from a file and from stdin", async () => {
  const piece = LIMITS.filePieceBytes.value;
  for (const bytes of [0, piece, 5 * piece + 7]) {
    const content = Buffer.alloc(bytes);
    for (let at = 0; at < bytes; at++) content[at] = (at * 31 + (at >> 8)) & 0xff;
    write("in.bin", content);
    const stdio = [Bun.file(join(home.dir, "in.bin")), "pipe", "pipe"] as const;
    const child = Bun.spawn([join(ROOT, "bin/ipcctl"), "files", "put", "sizes", "-", "--name", "piped"], {
      ...{ cwd: home.dir, env: home.env, stdio: [...stdio] },
    });
    const piped = outcomeOf(child as unknown as Bun.Subprocess<"ignore", "pipe", "pipe">);
    expect(await within(60_000, "files put -", piped)).toMatchObject({ status: 0, stderr: "" });
    expect((await home.cli("files", "put", "sizes", "in.bin", "-q")).status).toBe(0);
    for (const name of ["piped", "in.bin"]) {
      expect((await home.cli("files", "get", "sizes", name, "-o", "out.bin")).status).toBe(0);
      expect(readFileSync(join(home.dir, "out.bin")).equals(content)).toBe(true);
    }
  }
  expect(readdirSync(join(home.paths.dataDir, "files/.incoming/sizes"))).toEqual([]);
});

test("a name that a worker chose replaces no file of the user's, and makes no hidden one", async () => {
  await byWorker("trap", "notes.txt", "evil");
  const hidden = await byWorker("trap", ".bashrc", "evil");
  write("notes.txt", "mine");
  const { id } = (await listed("trap"))[0]!;
  expect(await home.cli("files", "get", "trap", "notes.txt")).toEqual(
    failed(
      1,
      `files get: ${join(home.dir, "notes.txt")} is there already`,
      `to replace it: ipcctl files get trap ${id} -o ${join(home.dir, "notes.txt")}`,
    ),
  );
  symlinkSync(join(home.dir, "target"), join(home.dir, "dangling"));
  await byWorker("trap", "dangling", "evil");
  expect((await home.cli("files", "get", "trap", "dangling")).status).toBe(1);
  expect(existsSync(join(home.dir, "target"))).toBe(false);
  expect(await home.cli("files", "get", "trap", ".bashrc")).toEqual(
    failed(2, "files get: .bashrc would be a hidden file", `say where to: ipcctl files get trap ${hidden.id} -o FILE`),
  );
  expect(existsSync(join(home.dir, ".bashrc"))).toBe(false);
  expect(read("notes.txt")).toBe("mine");
  await home.cli("files", "put", "trap", "notes.txt"); // the host may replace what a worker wrote
  expect((await listed("trap"))[0]).toMatchObject({ id, written_by: "host", bytes: 4 });
});

test("what cannot be done is refused with the way out", async () => {
  write("one", "1");
  expect(await home.cli("files", "put", "web", "-")).toEqual(
    failed(2, "files put: what comes from stdin has no name", "ipcctl files put web - --name data.csv"),
  );
  expect((await home.cli("files", "put", "web", "one", "one", "--name", "x")).status).toBe(2);
  expect(await home.cli("files", "put", "web", ".")).toEqual(
    failed(2, "files put: . is a folder", "name the files in it"),
  );
  expect((await home.cli("files", "put", "web", "absent")).stderr).toContain("no such file");
  expect(await home.cli("files", "put", "web", "one", "--name", "a/b")).toEqual(
    failed(2, 'name: "a/b" is a path, not a name', "files are not in folders; use the name alone"),
  );
  expect((await home.cli("files", "put", "../x", "one")).stderr).toContain('"../x" cannot be the name of a group');
  // Whoever only looks is told as well that nobody can have such a group.
  for (const name of ["../x", "!!!", " ", ".x", "x.sqlite", "x".repeat(LIMITS.nameChars.value + 1)])
    for (const words of [
      ["files", "ls", name],
      ["files", "get", name, "one"],
      ["files", "rm", name, "one"],
      ["project", "show", name],
      ["project", "set", name, "a=1"],
    ]) {
      const { status, stdout, stderr } = await home.cli(...words);
      const says = `ipcctl: ${JSON.stringify(name)} cannot be the name of a group\n  use 1 to`;
      expect([words, status, stdout, stderr]).toEqual([words, 2, "", expect.stringContaining(says)]);
    }
  // One that is only spelled in another way is a group as that of a worker with such a name is.
  const named = 'in the group a-b, which "A/b" is; ';
  expect((await home.cli("files", "ls", "A/b")).stderr).toContain(`no files ${named}`);
  expect((await home.cli("project", "show", "A/b")).stderr).toContain(`nothing is set ${named}`);
  expect(await home.cli("files", "get", "web", "absent")).toEqual(
    failed(4, 'group web has no file "absent"', "ipcctl files ls web shows them"),
  );
  for (const conversation of ["c1", "c2"]) await home.cli("files", "put", "web", "one", "--conversation", conversation);
  expect((await home.cli("files", "rm", "web", "one")).stderr).toContain("group web has 2 files");
  expect((await home.cli("files", "rm", "web", "one", "--conversation", "c1")).status).toBe(0);
  expect(await listed("web")).toMatchObject([{ conversation_id: "c2" }]);
});

test("a project is set and shown, with what was said", async () => {
  expect(await home.cli("project", "show", "shop")).toMatchObject({
    ...{ status: 0, stdout: "", stderr: "nothing is set; for example: ipcctl project set shop name=Sales\n" },
  });
  expect(await home.cli("project", "set", "shop", "name=Sales", 'goals=["grow"]', "old=1")).toMatchObject({
    stdout: "shop: set name, goals, old\n",
  });
  await home.cli("project", "set", "shop", "old=null");
  await home.cli("project", "set", "shop", "title=May", "--conversation", "c1");
  expect((await home.cli("project", "say", "shop", "c1", "user", "How was May?\n\u001b[2J")).stdout).toBe(
    "c1: message 1\n",
  );
  expect((await home.cli("project", "show", "shop")).stdout).toBe(
    'goals: ["grow"]\nname: Sales\nconversation c1: 1 message\n',
  );
  expect((await home.cli("project", "show", "shop", "--conversation", "c1")).stdout).toBe(
    "title: May\nuser: How was May?\nuser: \\x1b[2J\n",
  );
  expect(
    JSON.parse((await home.cli("project", "show", "shop", "--conversation", "c1", "--json")).stdout),
  ).toMatchObject({
    ...{ conversation_id: "c1", values: { title: "May" }, messages: 1, said: [{ number: 1, role: "user" }] },
  });
  expect(await home.cli("project", "set", "shop", "name")).toEqual(
    failed(
      2,
      'project set: "name" is not NAME=VALUE',
      "for example: ipcctl project set web name=Sales 'goals=[\"grow\"]'",
    ),
  );
  expect((await home.cli("project", "say", "shop", "c1", "boss", "x")).status).toBe(2);
  expect((await home.cli("project", "show", "shop", "--conversation", "c2")).status).toBe(4);
});

test("the same from TypeScript, with pages of any number", async () => {
  using ipc = await home.connect();
  const files = ipc.files("sdk");
  const many = LIMITS.storeRows.value + 2;
  for (let at = 0; at < many; at++) await files.put(`f${at}`, `${at}`);
  expect(await files.list()).toHaveLength(many);
  const [file] = await files.list({ name: "f7" });
  expect(Buffer.from(await files.get(file!.id)).toString()).toBe("7");
  expect(await errorOf(files.get("../../ipcctl.db"))).toMatchObject({ code: "NOT_FOUND" });
  await files.delete(file!.id);
  expect(await errorOf(files.delete(file!.id))).toMatchObject({ code: "NOT_FOUND" });
  // It is replaced while it is read.
  const large = await files.put("large", new Uint8Array(2 * LIMITS.filePieceBytes.value));
  const reading = files.read(large.id);
  await reading.next();
  await files.put("large", "small");
  expect(await errorOf(reading.next())).toMatchObject({ code: "FAILED" });
  const project = ipc.project("sdk");
  for (let at = 1; at <= many; at++) await project.say(`c${at % 3}`, "user", `said ${at}`);
  await project.set({ name: "Sales" });
  expect(await project.show()).toEqual({ values: { name: "Sales" }, conversations: 3 });
  expect((await project.conversations()).map(({ conversation_id }) => conversation_id)).toEqual(["c0", "c1", "c2"]);
  for (let at = 0; at < many; at++) await project.say("long", "tool", `${at}`);
  const texts = (await project.messages("long")).map(({ text }) => text);
  expect(texts).toEqual(Array.from({ length: many }, (_, at) => `${at}`));
  expect(await project.messages("long", many - 1)).toHaveLength(many - 1);
  expect((await project.messages("long", 2)).map(({ text }) => text)).toEqual([`${many - 2}`, `${many - 1}`]);
  expect(await project.messages("long", 0)).toEqual([]);
});

test("the same from Python", async () => {
  const script = home.script(
    "stored.py",
    `
import io, ipcctl
with ipcctl.connect() as ipc:
    files = ipc.files("py")
    piece = ${LIMITS.filePieceBytes.value}
    for size in (0, 1, piece, piece + 1, 3 * piece):
        content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        for given in (content, io.BytesIO(content)):
            file = files.put("a.bin", given, media_type="a/b")
            assert file["bytes"] == size and files.get(file["id"]) == content
    files.put("text", "é", conversation="c1")
    print([(one["name"], one["bytes"], one["conversation_id"]) for one in files.list()])
    print(len(files.list(name="TEXT")), len(files.list(conversation="c2")))
    files.delete(file["id"])
    try: files.get(file["id"])
    except ipcctl.IpcError as error: print(error.code)
    project = ipc.project("py")
    project.set({"name": "Sales", "goals": [1]})
    project.set({"title": "May"}, conversation="c1")
    for at in range(${LIMITS.storeRows.value + 2}): project.say("c1", "user", str(at))
    print(project.show(), project.conversation("c1")["values"], len(project.conversations()))
    print(len(project.messages("c1")), [one["text"] for one in project.messages("c1", 2)], project.messages("c1", 0))
`,
  );
  const env = { ...environment, ...home.env, PYTHONPATH: join(ROOT, "python") };
  const child = Bun.spawn(["python3", script], { env, stdio: ["ignore", "pipe", "pipe"], timeout: 60_000 });
  const { stdout, stderr } = await outcomeOf(child);
  expect(stderr).toBe("");
  const last = LIMITS.storeRows.value + 1;
  expect(stdout.trim().split("\n")).toEqual([
    `[('a.bin', ${3 * LIMITS.filePieceBytes.value}, None), ('text', 2, 'c1')]`,
    "1 1",
    "NOT_FOUND",
    "{'values': {'goals': [1], 'name': 'Sales'}, 'conversations': 1} {'title': 'May'} 1",
    `${last + 1} ['${last - 1}', '${last}'] []`,
  ]);
});
