/** Addresses of the Internet Protocol in their one form, and what kind of network they belong to. */
import { isIPv4, isIPv6 } from "node:net";
import { ADDRESS_CARRIERS, ADDRESS_RANGES, STUB_RANGE, type AddressClass } from "../../contract/addresses.ts";

const BYTES = 16;
const V4_AT = 12;
const HEX = 16;

/** 16 bytes, an IPv4 address as ::ffff:a.b.c.d; undefined if it is no address, or has a zone. */
export function parseAddress(text: string): Uint8Array | undefined {
  if (isIPv4(text)) return mapped(bytesOfV4(text));
  if (!isIPv6(text) || text.includes("%")) return undefined;
  const [head = "", tail] = text.split("::");
  const [front, back] = [groupsOf(head), groupsOf(tail ?? "")];
  return Uint8Array.from([...front, ...Array<number>(BYTES - front.length - back.length).fill(0), ...back]);
}

/** Whether the first `bits` of both are the same. */
function isIn(address: Uint8Array, { prefix, bits }: Range): boolean {
  return prefix.every((byte, at) => {
    const known = Math.min(8, Math.max(0, bits - 8 * at));
    return ((byte ^ address[at]!) & (0xff << (8 - known)) & 0xff) === 0;
  });
}

/** `10.0.0.0/8`; bits count from the first of the 16 bytes. @throws if it is no range */
export function parseRange(text: string): Range {
  const [address = "", bits = ""] = text.split("/");
  const prefix = parseAddress(address);
  if (prefix === undefined || !/^\d{1,3}$/.test(bits))
    throw new Error(`${JSON.stringify(text)} is not a range, such as 10.0.0.0/8`);
  return { prefix, bits: Number(bits) + (isIPv4(address) ? 8 * V4_AT : 0) };
}

/** All classes of an address and of the IPv4 addresses in it, as the connect helper knows them too. */
export function classesOf(address: Uint8Array): ReadonlySet<AddressClass> {
  const inner = CARRIERS.filter(({ value, mask }) =>
    value.every((byte, at) => ((byte ^ address[at]!) & mask[at]!) === 0),
  ).map(({ at, flip }) => mapped([...address.subarray(at, at + 4)].map((byte) => byte ^ flip)));
  return new Set(
    [address, ...inner].flatMap((one) => RANGES.flatMap(({ range, classes }) => (isIn(one, range) ? classes : []))),
  );
}

/** Whether it stands for a name in a process whose connections the helper makes. Elsewhere it stands for nothing. */
export function isOfStub(address: Uint8Array): boolean {
  return isIn(address, STUB);
}

type Range = { readonly prefix: Uint8Array; readonly bits: number };

const RANGES: readonly { readonly range: Range; readonly classes: readonly AddressClass[] }[] = ADDRESS_RANGES.map(
  ({ range, classes }) => ({ range: parseRange(range), classes }),
);
const STUB = parseRange(STUB_RANGE);
const CARRIERS = ADDRESS_CARRIERS.map(({ value, mask, at, inverted }) => ({
  ...{ value: parseAddress(value)!, mask: parseAddress(mask)!, at, flip: inverted ? 0xff : 0 },
}));

function mapped(v4: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(BYTES);
  bytes.set([0xff, 0xff, ...v4], V4_AT - 2);
  return bytes;
}

function bytesOfV4(text: string): number[] {
  return text.split(".").map(Number);
}

/** The last of the groups may be an IPv4 address. */
function groupsOf(text: string): number[] {
  if (text === "") return [];
  return text.split(":").flatMap((group) => {
    if (group.includes(".")) return bytesOfV4(group);
    const value = Number.parseInt(group, HEX);
    return [value >> 8, value & 0xff];
  });
}
