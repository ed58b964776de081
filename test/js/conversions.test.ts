/** Values both ways, on all paths between Python and JavaScript. */
import { testCases } from "./cases.ts";

testCases("conversions.py");
