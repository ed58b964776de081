/** `fetch` and `readFile`: what they reach, and what they do not. */
import { hasTool, skipUnless } from "../needs.ts";
import { testCases } from "./cases.ts";

testCases("reach.py");
if (!skipUnless(await hasTool("openssl", "openssl"), "openssl", "fetch over TLS")) testCases("secure.py");
