/** Tables on their way: how they are written, what counts as one, and who has a process that makes them. */
import { ptr } from "bun:ffi";
import { expect, test } from "bun:test";
import { tableFromIPC } from "apache-arrow";
import { openSync, readFileSync } from "node:fs";
import { LIMITS } from "../../contract/limits.ts";
import type { Call } from "../../src/host/pipeline.ts";
import { Refusal } from "../../src/host/wire.ts";
import { Sealed } from "../../src/plane/sealed.ts";
import { SealedWriter } from "../../src/plane/sealed-writer.ts";
import { Sharing } from "../../src/plane/sharing.ts";
import { closeFd, createPair, createSegment, SEQPACKET, sendWithFds } from "../../src/plane/system.ts";
import { HandedTables } from "../../src/router/handed-tables.ts";
import { GroupLinks } from "../../src/router/group-links.ts";
import type { PluginLink } from "../../src/router/plugin-link.ts";
import { batchMessage, FormatError, LAST_BYTES, schemaMessage, type Field } from "../../src/sql/arrow-ipc.ts";

const field = (name: string, format: string, children: readonly Field[] = []): Field => ({
  ...{ name, format, nullable: true, children },
});

test("a stream of Arrow is one that others read", () => {
  const column = Buffer.from(new Int32Array([7, 8, 0, 0]).buffer);
  const bytes = Buffer.concat([
    schemaMessage([field("a", "i")]),
    batchMessage(
      2,
      [{ length: 2, nulls: 0 }],
      [
        { offset: 0, length: 0 },
        { offset: 0, length: 8 },
      ],
      8,
    ),
    column.subarray(0, 8),
    batchMessage(
      1,
      [{ length: 1, nulls: 1 }],
      [
        { offset: 0, length: 1 },
        { offset: 8, length: 4 },
      ],
      16,
    ),
    Buffer.alloc(16),
    LAST_BYTES,
  ]);
  const table = tableFromIPC(bytes);
  expect(table.schema.fields.map((one) => `${one.name} ${one.type}`)).toEqual(["a Int32"]);
  expect([...table.getChild("a")!]).toEqual([7, 8, null]);
});

