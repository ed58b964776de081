/**
 * `init`: writes an ipcctl.json for this folder, from a pm2 or bunctl file if there is one, else from its Python
 * scripts.
 */
import { existsSync, readdirSync, writeFileSync } from "node:fs";
import { basename } from "node:path";
import { IpcError } from "../base/errors.ts";
import { fromPm2, readProject, type Definition } from "../protocol/project.ts";
import type { Context } from "./context.ts";

/** Scripts of a project that are not services. */
const NO_WORKER = /^(_.*|setup|conftest|manage|noxfile|test_.*|.*_test)\.py$/;

export function init(context: Context, isForced: boolean): Promise<number> {
  const target = context.resolve("ipcctl.json");
  if (existsSync(target) && !isForced)
    throw new IpcError("FAILED", `${target} exists already`, { hint: "replace it with: ipcctl init --force" });
  const apps = findApps(context);
  writeFileSync(target, `${JSON.stringify({ apps }, null, 2)}\n`);
  if (context.isJson) context.print(JSON.stringify({ path: target, apps: apps.map(({ name }) => name) }));
  else
    context.print(`wrote ${target} with ${apps.length} app${apps.length === 1 ? "" : "s"}; start with: ipcctl start`);
  return Promise.resolve(0);
}

function findApps(context: Context): Definition[] {
  const bunctl = context.resolve("bunctl.json");
  if (existsSync(bunctl)) return readProject(bunctl);
  const pm2 = context.resolve("ecosystem.config.json");
  if (existsSync(pm2))
    return readProject(pm2).map((written) => {
      const { app, left } = fromPm2(written);
      if (left.length > 0) context.note(`ipcctl: app ${app.name}: left out, with no counterpart: ${left.join(", ")}`);
      return app;
    });
  const code = ["js", "cjs", "mjs"]
    .map((ending) => `ecosystem.config.${ending}`)
    .find((file) => existsSync(context.resolve(file)));
  if (code !== undefined)
    throw new IpcError("FAILED", `${code} is a program, and ipcctl executes no configuration`, {
      hint: `write its contents once: node -p 'JSON.stringify(require("./${code}"))' > ecosystem.config.json; then: ipcctl init`,
    });
  const scripts = readdirSync(context.cwd).filter((name) => name.endsWith(".py") && !NO_WORKER.test(name));
  if (scripts.length === 0)
    throw new IpcError("FAILED", `no Python script, bunctl.json or ecosystem.config.json in ${context.cwd}`, {
      hint: "start one by its path: ipcctl start PATH/worker.py",
    });
  return scripts.toSorted().map((script) => ({ name: basename(script, ".py"), script, restart_policy: "on-failure" }));
}
