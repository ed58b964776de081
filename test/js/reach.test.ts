/** `fetch` and `readFile`: what they reach, and what they do not. */
import { expect, test } from "bun:test";
import { LIMITS } from "../../contract/limits.ts";
import { hasTool, skipUnless } from "../needs.ts";
import { testCases } from "./cases.ts";

testCases("reach.py");
if (!skipUnless(await hasTool("openssl", "openssl"), "openssl", "fetch over TLS")) testCases("secure.py");

test("fetchConnections, fetchRedirects and fetchHeadBytes are as the cases have them", () => {
  const { fetchConnections, fetchRedirects, fetchHeadBytes } = LIMITS;
  expect([fetchConnections, fetchRedirects, fetchHeadBytes].map(({ value }) => value)).toEqual([64, 20, 65_536]);
});
