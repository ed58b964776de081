/** Classes of addresses: the same in TypeScript and in C, however an address is written. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { ADDRESS_CARRIERS, ADDRESS_RANGES } from "../../contract/addresses.ts";
import { ADDRESS_CLASS } from "../../contract/shim.ts";
import { classesOf, parseAddress, parseRange } from "../../src/base/addresses.ts";
import { seed } from "../seed.ts";

const root = join(import.meta.dir, "../..");
const textOf = (bytes: ArrayLike<number>): string =>
  Array.from({ length: 8 }, (_, at) => ((bytes[2 * at]! << 8) | bytes[2 * at + 1]!).toString(16)).join(":");
const namesOf = (text: string): string[] => [...classesOf(parseAddress(text)!)].toSorted();

test("known addresses are of their classes", () => {
  for (const [text, ...classes] of [
    ["8.8.8.8"],
    ["2606:4700::1111"],
    ["100.63.255.255"],
    ["100.128.0.0"],
    ["172.32.0.0"],
    ["10.1.2.3", "private"],
    ["172.31.255.255", "private"],
    ["100.64.0.1", "private"],
    ["127.255.0.1", "loopback"],
    ["0.0.0.0", "loopback", "multicast"],
    ["::1", "loopback", "multicast"], // and 0.0.0.1 in it, as it was once written
    ["::ffff:127.0.0.1", "loopback"],
    ["::ffff:a00:1", "private"],
    ["169.254.169.254", "link-local", "metadata"],
    ["64:ff9b::a9fe:a9fe", "link-local", "metadata"],
    ["64:ff9b::8.8.8.8"],
    ["fd00:ec2::254", "metadata", "private"],
    ["2002:7f00:1::", "loopback"],
    ["2001:0:808:808::80ff:fffe", "loopback"],
    ["2600::5efe:10.0.0.1", "private"],
    ["2600::200:5efe:10.0.0.1", "private"],
    ["fe80::1", "link-local"],
    ["239.1.2.3", "multicast"],
    ["255.255.255.255", "multicast"],
    ["ff02::1", "multicast"],
  ] as const)
    expect([text, ...namesOf(text)]).toEqual([text, ...classes]);
});

test("what is no address, or has a zone, is not read as one", () => {
  for (const text of ["", "a", "1.2.3", "1.2.3.4.5", "256.1.1.1", "0x7f.1", "2130706433", "::g", "[::1]", "fe80::1%lo"])
    expect(parseAddress(text)).toBeUndefined();
  for (const text of ["10.0.0.0", "10.0.0.0/", "a/8", "10.0.0.0/-1"]) expect(() => parseRange(text)).toThrow("a range");
});

/** All ways in which the same IPv6 address is written. */
const spellings = (groups: readonly number[]): fc.Arbitrary<string> =>
  fc
    .record({ at: fc.nat(7), count: fc.integer({ min: 1, max: 8 }), upper: fc.boolean(), pad: fc.boolean() })
    .chain(({ at, count, upper, pad }) => {
      const written = groups.map((group) => group.toString(16).padStart(pad ? 4 : 1, "0"));
      const isGap = groups.slice(at, at + count).every((group) => group === 0);
      const cut = isGap
        ? `${written.slice(0, at).join(":")}::${written.slice(at + count).join(":")}`
        : written.join(":");
      const v4 = [groups[6]! >> 8, groups[6]! & 255, groups[7]! >> 8, groups[7]! & 255].join(".");
      const dotted = `${written.slice(0, 6).join(":")}:${v4}`;
      return fc.constantFrom(...[cut, dotted].map((text) => (upper ? text.toUpperCase() : text)));
    });

