/** Credentials on the disk: what is sealed, what others may not do to the files, and processes killed at each step. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import {
  chmodSync,
  cpSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LIMITS } from "../../contract/limits.ts";
import type { IpcError } from "../../src/base/errors.ts";
import { parseCredentialName } from "../../src/desk/credential-name.ts";
import { Credentials } from "../../src/desk/credentials.ts";
import { fillDisk, mountDisk, unmountDisk } from "../disk.ts";
import { canBeAnother } from "../needs.ts";

let state: string;
let folder: string;
let now = Date.now();
beforeEach(() => {
  state = mkdtempSync(join(tmpdir(), "ipcctl-desk-"));
  folder = join(state, "credentials");
});
afterEach(() => rmSync(state, { recursive: true, force: true }));

const VALUE = "sk-live-0123456789";
const named = parseCredentialName;
const TOKEN = named("http/token");
const opened = (systemd?: string): Credentials => new Credentials(state, systemd, () => now);
const fileOf = (name: string): string => join(folder, `${name.replace("/", "+")}.sealed`);
const errorOf = async (work: () => unknown): Promise<IpcError> => {
  try {
    await work();
  } catch (error) {
    return error as IpcError;
  }
  throw new Error("it should have failed");
};
const KEY = { kind: "key", expiresAtMs: null, trouble: null } as const;
/** Why one cannot be used, as `list` tells it. */
const troubleOf = (name: string, credentials = opened()): string | null | undefined =>
  credentials.list().find((one) => one.name === name)?.trouble;

test("a value comes back for whoever has its name, and nothing of it is in a file", async () => {
  opened().add(TOKEN, VALUE);
  expect(await opened().use(TOKEN)).toBe(VALUE);
  const stored = readdirSync(folder).map((file) => readFileSync(join(folder, file), "latin1"));
  expect(stored).toHaveLength(3); // key, credential, uses
  for (const form of ["utf8", "hex", "base64"] as const)
    expect(stored.join()).not.toContain(Buffer.from(VALUE).toString(form).slice(0, 12));
  for (const file of readdirSync(folder)) expect(statSync(join(folder, file)).mode & 0o777).toBe(0o600);
  expect(statSync(folder).mode & 0o777).toBe(0o700);
});

test("the list tells when each was set and used, and no value", async () => {
  const credentials = opened();
  expect(credentials.list()).toEqual([]);
  expect(existsSync(folder)).toBe(false);
  credentials.add(named("webhook"), VALUE);
  credentials.add(TOKEN, `${VALUE}x`);
  now += 5000;
  await credentials.use(TOKEN);
  expect(credentials.list()).toEqual([
    { name: "http/token", plugin: "http", setAtMs: now - 5000, usedAtMs: now, ...KEY },
    { name: "webhook", plugin: null, setAtMs: now - 5000, usedAtMs: null, ...KEY },
  ]);
  credentials.remove(TOKEN);
  credentials.add(TOKEN, VALUE);
  expect(credentials.list()[0]).toMatchObject({ name: "http/token", usedAtMs: null });
});

test("names are parsed once, and none of them is a path or looks like another", async () => {
  expect(named("token", "http")).toEqual({ plugin: "http", full: "http/token" });
  expect(named("http/token")).toEqual({ plugin: "http", full: "http/token" });
  expect(named("token")).toEqual({ plugin: null, full: "token" });
  const bad = ["", "Token", "a/b/c", "/a", "a/", "..", "../a", "a.b", "a+b", "a b", "-a", "a\n", "a\0", "é", "ſ"];
  for (const name of [...bad, "a".repeat(65), `a/${"b".repeat(65)}`])
    expect(await errorOf(() => named(name))).toMatchObject({ code: "USAGE" });
  expect((await errorOf(() => named("a/b", "http"))).message).toBe('"http/a/b" cannot be the name of a credential');
  const longest = named(`${"a".repeat(64)}/${"b".repeat(64)}`);
  opened().add(longest, VALUE);
  expect(await opened().use(longest)).toBe(VALUE);
});

