/** What Python grants a guest to reach and to read: by parts of the program that are loaded for the first grant. */
import { TO_ENGINE as FROM } from "../../contract/engine.ts";
import type { Session } from "./guest-session.ts";
import { dataProperty } from "./guest-values.ts";
import type { Streams } from "./guest-streams.ts";

export function addGrants(session: Session, streams: Streams): void {
  let hasNet = false;
  session.add({
    isTiming: () => hasNet, // connections have timers
    take: (kind, _, fields) => {
      if (kind !== FROM.grant) return false;
      const told = fields[2] as object;
      if (dataProperty(told, "net") === true) {
        hasNet = true;
        // eslint-disable-next-line @typescript-eslint/no-require-imports -- most engines never load it
        const { addFetch } = require("./guest-net.ts") as typeof import("./guest-net.ts");
        const authorities = dataProperty(told, "authorities");
        addFetch(session, streams.web, typeof authorities === "string" ? authorities : undefined);
      }
      const read = dataProperty(told, "read") as unknown[];
      if (read.length > 0) {
        // eslint-disable-next-line @typescript-eslint/no-require-imports -- most engines never load it
        const { addFiles } = require("./guest-files.ts") as typeof import("./guest-files.ts");
        const paths: string[] = [];
        for (let at = 0; at < read.length; at++) paths.push(read[at] as string);
        addFiles(session, paths);
      }
      return true;
    },
  });
}
