/** What becomes of one call of a tool in the process that carries it out. */
import type { PluginAnswer } from "./plugin-calls.ts";
import { TableAnswer, type ToolError } from "./plugin.ts";
import type { Sealed } from "../plane/sealed.ts";

/** What takes secrets out of all that is said. */
export type Takes = {
  readonly json: (text: string) => { readonly value: string };
  readonly value: (value: unknown) => { readonly value: unknown };
  readonly text: (text: string) => { readonly value: string };
};

/**
 * Runs it, and says how that ended. It never fails.
 * @param tableOf seals a table; without it there are none
 */
export async function answerWith(
  run: () => unknown,
  secrets: Takes,
  tableOf?: (table: Sealed | Uint8Array) => Sealed,
): Promise<PluginAnswer> {
  const jsonOf = (result: unknown): string => {
    const json = JSON.stringify(result) as string | undefined;
    if (json === undefined) throw new Error("the answer is not JSON");
    return secrets.json(json).value;
  };
  try {
    const result: unknown = await run();
    if (!(result instanceof TableAnswer)) return { json: jsonOf(result) };
    if (tableOf === undefined) throw new Error("only a plugin answers with a table");
    return { json: jsonOf(result.answer), table: tableOf(result.table) };
  } catch (error) {
    if (!isToolError(error)) return { crash: said(error, secrets) };
    // By its types it says strings; but it comes from a handler.
    const { code, message, retriable, field } = error as { readonly [Key in keyof ToolError]: unknown };
    const told = secrets.value({ message: String(message), field: typeof field === "string" ? field : "" });
    const { message: text, field: where } = told.value as { message: string; field: string }; // only texts went in
    return {
      refusal: {
        ...{ code: String(code), message: text, retriable: retriable === true },
        field: where === "" ? null : where,
      },
    };
  }
}

/** Also one of another copy of this package. */
function isToolError(error: unknown): boolean {
  return error instanceof Error && error.name === "ToolError" && typeof (error as Partial<ToolError>).code === "string";
}

/** An error of the handler, for the audit and for people. */
export function said(error: unknown, secrets: Pick<Takes, "text">): string {
  let text = "something that cannot be printed";
  try {
    text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  } catch {
    // Whatever it is.
  }
  return secrets.text(text).value;
}
