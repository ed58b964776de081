/** Requests of Python to bundle: by a part of the program that is loaded for the first. */
import { TO_ENGINE as FROM } from "../../contract/engine.ts";
import type { BundleRequest } from "./bundler.ts";
import type { Session } from "./guest-session.ts";
import { dataProperty } from "./guest-values.ts";

export function addBundling(session: Session): void {
  session.add({
    take: (kind, number, fields) => {
      if (kind !== FROM.bundle) return false;
      // eslint-disable-next-line @typescript-eslint/no-require-imports -- most engines never load it
      const { bundle } = require("./bundler.ts") as typeof import("./bundler.ts");
      void bundle(requestOf(fields[2] as object)).then((made) => session.answer(number, made));
      return true;
    },
  });
}

function requestOf(told: object): BundleRequest {
  const field = (name: keyof BundleRequest): unknown => dataProperty(told, name);
  return {
    root: field("root") as string,
    entry: field("entry") as string,
    source: field("source") as string | null,
    isAlone: field("isAlone") === true,
    isScript: field("isScript") === true,
    isMinified: field("isMinified") === true,
  };
}
