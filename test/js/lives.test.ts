/** Ctrl-C, threads, forks, event loops, and the end of Python. */
import { testCases } from "./cases.ts";

testCases("lives.py");