test("credentialChars, credentialBytes: a value of as many is taken; the error of one beyond tells nothing of it", async () => {
  const credentials = opened();
  for (const value of ["", "1234567", "  1234567  ", "äöüäöüä", "\ud800abcdefgh", "x".repeat(16_385)]) {
    const { message, hint = "" } = await errorOf(() => credentials.add(TOKEN, value));
    expect(value !== "" && `${message} ${hint}`.includes(value)).toBe(false);
  }
  expect(existsSync(folder)).toBe(false);
  credentials.add(TOKEN, "12345678");
  credentials.add(named("long"), "x".repeat(LIMITS.credentialBytes.value));
  expect(await errorOf(() => credentials.add(TOKEN, VALUE))).toMatchObject({
    code: "FAILED",
    message: "the credential http/token exists",
    hint: "ipcctl auth rotate http/token gives it a new value",
  });
});

test("one that does not exist is not found, and its plugin is named if there is one", async () => {
  opened().add(TOKEN, VALUE);
  const missing = { code: "NOT_FOUND", message: "there is no credential token", hint: "it may be http/token" };
  expect(await errorOf(() => opened().use(named("token")))).toMatchObject(missing);
  expect(await errorOf(() => opened().rotate(named("token"), VALUE))).toMatchObject(missing);
  expect(await errorOf(() => opened().remove(named("token")))).toMatchObject(missing);
  expect(await errorOf(() => opened().use(named("other")))).toMatchObject({ hint: "ipcctl auth list shows them" });
});

test("credentials: as many as the limit, and one more is refused", async () => {
  const credentials = opened();
  credentials.add(TOKEN, VALUE);
  for (let count = 1; count < LIMITS.credentials.value; count++)
    cpSync(fileOf("http/token"), fileOf(`http/copy${count}`));
  expect(await errorOf(() => credentials.add(named("more"), VALUE))).toMatchObject({ code: "LIMIT" });
  credentials.remove(named("http/copy1"));
  credentials.add(named("more"), VALUE);
});

test("credentialOldMs: a value that was replaced is kept so long for redaction, and is then gone from the file", async () => {
  const credentials = opened();
  credentials.add(TOKEN, VALUE);
  credentials.rotate(TOKEN, "second-value");
  expect(await credentials.use(TOKEN)).toBe("second-value");
  now += LIMITS.credentialOldMs.value / 2;
  credentials.rotate(TOKEN, "third-value");
  expect(credentials.secrets()).toEqual(["third-value", VALUE, "second-value"]);
  now += LIMITS.credentialOldMs.value / 2;
  expect(credentials.secrets()).toEqual(["third-value", "second-value"]);
  const before = statSync(fileOf("http/token")).size;
  credentials.forgetOld();
  expect(statSync(fileOf("http/token")).size).toBeLessThan(before);
  expect(credentials.secrets()).toEqual(["third-value", "second-value"]);
  expect((await errorOf(() => credentials.rotate(TOKEN, "third-value"))).message).toBe(
    "this is the value that http/token has",
  );
});

test("credentialOldValues: as many values can be replaced within a day, and all of them fit the file", async () => {
  const credentials = opened();
  const value = (n: number): string => `${n}`.padStart(4, "0") + "\u0001".repeat(LIMITS.credentialBytes.value - 4);
  credentials.add(TOKEN, value(0));
  for (let n = 1; n <= LIMITS.credentialOldValues.value; n++) credentials.rotate(TOKEN, value(n));
  expect(await errorOf(() => credentials.rotate(TOKEN, VALUE))).toMatchObject({ code: "LIMIT" });
  expect(credentials.secrets()).toHaveLength(LIMITS.credentialOldValues.value + 1);
  now += LIMITS.credentialOldMs.value;
  credentials.rotate(TOKEN, VALUE);
});

