/**
 * What a program printed, made safe for a terminal: colours and carriage returns are obeyed, other control characters
 * are shown.
 */

const SGR = "\\x1b\\[[0-9;:]{0,64}m";
/** UTF-8 characters, byte by byte: such a byte may look like a control character and is not one. */
const CHARACTER =
  "\\xc2[\\xa0-\\xbf]|[\\xc3-\\xdf][\\x80-\\xbf]|\\xe0[\\xa0-\\xbf][\\x80-\\xbf]|\\xed[\\x80-\\x9f][\\x80-\\xbf]|[\\xe1-\\xec\\xee\\xef][\\x80-\\xbf]{2}|\\xf0[\\x90-\\xbf][\\x80-\\xbf]{2}|[\\xf1-\\xf3][\\x80-\\xbf]{3}|\\xf4[\\x80-\\x8f][\\x80-\\xbf]{2}";
const CONTROL = "[\\x00-\\x08\\x0a-\\x0c\\x0e-\\x1f\\x7f-\\x9f]";
const SUSPECT = new RegExp(CONTROL);
const PARTS = new RegExp(`(${SGR}|${CHARACTER})|\\xc2?(${CONTROL})`, "g");
const BEGUN = /\x1b(?:\[[0-9;:]{0,64})?$/;
const BEGUN_BYTES_MAX = 66;

export function visible(text: Uint8Array): Uint8Array {
  const bytes = Buffer.from(text.buffer, text.byteOffset, text.length).toString("latin1");
  if (!SUSPECT.test(bytes)) return text;
  const shown = bytes.replace(PARTS, (_all: string, kept: string | undefined, control: string) =>
    kept === undefined ? `\\x${control.charCodeAt(0).toString(16).padStart(2, "0")}` : kept,
  );
  return Buffer.from(shown, "latin1");
}

/** How much of a text can be shown before the rest is known: the start of a colour is kept back. */
export function endOfVisible(text: Uint8Array): number {
  const begun = BEGUN.exec(Buffer.from(text.subarray(-BEGUN_BYTES_MAX)).toString("latin1"));
  return text.length - (begun?.[0].length ?? 0);
}
