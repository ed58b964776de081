/**
 * Which addresses are not of the public Internet: for policies, whose connections the helper makes, and for what
 * plugins fetch. IPv4 counts as ::ffff:a.b.c.d, so that an address has one form.
 */
import type { ADDRESS_CLASS } from "./shim.ts";

export type AddressClass = keyof typeof ADDRESS_CLASS;

/** What the stub of a policy gives out: each stands for a name, which the connect helper has looked up and checked. */
export const STUB_RANGE = "198.18.0.0/15";

/** An address is of the classes of every range that it lies in. `self` has none: only the kernel knows. */
export const ADDRESS_RANGES = [
  { range: "0.0.0.0/8", classes: ["loopback", "multicast"], why: "0.0.0.0 is this host, to the kernel" },
  { range: "10.0.0.0/8", classes: ["private"], why: "" },
  { range: "100.64.0.0/10", classes: ["private"], why: "between a provider and its customers" },
  { range: "127.0.0.0/8", classes: ["loopback"], why: "" },
  { range: "169.254.0.0/16", classes: ["link-local"], why: "" },
  { range: "172.16.0.0/12", classes: ["private"], why: "" },
  { range: "192.0.0.0/24", classes: ["multicast"], why: "assigned to protocols" },
  { range: "192.168.0.0/16", classes: ["private"], why: "" },
  { range: STUB_RANGE, classes: ["multicast"], why: "given out by the stub of a policy; no real name resolves to it" },
  { range: "224.0.0.0/3", classes: ["multicast"], why: "reserved ones and broadcast as well" },
  { range: "169.254.169.254/32", classes: ["metadata"], why: "most clouds" },
  { range: "169.254.170.2/32", classes: ["metadata"], why: "containers at AWS" },
  { range: "169.254.170.23/32", classes: ["metadata"], why: "likewise" },
  { range: "100.100.100.200/32", classes: ["metadata"], why: "Alibaba" },
  { range: "168.63.129.16/32", classes: ["metadata"], why: "Azure" },
  { range: "192.0.0.192/32", classes: ["metadata"], why: "Oracle" },
  { range: "::/128", classes: ["loopback", "multicast"], why: "as 0.0.0.0" },
  { range: "::1/128", classes: ["loopback"], why: "" },
  { range: "fc00::/7", classes: ["private"], why: "" },
  { range: "fec0::/10", classes: ["private"], why: "of a site, as it was once meant" },
  {
    range: "64:ff9b:1::/48",
    classes: ["private"],
    why: "a NAT64 of the site: the IPv4 address in it does not stand at a fixed place",
  },
  { range: "fe80::/10", classes: ["link-local"], why: "" },
  { range: "ff00::/8", classes: ["multicast"], why: "" },
  { range: "100::/64", classes: ["multicast"], why: "is discarded" },
  { range: "fd00:ec2::23/128", classes: ["metadata"], why: "containers at AWS" },
  { range: "fd00:ec2::254/128", classes: ["metadata"], why: "AWS" },
  { range: "fd20:ce::254/128", classes: ["metadata"], why: "Google" },
] as const satisfies readonly { range: string; classes: readonly AddressClass[]; why: string }[];

/**
 * IPv6 addresses that contain an IPv4 address, which begins at the byte `at`: those that equal `value` in the bits of
 * `mask`. They are of the classes of what they contain as well.
 */
export const ADDRESS_CARRIERS = [
  { value: "64:ff9b::", mask: "ffff:ffff:ffff:ffff:ffff:ffff::", at: 12, inverted: false, why: "NAT64" },
  { value: "2002::", mask: "ffff::", at: 2, inverted: false, why: "6to4" },
  { value: "::", mask: "ffff:ffff:ffff:ffff:ffff:ffff::", at: 12, inverted: false, why: 'once "compatible"' },
  { value: "::ffff:0:0:0", mask: "ffff:ffff:ffff:ffff:ffff:ffff::", at: 12, inverted: false, why: "translated" },
  { value: "2001::", mask: "ffff:ffff::", at: 12, inverted: true, why: "Teredo: the client" },
  { value: "2001::", mask: "ffff:ffff::", at: 4, inverted: false, why: "Teredo: the server" },
  { value: "::5efe:0:0", mask: "::fdff:ffff:0:0", at: 12, inverted: false, why: "ISATAP" },
] as const;