test("a file that was moved, copied, edited or cut does not open, and is told as what it is", async () => {
  const credentials = opened();
  credentials.add(TOKEN, VALUE);
  credentials.add(named("other"), "another-value");
  const cannot = (name: string, what: string): string => `the credential ${name} cannot be used: ${what}`;
  cpSync(fileOf("http/token"), fileOf("other"));
  const moved = cannot("other", 'its file is that of "http/token", which was moved or copied there');
  expect(troubleOf("other")).toBe(moved);
  expect(await errorOf(() => credentials.use(named("other")))).toMatchObject({
    code: "FAILED",
    message: moved,
    hint: "put its file back, or: ipcctl auth rm other, then: ipcctl auth add other",
  });
  const text = readFileSync(fileOf("http/token"), "utf8");
  const edited = (change: (envelope: Record<string, string>) => object): void =>
    writeFileSync(fileOf("other"), JSON.stringify(change(JSON.parse(text) as Record<string, string>)));
  edited((envelope) => ({ ...envelope, credential: "other" })); // the name is bound to what is sealed
  expect(troubleOf("other")).toBe(cannot("other", "its file was edited or damaged"));
  edited((envelope) => ({ ...envelope, credential: "other", nonce: "", sealed: "" }));
  expect(troubleOf("other")).toBe(cannot("other", "its file was edited or damaged"));
  edited((envelope) => ({ ...envelope, credential: "other", key: "0123", key_from: "/there" }));
  expect(troubleOf("other")).toBe(cannot("other", "the key that it was sealed with is gone (from /there)"));
  for (const damaged of ["", "{", "null", "[]", '{"version":2}', text.slice(0, 80)]) {
    writeFileSync(fileOf("other"), damaged);
    expect(troubleOf("other")).toBe(cannot("other", "its file is damaged"));
  }
  expect(credentials.secrets()).toEqual([VALUE]);
  expect((await errorOf(() => credentials.rotateKey())).message).toBe(cannot("other", "its file is damaged"));
  credentials.remove(named("other"));
  expect(credentials.rotateKey()).toBe(1);
});

test("each byte of what is sealed counts", async () => {
  opened().add(TOKEN, VALUE);
  const envelope = JSON.parse(readFileSync(fileOf("http/token"), "utf8")) as { sealed: string };
  const sealed = Buffer.from(envelope.sealed, "base64");
  for (let at = 0; at < sealed.length; at++) {
    const changed = Buffer.from(sealed);
    changed[at]! ^= 1;
    writeFileSync(fileOf("http/token"), JSON.stringify({ ...envelope, sealed: changed.toString("base64") }));
    expect(troubleOf("http/token")).toEndWith("its file was edited or damaged");
  }
});

test("a key, a file or a folder that others could use is refused, with the command that helps", async () => {
  const credentials = opened();
  credentials.add(TOKEN, VALUE);
  const key = join(folder, "key");
  for (const [path, mode, back] of [
    [key, 0o640, 0o600],
    [fileOf("http/token"), 0o604, 0o600],
    [folder, 0o755, 0o700],
  ] as const) {
    chmodSync(path, mode);
    expect(await errorOf(() => credentials.use(TOKEN))).toMatchObject({
      code: "FAILED",
      message: `${path} can be used by others (mode ${mode.toString(8)})`,
      hint: `chmod ${back.toString(8)} ${path}; if somebody may have read it, replace the credentials too`,
    });
    chmodSync(path, back);
  }
  renameSync(key, join(state, "elsewhere"));
  symlinkSync(join(state, "elsewhere"), key);
  expect((await errorOf(() => credentials.use(TOKEN))).message).toBe(`${key} is a link`);
  rmSync(key);
  linkSync(join(state, "elsewhere"), key);
  expect((await errorOf(() => credentials.use(TOKEN))).message).toBe(`${key} has another name too (a hard link)`);
  rmSync(key);
  mkdirSync(key);
  expect((await errorOf(() => credentials.use(TOKEN))).message).toBe(`${key} is not a file`);
  rmSync(key, { recursive: true });
  expect(troubleOf("http/token")).toContain(`the key that it was sealed with is gone (from ${key})`);
  const gone = await errorOf(() => credentials.add(named("other"), VALUE));
  expect(gone.message).toBe("the key of the credentials is gone, with which 1 are sealed");
  renameSync(join(state, "elsewhere"), key);
  expect(await credentials.use(TOKEN)).toBe(VALUE);
  renameSync(folder, join(state, "moved"));
  symlinkSync(join(state, "moved"), folder);
  expect((await errorOf(() => credentials.use(TOKEN))).message).toBe(`${folder} is not a folder`);
});

