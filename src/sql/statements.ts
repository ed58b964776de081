/** What the tools need of a database, whichever it is. */
import type { Rows } from "./answer.ts";
import type { Stop } from "./stop.ts";

/** Text, since JSON has no other exact numbers; lists where the database knows arrays. */
export type Param = null | boolean | number | string | readonly Param[];

export type Statement = {
  readonly sql: string;
  readonly params: readonly Param[];
  /** At most so many rows are read. */
  readonly rows: number;
  /** Of more bytes, about, nothing is given: TABLE_TOO_LARGE. Without it what is read is cut as an answer is. */
  readonly bytes?: number;
  readonly stop: Stop;
};

/** The words with which a statement may begin. */
export type Words = { readonly query: readonly string[]; readonly execute: readonly string[] };

/** Of an error of the database a worker is told as failures.ts says; another one is a crash. */
export interface Database extends AsyncDisposable {
  /** Its kind and its name. */
  readonly origin: string;
  readonly words: Words;
  /** In a transaction that cannot write, and which is rolled back. */
  query(statement: Statement): Promise<Rows>;
  /** In a transaction that is committed. */
  execute(statement: Statement): Promise<Rows & { readonly affected: number }>;
  /** The statement that tells which tables there are, or what is known of one of them. */
  describe(table: string | undefined): { readonly sql: string; readonly params: readonly Param[] };
}
