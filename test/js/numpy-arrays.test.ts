/** Arrays of NumPy, where it can be installed. */
import { skipUnless } from "../needs.ts";
import { pythonWithPackages } from "../packages.ts";
import { testCases } from "./cases.ts";

const python = await pythonWithPackages();
if (!skipUnless(python !== undefined, "NumPy", "arrays of NumPy in JavaScript")) testCases("numpy_arrays.py", python);