test("a key of another user is refused", async () => {
  if (!(await canBeAnother("a key of another user"))) return;
  opened().add(TOKEN, VALUE);
  const { chownSync } = await import("node:fs");
  chownSync(join(folder, "key"), 65534, 65534);
  expect(await errorOf(() => opened().use(TOKEN))).toMatchObject({
    message: `${join(folder, "key")} belongs to user 65534, not to 0`,
    hint: `chown 0 ${join(folder, "key")}`,
  });
});

test("systemd's key is used where it gives one, and replacing it takes both for a while", async () => {
  const systemd = join(state, "systemd");
  mkdirSync(systemd);
  const give = (name: string, key: string): void => writeFileSync(join(systemd, name), key, { mode: 0o440 });
  opened(systemd).add(TOKEN, VALUE); // none is given: one is made
  give("ipcctl-key", "a".repeat(32));
  expect(await opened(systemd).use(TOKEN)).toBe(VALUE);
  opened(systemd).add(named("other"), "another-value");
  expect(opened(systemd).rotateKey()).toBe(2);
  expect(readdirSync(folder).toSorted()).toEqual(["http+token.sealed", "other.sealed", "used.json"]);
  expect(await errorOf(() => opened(systemd).rotateKey())).toMatchObject({
    message: "everything is sealed with the key that systemd gave",
  });
  give("ipcctl-key-previous", "a".repeat(32));
  rmSync(join(systemd, "ipcctl-key"));
  give("ipcctl-key", "b".repeat(32));
  expect(opened(systemd).secrets()).toEqual([VALUE, "another-value"]);
  expect(opened(systemd).rotateKey()).toBe(2);
  rmSync(join(systemd, "ipcctl-key-previous"));
  expect(opened(systemd).secrets()).toEqual([VALUE, "another-value"]);
  expect(troubleOf("other")).toContain(`is gone (from ${join(systemd, "ipcctl-key")})`);
  chmodSync(join(systemd, "ipcctl-key"), 0o444);
  expect((await errorOf(() => opened(systemd).use(TOKEN))).message).toContain("can be used by others (mode 444)");
  rmSync(join(systemd, "ipcctl-key"));
  give("ipcctl-key", "short");
  expect(await errorOf(() => opened(systemd).use(TOKEN))).toMatchObject({
    message: `the key ${join(systemd, "ipcctl-key")} has 5 bytes, at least 32 are needed`,
    hint: "make one with: openssl rand -hex 32",
  });
});

test("a new key leaves nothing that the old one opens", async () => {
  opened().add(TOKEN, VALUE);
  opened().add(named("other"), "another-value");
  const old = readFileSync(join(folder, "key"));
  expect(opened().rotateKey()).toBe(2);
  expect(opened().secrets()).toEqual([VALUE, "another-value"]);
  writeFileSync(join(folder, "key"), old);
  expect(opened().secrets()).toEqual([]);
});

test("a plugin is given what its manifest declares, and nothing of another's", async () => {
  const credentials = opened();
  credentials.add(TOKEN, VALUE);
  credentials.add(named("http/unused"), "not-declared");
  credentials.add(named("mail/token"), "of-another");
  credentials.add(named("token"), "of-the-host");
  credentials.rotate(TOKEN, "second-value");
  expect(await credentials.forPlugin("http", ["token"])).toEqual({
    values: { token: "second-value" },
    secrets: ["second-value", VALUE],
  });
  expect(await credentials.forPlugin("echo", [])).toEqual({ values: {}, secrets: [] });
  expect(await errorOf(() => credentials.forPlugin("http", ["token", "key"]))).toMatchObject({
    code: "NOT_FOUND",
    message: "the plugin http needs the credential key, which nobody has entered",
    hint: "ipcctl auth add key --plugin http",
  });
  expect(await errorOf(() => credentials.forPlugin("http", ["mail/token"]))).toMatchObject({ code: "USAGE" });
});

