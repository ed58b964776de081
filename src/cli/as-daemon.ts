/** What commands ask of a start as the daemon will, but for what is the daemon's own. */
import { join } from "node:path";
import { AuditSpool } from "../audit/spool.ts";
import type { Preparation } from "../launch/settle.ts";
import { ownUserOf } from "../launch/users.ts";
import type { Context } from "./context.ts";

export function asDaemon(
  { paths: { stateDir, workersDir, environmentsDir: environments, config } }: Context,
  name: string,
  { app, base }: Pick<Preparation, "app" | "base">,
): Preparation {
  return {
    ...{ app, base, name },
    own: {},
    scratch: join(workersDir, name, "scratch"),
    isScratchShut: true,
    ownUser: ownUserOf(name),
    audit: new AuditSpool(stateDir, "run"),
    ...{ environments, config },
    hasPlane: true,
  };
}
