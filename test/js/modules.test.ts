/** Modules, and packages of npm. */
import { skipUnless } from "../needs.ts";
import { folderOfPackages } from "../packages.ts";
import { environment, testCases } from "./cases.ts";

testCases("modules.py");
const packages = await folderOfPackages();
if (!skipUnless(packages !== undefined, "npm", "packages of npm in JavaScript")) {
  Object.assign(environment, { IPCCTL_TEST_PACKAGES: packages });
  testCases("bundles.py");
}
