/** Ctrl-C, threads, forks, event loops, and the end of Python. */
import { skipUnless } from "../needs.ts";
import { pythonWithTrio } from "../packages.ts";
import { testCases } from "./cases.ts";

testCases("lives.py");

const withTrio = await pythonWithTrio();
if (!skipUnless(withTrio !== undefined, "trio", "runtimes of JavaScript under trio")) testCases("trios.py", withTrio);