test("on a full disk everything stays as it was, also in the middle of a new key", async () => {
  if (!mountDisk(state, "256k", "credentials on a full disk")) return;
  try {
    const credentials = opened();
    credentials.add(TOKEN, VALUE);
    credentials.add(named("other"), `another-value${"x".repeat(8000)}`);
    const files = (): string[] => readdirSync(folder).toSorted();
    const before = files();
    fillDisk(state);
    const full = { code: "ENOSPC" };
    expect(await errorOf(() => credentials.add(named("more"), VALUE))).toMatchObject(full);
    expect(await errorOf(() => credentials.rotate(TOKEN, "second-value"))).toMatchObject(full);
    expect(await errorOf(() => credentials.rotateKey())).toMatchObject(full);
    expect(files()).toEqual(before);
    expect(await credentials.use(TOKEN)).toBe(VALUE); // though its time cannot be written down
    truncateSync(join(state, "filling"), statSync(join(state, "filling")).size - 2 * 4096);
    expect(await errorOf(() => credentials.rotateKey())).toMatchObject(full); // with a new key, and the first file
    expect(files()).toEqual([...before, "key.next"].toSorted());
    expect(
      opened()
        .secrets()
        .map((value) => value.length),
    ).toEqual([VALUE.length, 8013]);
    rmSync(join(state, "filling"));
    opened().recover();
    expect(files()).toEqual(before);
    expect(
      opened()
        .secrets()
        .map((value) => value.length),
    ).toEqual([VALUE.length, 8013]);
  } finally {
    unmountDisk(state);
  }
});

/** Kills a process at each change that it makes to the disk, and has a look each time. */
async function killedEverywhere(what: string, prepare: () => void, look: () => void): Promise<void> {
  const changeWith = async (at: number): Promise<{ killed: boolean; called: string[] }> => {
    rmSync(folder, { recursive: true, force: true });
    prepare();
    const command = [process.execPath, "--no-env-file", join(import.meta.dir, "change-credentials.ts")];
    const child = Bun.spawn([...command, state, what, String(at)], { stdout: "pipe", stderr: "inherit" });
    const text = await new Response(child.stdout).text();
    await child.exited;
    return { killed: child.signalCode === "SIGKILL", called: text.trim().split(" ") };
  };
  const { killed, called } = await changeWith(0);
  expect(killed).toBe(false);
  // What a name leads to is on the disk before, and the name itself after.
  expect(called.join(" ")).not.toMatch(/write (?!write|fsync)|(?<!fsync) rename|rename (?!fsync)/);
  const changes = called.filter((name) => name !== "fsync").length;
  expect(changes).toBeGreaterThan(3);
  for (let at = 1; at <= changes; at++) {
    expect((await changeWith(at)).killed).toBe(true);
    look();
    opened().recover();
    look();
    expect(readdirSync(folder).filter((file) => /\.(new|next)$/.test(file))).toEqual([]);
    opened().rotateKey(); // and everything can still be done
    look();
  }
}

test("a new key that is killed at any change loses nothing, and the next start goes on with it", async () => {
  await killedEverywhere(
    "rotateKey",
    () => {
      opened().add(TOKEN, VALUE);
      opened().add(named("other"), "another-value");
    },
    () => expect(opened().secrets()).toEqual([VALUE, "another-value"]),
  );
}, 120_000);

test("going on with a new key can be killed as well", async () => {
  const between = join(state, "between");
  await killedEverywhere(
    "recover",
    () => {
      if (!existsSync(between)) {
        opened().add(TOKEN, VALUE);
        opened().add(named("other"), "another-value");
        writeFileSync(join(folder, "key.next"), `${"c".repeat(64)}\n`, { mode: 0o600 });
        cpSync(folder, between, { recursive: true });
      } else cpSync(between, folder, { recursive: true });
      chmodSync(folder, 0o700);
    },
    () => expect(opened().secrets()).toEqual([VALUE, "another-value"]),
  );
}, 120_000);

test("a first value or a new one that is killed is there or is not", async () => {
  const values = (): string => opened().secrets().join();
  await killedEverywhere(
    "add",
    () => undefined,
    () => {
      if (existsSync(folder)) expect(values()).toBeOneOf(["", "first-value"]);
      else mkdirSync(folder, { mode: 0o700 });
    },
  );
  await killedEverywhere(
    "rotate",
    () => opened().add(TOKEN, VALUE),
    () => expect(values()).toBeOneOf([VALUE, `second-value,${VALUE}`]),
  );
}, 120_000);
