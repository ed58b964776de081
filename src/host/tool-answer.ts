/** What becomes of one call of a tool in the process that carries it out. */
import type { PluginAnswer } from "./plugin-calls.ts";
import type { ToolError } from "./plugin.ts";

/** What takes secrets out of all that is said. */
export type Takes = {
  readonly json: (text: string) => { readonly value: string };
  readonly value: (value: unknown) => { readonly value: unknown };
  readonly text: (text: string) => { readonly value: string };
};

/** Runs it, and says how that ended. It never fails. */
export async function answerWith(run: () => unknown, secrets: Takes): Promise<PluginAnswer> {
  try {
    const json = JSON.stringify(await run()) as string | undefined;
    if (json === undefined) throw new Error("the answer is not JSON");
    return { json: secrets.json(json).value };
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
