/**
 * What looks like a secret, for those that the host does not know: credentials in a database's rows, in a page that was
 * fetched. Only forms that nothing else has; a hash, an UUID or an encoded picture is the worker's data and stays.
 */

/** Half open, in UTF-16 units. */
export type Range = { readonly start: number; readonly end: number; readonly what: string };

type Form = {
  readonly what: string;
  /** One of them is in every text that matches: most texts have none, and looking for fixed texts is cheap. */
  readonly marks: readonly string[];
  /** With `d` where only the first group is the secret. Linear: every repetition is bounded, or ends its pattern. */
  readonly pattern: RegExp;
};

export const PRIVATE_KEY = "a private key";

const FORMS: readonly Form[] = [
  ...form(PRIVATE_KEY, [
    [
      ["PRIVATE KEY"],
      /-{4,5} ?BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[^]*?(?:-{4,5} ?END [A-Z0-9 ]{0,40}KEY(?: BLOCK)? ?-{4,5}|$)/g,
    ],
    [["PuTTY-User-Key-File-"], /PuTTY-User-Key-File-\d[^]*/g],
    [["AGE-SECRET-KEY-1"], /AGE-SECRET-KEY-1[0-9A-Z]{20,}/g],
  ]),
  ...form("an authorisation", [
    [["earer", "EARER", "asic ", "BASIC "], /\b(?:bearer|basic)[ +]+([\w.~+/=-]{8,})/dgi],
    [
      ["uthorization", "UTHORIZATION"],
      /\bauthorization["']?\s{0,4}[:=]\s{0,4}["']?(?!(?:bearer|basic) )(?:[a-z]{1,16} )?([^\s"',;]{8,})/dgi,
    ],
  ]),
  ...form("a JSON Web Token", [[["eyJ"], /(?<![\w-])eyJ[\w-]{8,}\.(?:eyJ[\w-]{8,}|[\w-]{0,4096}\.[\w-]{8,})[\w.-]*/g]]),
  ...form("a connection string", [
    [["://"], /:\/\/[^\s:/@"'<>]{0,256}:([^\s/@"'<>]{1,1024})@/dg],
    [["ccountKey=", "ccessKey=", "ccessSignature="], /\b(?:Account|SharedAccess)(?:Key|Signature)=([^\s;"']{8,})/dg],
    [
      ["assword=", "ASSWORD=", "asswd=", "wd=", "WD="],
      /(?:[;?&\s]|^)(?:password|pwd|passwd)=("[^"]{1,1024}"|'[^']{1,1024}'|[^\s;&"']{1,1024})/dgi,
    ],
  ]),
  ...form("an OAuth token", [
    [
      ["_token", "_TOKEN", "Token"],
      /\b_?(?:access|refresh|id|auth|session|security)_?token["']?\s{0,4}[:=]\s{0,4}["']?([^\s"'&,;<>{}]{8,})/dgi,
    ],
    [
      ["lient_secret", "LIENT_SECRET", "Secret", "ecret_access_key", "ECRET_ACCESS_KEY"],
      /\b(?:client_?secret|(?:aws_?)?secret_?access_?key)["']?\s{0,4}[:=]\s{0,4}["']?([^\s"'&,;<>{}]{8,})/dgi,
    ],
  ]),
  // What services call their own keys, so that they can be found.
  ...form("an API key", [
    [["sk-", "sk_", "rk_"], /\b(?:sk|rk)[-_](?=[\w-]{0,99}?\d)[\w-]{20,}/g],
    [["gsk_", "npm_", "hf_", "r8_", "lin_api_", "ntn_"], /\b(?:gsk|npm|hf|r8|lin_api|ntn)_\w{30,}/g],
    [["pypi-", "PMAK-", "NRAK-"], /\b(?:pypi-[\w-]{50,}|PMAK-[\w-]{40,}|NRAK-[A-Z0-9]{27})/g],
    [["pplx-", "xai-", "tvly-"], /\b(?:pplx|xai|tvly)-[\w-]{30,}/g],
    [["AKIA", "ASIA", "ABIA", "ACCA"], /\b(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}\b/g],
    [["ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"], /\b(?:gh[pousr]_|github_pat_)\w{20,}/g],
    [["glpat-", "gldt-", "glrt-", "glptt-", "glcbt-", "glsoat-"], /\bgl(?:pat|dt|rt|ptt|cbt|soat)-[\w.-]{20,}/g],
    [["xox", "xapp-", "xwfp-"], /\b(?:xox[a-z](?:\.xox[a-z])?|xapp|xwfp)-[\w-]{10,}/g],
    [["hooks.slack.com/"], /\/services\/T\w{6,}\/B\w{6,}\/\w{16,}/g],
    [["/api/webhooks/"], /\/api\/webhooks\/\d{15,}\/[\w-]{50,}/g],
    [["AIza", "ya29.", "GOCSPX-"], /\b(?:AIza[\w-]{35}|ya29\.[\w.-]{20,}|GOCSPX-[\w-]{20,})/g],
    [["1//0"], /\b1\/\/0[\w-]{30,}/g],
    [["dop_v1_", "doo_v1_", "dor_v1_"], /\bdo[opr]_v1_[0-9a-f]{64}/g],
    [["SG."], /\bSG\.[\w-]{16,}\.[\w-]{16,}/g],
    [["key-", "dapi"], /\b(?:key-|dapi)[0-9a-f]{32}\b/g],
    [["whsec_", "glsa_", "glc_"], /\b(?:whsec|glsa|glc)_[\w+/=]{20,}/g],
    [["hvs.", "hvb.", "hvr."], /\bhv[sbr]\.[\w-]{20,}/g],
    [["shpat_", "shpca_", "shppa_", "shpss_"], /\bshp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}/g],
    [["sbp_", "pscale_"], /\b(?:sbp_[0-9a-f]{40}|pscale_\w{2,8}_[\w.-]{30,})/g],
    [[":AA"], /\b\d{8,10}:AA[\w-]{33}\b/g],
  ]),
];

function form(what: string, patterns: readonly (readonly [marks: readonly string[], pattern: RegExp])[]): Form[] {
  return patterns.map(([marks, pattern]) => ({ what, marks, pattern }));
}

const MARK = new RegExp(
  [...new Set(FORMS.flatMap(({ marks }) => marks))].map((mark) => mark.replaceAll(/[.+/]/g, "\\$&")).join("|"),
);

/** Names of fields whose value is a token, whatever it looks like. */
const TOKEN_FIELD =
  /^(?:(?:access|refresh|id|auth|session|security)(?:_token|Token)|client_?secret|(?:aws_?)?secret_?access_?key)$/i;

/** Whether there may be anything in a text, or in JSON as JSON.stringify writes it. */
export function mayHavePatterns(text: string): boolean {
  return MARK.test(text);
}

export function isTokenField(name: string): boolean {
  return mayHavePatterns(name) && TOKEN_FIELD.test(name);
}

/** A key file line by line, as a list or a column has it: from the line that begins it to the one that ends it. */
export function findSplitKeys(text: string): Range[] {
  const found: Range[] = [];
  const begin = /-{5}BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-{5}/g;
  const end = /-{5}END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-{5}/g;
  for (let first = begin.exec(text); first !== null; first = begin.exec(text)) {
    end.lastIndex = begin.lastIndex;
    if (end.exec(text) === null) break; // nor is there one after what begins later
    begin.lastIndex = end.lastIndex;
    found.push({ start: first.index, end: end.lastIndex, what: PRIVATE_KEY });
  }
  return found;
}

export function findPatterns(text: string): Range[] {
  if (!mayHavePatterns(text)) return [];
  return FORMS.filter(({ marks }) => marks.some((mark) => text.includes(mark))).flatMap(({ what, pattern }) =>
    [...text.matchAll(pattern)].map((match) => {
      const secret = match.indices?.slice(1).find((range) => range !== undefined);
      const [start, end] = secret ?? [match.index, match.index + match[0].length];
      return { start, end, what };
    }),
  );
}
