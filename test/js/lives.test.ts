/** Ctrl-C, threads, forks, event loops, and the end of Python. */
import { skipUnless } from "../needs.ts";
import { pythonWithTrio } from "../packages.ts";
import { node, testCases, testCasesOnV8 } from "./cases.ts";

testCases("lives.py");
if (!skipUnless(node !== undefined, "Node 22", "interrupts of V8"))
  testCasesOnV8("lives.py", /^interrupt_|^interrupts_of_ends$/);

const withTrio = await pythonWithTrio();
if (!skipUnless(withTrio !== undefined, "trio", "runtimes of JavaScript under trio")) testCases("trios.py", withTrio);
