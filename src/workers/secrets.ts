/** Masks values that look secret wherever an environment is shown. */

const SECRET_NAME =
  /(secret|passw(or)?d|passphrase|token|api_?key|apikey|private|credential|auth|cookie|session|signature|salt|dsn|(^|_)key$|(^|_)pass$|(^|_)pwd$|(^|_)pin$)/i;
/** Forms that are secret under any name: well-known token prefixes, JSON web tokens, PEM blocks. */
const SECRET_VALUE =
  /^(sk-|pk_|rk_|ghp_|gho_|ghs_|github_pat_|glpat-|xox[abprs]-|AKIA|ASIA|AIza|eyJ[\w-]+\.|-----BEGIN|npm_|hf_|SG\.|Bearer |Basic )/;
export const MASK = "********";

/** The same variables with secret values masked; a password inside a URL is masked in place. */
export function maskEnv(env: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(env).map(([name, value]) => [name, maskValue(name, value)]));
}

function maskValue(name: string, value: string): string {
  if (name === "PWD" || name === "OLDPWD") return value; // folders, under a shell's own names
  if (SECRET_VALUE.test(value)) return MASK;
  const masked = maskUrls(value);
  if (masked !== value) return masked;
  return SECRET_NAME.test(name) && value !== "" ? MASK : value;
}

/** `scheme://user:password@host` → `scheme://user:********@host`, also with query parameters named like secrets. */
export function maskUrls(text: string): string {
  return text
    .replace(/([a-z][a-z0-9+.-]*:\/\/[^\s:/@]*):[^\s/]*@/gi, `$1:${MASK}@`)
    .replace(/([?&;](?:[\w-]*(?:token|key|secret|password|passwd|pwd|signature|sig)[\w-]*)=)[^&;#\s]+/gi, `$1${MASK}`);
}

/** Arguments of a command line, with `--password X`, `--token=X` and URLs masked. */
export function maskArgs(args: readonly string[]): string[] {
  return args.map((arg, index) => {
    const flag = /^--?([\w-]+)=(.*)$/s.exec(arg);
    if (flag && SECRET_NAME.test(flag[1]!.replaceAll("-", "_"))) return `${arg.slice(0, arg.indexOf("=") + 1)}${MASK}`;
    const before = args[index - 1];
    const isValue = before !== undefined && /^--?[\w-]+$/.test(before) && !arg.startsWith("-");
    if (isValue && SECRET_NAME.test(before.replace(/^-+/, "").replaceAll("-", "_"))) return MASK;
    return maskUrls(arg);
  });
}
