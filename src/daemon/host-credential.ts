/** Gives a worker a credential of the host, by its name in the worker's definition. */
import type { AuditSpool } from "../audit/spool.ts";
import { IpcError } from "../base/errors.ts";
import { parseCredentialName } from "../desk/credential-name.ts";
import type { Credentials } from "../desk/credentials.ts";

/** @throws IpcError NOT_FOUND; USAGE for a name of none, or one of a plugin's */
export async function hostCredential(
  { credentials, audit }: { readonly credentials: Credentials; readonly audit: AuditSpool },
  text: string,
  worker: string,
): Promise<string> {
  const name = parseCredentialName(text);
  if (name.plugin !== null)
    throw new IpcError("USAGE", `stdin: the credential ${name.full} is of the plugin ${name.plugin}, for nobody else`, {
      hint: "add one of the host: ipcctl auth add NAME",
    });
  const value = await credentials.use(name);
  audit.write({ worker, event: "credential", credential: name.full, action: "pipe" });
  return value;
}
