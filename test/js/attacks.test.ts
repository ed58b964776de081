/** Guest code that attacks. */
import { testCases } from "./cases.ts";

testCases("attacks.py");
