/** The version of the package; a test keeps it equal to package.json, which a call of the CLI need not read. */
export const VERSION = "0.1.0";
