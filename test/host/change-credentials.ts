/** A process that changes credentials and dies in the middle: STATE WHAT CHANGE, and prints which changes it made. */
import { dieAtChange } from "./dying-fs.ts";

const [state = "", what = "", at = "0"] = process.argv.slice(2);
const called = dieAtChange(Number(at));
const { parseCredentialName } = await import("../../src/desk/credential-name.ts");
const { Credentials } = await import("../../src/desk/credentials.ts");
const credentials = new Credentials(state, undefined);
const name = parseCredentialName("http/token");
if (what === "add") credentials.add(name, "first-value");
else if (what === "rotate") credentials.rotate(name, "second-value");
else if (what === "recover") credentials.recover();
else credentials.rotateKey();
console.log(called.join(" "));