test("an address is the same one in all its spellings", () => {
  const group = fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 0xffff }));
  fc.assert(
    fc.property(
      fc
        .array(group, { minLength: 8, maxLength: 8 })
        .chain((groups) => fc.tuple(fc.constant(groups), spellings(groups))),
      ([groups, text]) => {
        expect([...parseAddress(text)!]).toEqual(groups.flatMap((one) => [one >> 8, one & 255]));
      },
    ),
    { seed, numRuns: 1000 },
  );
  fc.assert(
    fc.property(fc.ipV4(), (text) => {
      const [a, b, c, d] = text.split(".").map(Number);
      const hex = `${((a! << 8) | b!).toString(16)}:${((c! << 8) | d!).toString(16)}`;
      for (const same of [`::ffff:${text}`, `::FFFF:${hex}`, `0:0:0:0:0:ffff:${text}`])
        expect([...parseAddress(same)!]).toEqual([...parseAddress(text)!]);
      // What is in it counts in each of these as well.
      const [plain, flipped] = [namesOf(text), [a!, b!, c!, d!].map((byte) => byte ^ 255)];
      const teredo = `2001:0:808:808:0:0:${textOf([...Array<number>(12).fill(0), ...flipped]).slice(12)}`;
      for (const around of [`64:ff9b::${text}`, `2002:${hex}::`, `::ffff:0:${text}`, `2600::5efe:${text}`, teredo])
        expect(namesOf(around)).toEqual(expect.arrayContaining(plain));
    }),
    { seed, numRuns: 500 },
  );
});

const PROGRAM = `#include "net/parts.h"
#include <stdio.h>
#include <string.h>
int main(void)
{
  char text[IPC_ADDRESS_TEXT];
  while (fgets(text, sizeof text, stdin) != NULL) {
    struct ipc_address address = { .scope = 0 };
    text[strcspn(text, "\\n")] = 0;
    printf("%d\\n", ipc_address_parse(text, &address) ? (int)ipc_address_classes(&address) : -1);
  }
}`;

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "ipcctl-addresses-"));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

test("C and TypeScript say the same of every address", () => {
  const built = Bun.spawnSync(
    [
      process.env.CC ?? "cc",
      "-D_GNU_SOURCE",
      "-Inative",
      "-x",
      "c",
      "-o",
      join(dir, "classes"),
      "-",
      "native/net/rules.c",
    ],
    { cwd: root, stdin: Buffer.from(PROGRAM) },
  );
  expect(built.stderr.toString()).toBe("");
  // The first and the last address of each range, their neighbours, and random ones, with the table's own beginnings.
  const edges = ADDRESS_RANGES.flatMap(({ range }) => {
    const { prefix, bits } = parseRange(range);
    const first = BigInt(`0x${Buffer.from(prefix).toString("hex")}`);
    const last = first | ((1n << BigInt(128 - bits)) - 1n);
    return [first - 1n, first, last, last + 1n]
      .filter((one) => one >= 0n && one < 1n << 128n)
      .map((one) => Buffer.from(one.toString(16).padStart(32, "0"), "hex"));
  });
  const carriers = ADDRESS_CARRIERS.flatMap(({ value, at, inverted }) =>
    edges.map((edge) => {
      const bytes = Uint8Array.from(parseAddress(value)!);
      bytes.set(
        edge.subarray(12).map((byte) => byte ^ (inverted ? 255 : 0)),
        at,
      );
      return bytes;
    }),
  );
  const random = fc.sample(fc.uint8Array({ minLength: 16, maxLength: 16 }), { seed, numRuns: 1000 });
  const texts = [...edges, ...carriers, ...random].map((bytes) => textOf(bytes));
  const { stdout } = Bun.spawnSync([join(dir, "classes")], { stdin: Buffer.from(`${texts.join("\n")}\n`) });
  const ours = texts.map((text) =>
    [...classesOf(parseAddress(text)!)].reduce((bits, name) => bits | ADDRESS_CLASS[name], 0),
  );
  expect(new Set(ours).size).toBeGreaterThan(5);
  expect(stdout.toString().trimEnd().split("\n").map(Number)).toEqual(ours);
});
