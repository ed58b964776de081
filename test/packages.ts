/** A Python with the packages that people call from TypeScript, installed once, in build/, for the tests that need them. */
import { venvWith } from "./needs.ts";

const PACKAGES = [
  ...["numpy==2.4.6", "pyarrow==26.0.1", "scikit-learn==1.9.1"],
  ...["pandas==3.1.1", "matplotlib==3.11.2", "requests==2.34.2"],
];

/** The interpreter; undefined where they cannot be installed. */
export function pythonWithPackages(): Promise<string | undefined> {
  return venvWith("test-python", PACKAGES);
}
