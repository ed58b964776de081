/** The verbs of credentials. Each attempt is recorded, whether it succeeds or not, and nothing of a value is. */
import type { AuditSpool } from "../audit/spool.ts";
import { IpcError } from "../base/errors.ts";
import { parseCredentialName, type CredentialName } from "../desk/credential-name.ts";
import type { Credentials, Verified } from "../desk/credentials.ts";
import { requireSafeUrl } from "../desk/oauth.ts";
import { data, success } from "../protocol/responses.ts";
import type { Tag } from "../protocol/verbs.ts";
import type { HostCalls } from "./host-calls.ts";
import type { VerbTable } from "./verb-table.ts";

export type AuthDeps = {
  readonly credentials: Credentials;
  readonly audit: AuditSpool;
  readonly hostCalls: Pick<HostCalls, "renew">;
};

type Asked = { readonly uid: number };
export type AuthTag = Extract<Tag, `Auth${string}`>;

export const AUTH_HANDLERS: VerbTable<AuthTag, AuthDeps, Asked> = {
  AuthAdd: async ({ name: text, plugin, value }, deps, caller) => {
    const name = parseCredentialName(text, plugin);
    await changed(deps, caller, name, "add", () => deps.credentials.add(name, value));
    return { Success: { message: `Added credential ${name.full}`, name: name.full } };
  },
  AuthLogin: async ({ name: text, plugin, ...login }, deps, caller) => {
    const name = parseCredentialName(text, plugin);
    const client = {
      tokenUrl: requireSafeUrl(login.token_url, "token_url"),
      clientId: login.client_id,
      deviceUrl: login.device_url === null ? null : requireSafeUrl(login.device_url, "device_url"),
      scope: login.scope,
    };
    const { access_token: access, refresh_token: refresh, expires_in: expiresInSeconds } = login;
    await changed(deps, caller, name, "login", () =>
      deps.credentials.login(name, client, { access, refresh, expiresInSeconds }),
    );
    return { Success: { message: `Stored the login ${name.full}`, name: name.full } };
  },
  AuthVerify: async ({ names }, deps, caller) => {
    const all = names.length > 0 ? names : new Set(deps.credentials.list().map(({ name }) => name));
    const checks: Verified[] = [];
    for (const name of [...all].map((text) => parseCredentialName(text))) {
      const found = await deps.credentials.verify(name);
      checks.push(...found);
      for (const check of found) recordCheck(deps, caller, name, check);
    }
    return data(checks.map(({ name, isOk, message }) => ({ name, ok: isOk, message })));
  },
  AuthList: (_, { credentials }) =>
    data(
      credentials.list().map(({ name, plugin, kind, setAtMs, usedAtMs, expiresAtMs, trouble }) => {
        const times = { set_at: toTime(setAtMs), used_at: toTime(usedAtMs), expires_at: toTime(expiresAtMs) };
        return { name, plugin, kind, ...times, trouble };
      }),
    ),
  AuthRemove: async ({ name: text }, deps, caller) => {
    const name = parseCredentialName(text);
    await changed(deps, caller, name, "remove", () => deps.credentials.remove(name));
    return success(`Removed credential ${name.full}`);
  },
  AuthRotate: async ({ name: text, value }, deps, caller) => {
    const name = parseCredentialName(text);
    await changed(deps, caller, name, "rotate", () => deps.credentials.rotate(name, value));
    return success(`Credential ${name.full} has a new value`);
  },
  AuthRotateKey: (_, deps, caller) => {
    const count = recorded(deps, caller, { action: "rotate key" }, () => deps.credentials.rotateKey());
    return { Success: { message: `A new key seals ${count === 1 ? "1 credential" : `${count} credentials`}`, count } };
  },
};

/** Before the answer, so that its plugin does what it is called for from then on with the credential as it is now. */
async function changed(
  deps: AuthDeps,
  caller: Asked,
  { full, plugin }: CredentialName,
  action: string,
  work: () => void,
): Promise<void> {
  recorded(deps, caller, { credential: full, action }, work);
  if (plugin !== null) await deps.hostCalls.renew(plugin);
}

function recorded<T>(
  { audit }: AuthDeps,
  { uid }: Asked,
  what: { readonly credential?: string; readonly action: string },
  work: () => T,
): T {
  const entry = { worker: "", event: "credential", ...what, uid } as const;
  let result: T;
  try {
    result = work();
  } catch (error) {
    const cause = IpcError.from(error, "changing the credentials");
    audit.write({ ...entry, error: cause.message });
    throw cause;
  }
  audit.write({ ...entry, verdict: "granted" });
  return result;
}

function recordCheck({ audit }: AuthDeps, { uid }: Asked, { full }: CredentialName, { isOk, message }: Verified): void {
  const entry = { worker: "", event: "credential", credential: full, action: "verify", uid } as const;
  audit.write(isOk ? { ...entry, verdict: "granted" } : { ...entry, error: message });
}

function toTime(ms: number | null): string | null {
  return ms === null ? null : new Date(ms).toISOString();
}