test("each type has the name that others know it by", () => {
  const types: Readonly<Record<string, string>> = {
    ...{
      n: "Null",
      b: "Bool",
      c: "Int8",
      S: "Uint16",
      l: "Int64",
      L: "Uint64",
      e: "Float16",
      f: "Float32",
      g: "Float64",
    },
    ...{ z: "Binary", u: "Utf8", U: "LargeUtf8", "d:10,2": "Decimal[10e+2]", "w:16": "FixedSizeBinary[16]" },
    ...{ tdD: "Date32<DAY>", ttu: "Time64<MICROSECOND>", tts: "Time32<SECOND>", "tsu:": "Timestamp<MICROSECOND>" },
    ...{ "tsn:UTC": "Timestamp<NANOSECOND, UTC>", tDs: "Duration<SECOND>", tin: "Interval<MONTH_DAY_NANO>" },
  };
  const fields = Object.keys(types).map((format) => field(format, format));
  const nested = [
    field("list", "+l", [field("x", "i")]),
    field("pair", "+w:2", [field("x", "g")]),
    field("struct", "+s", [field("a", "u"), field("b", "+l", [field("c", "b")])]),
    field("map", "+m", [field("entries", "+s", [field("key", "u"), field("value", "l")])]),
  ];
  const { schema } = tableFromIPC(Buffer.concat([schemaMessage([...fields, ...nested]), LAST_BYTES]));
  const found = Object.fromEntries(schema.fields.map((one) => [one.name, String(one.type)]));
  expect(found).toMatchObject(types);
  expect(found.struct).toBe("Struct<{a:Utf8, b:List<Bool>}>");
  expect(found.list).toBe("List<Int32>");
  expect(found.pair).toBe("FixedSizeList[2]<Float64>");
  expect(found.map).toMatch(/^Map<\{/);
  for (const format of ["vu", "+ud:0", "q", ""]) expect(() => schemaMessage([field("x", format)])).toThrow(FormatError);
});

test("many columns are one schema, and long names", () => {
  const fields = Array.from({ length: 500 }, (_, at) => field(`${"n".repeat(at % 70)}${at}`, at % 2 ? "u" : "tsu:UTC"));
  const { schema } = tableFromIPC(Buffer.concat([schemaMessage(fields), LAST_BYTES]));
  expect(schema.fields.map(({ name }) => name)).toEqual(fields.map(({ name }) => name));
});

test("pieces are written in their order, from wherever they lie", () => {
  using writer = new SealedWriter();
  const parts = Array.from({ length: 2000 }, (_, at) => Buffer.from(new Uint8Array(new ArrayBuffer(at % 5)).fill(at)));
  for (const part of parts) writer.write(part);
  writer.skip(3);
  const tail = Buffer.from(new ArrayBuffer(8)).fill(9);
  writer.writeFrom(ptr(tail), 8);
  using sealed = writer.finish();
  expect(readFileSync(`/proc/self/fd/${sealed.fd}`)).toEqual(Buffer.concat([...parts, Buffer.alloc(3), tail]));
  expect(() => writer.write(tail)).toThrow(RangeError);
});

test("tableBytes: as many bytes as the limit, and one more", () => {
  const most = LIMITS.tableBytes.value;
  const piece = Buffer.from(new ArrayBuffer(2 ** 20));
  using writer = new SealedWriter();
  for (let left = most; left > 0; left -= piece.length) writer.writeFrom(ptr(piece), Math.min(left, piece.length));
  expect(() => writer.write(Uint8Array.of(1))).toThrow(`at most ${most} fit`);
  using sealed = writer.finish();
  expect(sealed.bytes).toBe(most);
  const more = createSegment(most + 1);
  expect(() => new Sealed(more)).toThrow(`memory of ${most + 1} bytes`);
});

test("memory that is not sealed, empty, or not as large as it claims, is not taken", () => {
  const [mine, theirs] = createPair(SEQPACKET);
  const sharing = new Sharing(mine, true);
  const hand = (fd: number, number: number): void => {
    const packet = Buffer.alloc(4);
    packet.writeUInt32LE(number);
    expect(sendWithFds(theirs, packet, [fd])).toBe(true);
    closeFd(fd);
  };
  const take = (number: number, bytes: number): unknown => sharing.borrow([number, 0, bytes, 64, [bytes]]);
  expect(() => take(1, 8)).toThrow("was not handed over");
  hand(openSync("/dev/null", "r"), 1);
  expect(() => take(1, 8)).toThrow("not sealed");
  hand(openSync(import.meta.path, "r"), 2);
  expect(() => take(2, 8)).toThrow("not sealed");
  hand(createSegment(0), 3);
  expect(() => take(3, 0)).toThrow("memory of 0 bytes");
  hand(createSegment(8), 4);
  expect(() => take(4, 4096)).toThrow("which claims to have 4096");
  hand(createSegment(8), 5);
  hand(createSegment(16), 6);
  using sealed = take(6, 16) as Sealed; // the one before belonged to a message that could not be read
  expect(sealed.bytes).toBe(16);
  expect(() => take(7, 8)).toThrow("was not handed over");
  for (const form of [undefined, [], [1], ["a", 0, 8, 64, [8]], [1, -1, 8, 64, [8]], [1, 0, 8, 9999, [8]]])
    expect(() => sharing.borrow(form)).toThrow("malformed");
  sharing.close();
  closeFd(theirs);
});

test("who has handed memory on has it no more", () => {
  const [mine, theirs] = createPair(SEQPACKET);
  const [from, to] = [new Sharing(mine), new Sharing(theirs)];
  const sealed = new Sealed(createSegment(4));
  const number = from.handOver(sealed)!;
  sealed[Symbol.dispose]();
  expect(() => sealed.fd).toThrow("handed on");
  expect(to.takeOver(number)).toEqual(new Uint8Array(4));
  expect(() => to.takeOver(number)).toThrow("was not handed over");
  to.close();
  const rest = new Sealed(createSegment(4));
  expect(from.handOver(rest)).toBeUndefined();
  expect(rest.fd).toBeGreaterThan(2);
  rest[Symbol.dispose]();
  from.close();
});

test("tablesHeld, tablesHeldBytes: as many as the limit, and one more; what is let go of is empty", () => {
  const [mine, theirs] = createPair(SEQPACKET);
  const [from, to] = [new Sharing(mine), new Sharing(theirs)];
  const tables = new HandedTables(from);
  const small = (): Sealed => new Sealed(createSegment(4096));
  const most = LIMITS.tablesHeld.value;
  const views = Array.from({ length: most }, () => {
    const number = tables.handOver(small())!;
    return [number, to.takeOver(number).fill(7)] as const;
  });
  using other = small();
  expect(tables.handOver(other)).toBeUndefined();
  const [number, view] = views[3]!;
  for (const none of ["3", -1, null, {}, 99999]) tables.letGo(none);
  expect(tables.handOver(other)).toBeUndefined();
  tables.letGo(number);
  tables.letGo(number);
  expect([view[0], views[4]![1][0]]).toEqual([0, 7]);
  expect(to.takeOver(tables.handOver(small())!)).toHaveLength(4096);
  expect(tables.handOver(other)).toBeUndefined();
  tables.close();
  expect(views[4]![1][0]).toBe(0);
  const large = LIMITS.tablesHeldBytes.value / LIMITS.tableBytes.value;
  for (let count = 0; count < large; count++)
    expect(tables.handOver(new Sealed(createSegment(LIMITS.tableBytes.value)))).toBeGreaterThan(0);
  expect(tables.handOver(other)).toBeUndefined();
  tables.close();
  for (const one of [from, to]) one.close();
});

test("pluginGroups: as many groups as the limit, and one more", async () => {
  const [gate, ended] = [Promise.withResolvers<string>(), [] as string[]];
  const open = (): PluginLink => ({ call: () => gate.promise, close: () => undefined, state: "ready" }) as never;
  const links = new GroupLinks([], open, (group) => ended.push(group));
  const ask = (group: string): Promise<unknown> => links.call({ group } as Call, () => undefined);
  const most = LIMITS.pluginGroups.value;
  const all = Array.from({ length: most }, (_, at) => ask(`g${at}`));
  expect(await ask("one more")).toBeInstanceOf(Refusal);
  gate.resolve("done");
  expect(await Promise.all(all)).toEqual(Array.from({ length: most }, () => "done"));
  expect(await ask("one more")).toBe("done");
  expect(ended).toEqual(["g0"]);
  links.close();
});
