/** A process that replaces one file, adds one, deletes one, and dies in the middle: FOLDER AT [made]. */
import { dieAtChange } from "./dying-fs.ts";

const [folder = "", at = "0", isMade] = process.argv.slice(2);
const called = dieAtChange(Number(at), isMade === "made");
const { FileStore } = await import("../../src/stores/file-store.ts");
const store = new FileStore(folder, "g");
await store.write({ name: "a" }, Buffer.alloc(200_000, "n"), "host");
await store.write({ name: "new" }, Buffer.from("new"), "host");
store.delete(store.list({ name: "gone" }).files[0]!.id, "host");
console.log(called.join(" "));
