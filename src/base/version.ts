/** The version of the package. A test compares it with package.json, so that a command need not read that file. */
export const VERSION = "0.1.0";
