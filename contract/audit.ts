/** What a record of the audit holds, whoever writes it: `docs/security.md`. */

/** Field to its type and what it says. Every record has the first five; the others are those of its event. */
export const AUDIT_FIELDS = {
  time: ["RFC 3339, in UTC", "when it was decided"],
  writer: ["string", "the process that wrote it: what it is, its pid, and when it began in ms of Unix time"],
  seq: ["integer", "number of the record among those of its writer, from 1"],
  worker: ["string", "whom it is about"],
  event: ["string", "see below"],
  verdict: ['"granted" or "denied"', ""],
  reason: ["string", "why"],
  host: ["string or null", "as the worker named it"],
  address: ["string or null", ""],
  port: ["integer or null", ""],
  call: ["string", "system call with what tells it apart"],
  suppressed: ["integer", "so many more like it were left out"],
  path: ["string", "file or folder"],
  what: ["string", "what it ended over, if not a file"],
  policy: ["string", "name"],
  exceptions: ["object", "the policy itself, if it was put together for this start"],
  degraded: ["array of string", "what of the policy is not enforced here"],
  environment: ["string", "folder of the packages that it runs with"],
  for: ["string", "script that asked for them"],
  requirements: ["array of string", "packages"],
  python: ["string or null", "version that it asked for"],
  locked: ["boolean", "whether a lock file says which versions"],
  options: ["array of string", "of the installation"],
  ms: ["integer", "how long that took"],
  error: ["string", "why it failed"],
} as const;

/** Event to what it stands for. */
export const AUDIT_EVENTS = {
  start: "a worker was started under a policy",
  resolve: "packages were installed for it",
  connect: "a connection was made or denied",
  dns: "a question about a name was denied",
  call: "another system call was denied",
  file: "it ended over a file that is not granted",
  memory: "it ended over its limit of memory",
  limit: "it ended over another limit",
  variable: "it ended over a variable that it does not get",
  made: "it made something that tools run by themselves",
} as const;
