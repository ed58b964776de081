/** Calls of high risk that wait for a person, and what persons have allowed, as answers tell it. */

/** A call that waits. */
export type ApprovalStatus = {
  /** The host's id of the call, which its records in the audit have too. */
  readonly id: string;
  readonly worker: string;
  /** One run of the worker. */
  readonly session: string;
  readonly group: string;
  readonly tool: string;
  readonly policy: string;
  readonly asked_at: string;
  /** Nobody has said yes by then: it is a no. */
  readonly expires_at: string;
  /** Of the request. */
  readonly bytes: number;
  /** Of the request: whoever says yes names the first 12 digits or more. */
  readonly sha256: string;
};

/** A page of what a person has to see before saying yes. */
export type ApprovalPage = {
  readonly approval: ApprovalStatus;
  /** Counted from 0. */
  readonly page: number;
  readonly pages: number;
  /** Harmless to whatever shows them. All pages together are the whole call. */
  readonly lines: string[];
};

/** What is allowed for the rest of a session: calls of one tool with exactly one set of argument values. */
export type GrantStatus = {
  readonly id: string;
  readonly worker: string;
  readonly session: string;
  readonly tool: string;
  readonly granted_at: string;
  /** User who allowed it. */
  readonly uid: number;
  /** Calls that it has allowed. */
  readonly uses: number;
  /** The values that it covers, as an approval shows them: the first page. */
  readonly lines: string[];
  /** Whether that is all of them. */
  readonly whole: boolean;
};
