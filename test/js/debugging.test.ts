/** Debuggers of JavaScript in Python, profiles, and the engine v8, with the Node that the other tests use. */
import { skipUnless } from "../needs.ts";
import { installNode } from "../node.ts";
import { testCases } from "./cases.ts";

const node = await installNode();
if (!skipUnless(node !== undefined, "Node 22", "JavaScript of Python on V8")) {
  process.env.IPCCTL_JS_NODE = node;
  testCases("debugging.py");
}
