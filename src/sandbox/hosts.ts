/**
 * The hosts that a policy names. In a file of its own because the policy reader loads slowly and flags do not need it.
 */
import { isIPv4, isIPv6 } from "node:net";
import { IpcError } from "../base/errors.ts";

export type HostRule = { readonly host: string; readonly port: number };

const NAME = /^(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/i;

/** Splits `HOST:PORT`; undefined if it has another form. */
export function splitHost(text: string): HostRule | undefined {
  const match = /^(?:\[([0-9a-fA-F:.]+(?:\/\d{1,3})?)\]|([^:[\]]+)):(\d{1,5}|\*)$/.exec(text);
  if (!match) return undefined;
  const port = match[3] === "*" ? 0 : Number(match[3]);
  if (match[3] !== "*" && (port < 1 || port > 65_535)) return undefined;
  if (match[1] !== undefined) {
    const [address = "", bits] = match[1].split("/");
    return isIPv6(address) && Number(bits ?? 128) <= 128 ? { host: match[1].toLowerCase(), port } : undefined;
  }
  const name = match[2]!;
  const numbers = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?:\/(\d{1,2}))?$/.exec(name);
  if (numbers) {
    const isAddress = isIPv4(name.split("/")[0]!) && Number(numbers[5] ?? 32) <= 32;
    return isAddress ? { host: name, port } : undefined;
  }
  return NAME.test(name) && name.length <= 253 && !/(^|\.)\d+$/.test(name)
    ? { host: name.toLowerCase(), port }
    : undefined;
}

/** @throws IpcError USAGE naming the first host with another form */
export function requireHosts(hosts: readonly string[]): void {
  const bad = hosts.find((host) => splitHost(host) === undefined);
  if (bad !== undefined)
    throw new IpcError("USAGE", `--allow-net: ${JSON.stringify(bad)} is not HOST:PORT`, {
      hint: "for example --allow-net=api.example.com:443,10.0.0.0/8:5432; --allow-net alone grants all of the network",
    });
}
