/** What users meet first. */
import { testCases } from "./cases.ts";

testCases("usage.py");
