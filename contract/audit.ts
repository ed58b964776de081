/** The fields of a record of the audit, for all its writers: `docs/security.md`. */

/** Type and meaning of each field. Every record has the first five; the others depend on its event. */
export const AUDIT_FIELDS = {
  time: ["RFC 3339, in UTC", "when it was decided"],
  writer: ["string", "the process that wrote it: its role, its pid, and when it was started, in ms of Unix time"],
  seq: ["integer", "number of the record, counted by its writer from 1"],
  worker: ["string", "name of the worker that it is about, empty if it is about none"],
  event: ["string", "see below"],
  verdict: ['"granted" or "denied"', ""],
  reason: ["string", "why it was decided so"],
  host: ["string or null", "host, as the worker named it"],
  address: ["string or null", "to which the connection went"],
  port: ["integer or null", ""],
  call: ["string", "system call, with the arguments that matter"],
  suppressed: ["integer", "number of similar records that were left out"],
  path: ["string", "file or folder"],
  what: ["string", "what the worker ended over, if it was not a file"],
  policy: ["string", "name of the policy"],
  exceptions: ["object", "the policy itself, if it was made for this start by exceptions"],
  degraded: ["array of string", "parts of the policy that are not enforced here"],
  environment: ["string", "folder of the installed packages"],
  for: ["string", "script that requires them"],
  requirements: ["array of string", "required packages"],
  python: ["string or null", "required version of Python"],
  locked: ["boolean", "whether a lock file fixes the versions"],
  options: ["array of string", "options of the installation"],
  ms: ["integer", "duration of the installation"],
  error: ["string", "why the installation, or what was asked, failed"],
  credential: ["string", "full name of the credential"],
  action: ["string", "what was asked for the credential, or for all: add, login, rotate, verify, remove, rotate key"],
  uid: ["integer", "user who asked"],
} as const;

/** Meaning of each event. */
export const AUDIT_EVENTS = {
  start: "a worker was started under a policy",
  resolve: "packages were installed for a worker",
  connect: "a connection was granted or denied",
  dns: "a lookup of a name was denied",
  call: "another system call was denied",
  file: "a worker ended over a file that is not granted",
  memory: "a worker ended over its memory limit",
  limit: "a worker ended over another limit",
  variable: "a worker ended over an environment variable that is not granted",
  credential: "a credential, or the key of all, was changed",
  made: "a worker created a file that tools run by themselves",
} as const;
