/** Bun's clients for databases, as both plugins use them. */
import { limit } from "../base/limits.ts";
import type { Param } from "./statements.ts";
import type { SqlConfig } from "./sql-tools.ts";

export type ConnectionOptions = Bun.SQL.PostgresOrMySQLOptions & {
  readonly database: string;
  readonly password: string;
  readonly hostname: string;
};

/** Nothing of the environment decides where it connects. */
export function connectionOf(config: SqlConfig, password: string, port: number): ConnectionOptions {
  const { host, user: username, database, tls = isHere(host) ? "disable" : "verify-full", tls_ca: ca } = config;
  return {
    ...(host.startsWith("/") ? { path: host, hostname: "localhost" } : { hostname: host }),
    port: config.port ?? port,
    username,
    password,
    database,
    tls: ca === undefined ? (tls === "disable" ? false : tls) : { ca }, // which Bun takes for verify-full
    connectionTimeout: CONNECT_S,
  };
}

/** Less than a tool has. */
const CONNECT_S = 10;

const isHere = (host: string): boolean => host.startsWith("/") || /^(localhost|127\.[\d.]+|::1)$/.test(host);

/**
 * One statement and no more, also without parameters: `unsafe` would send it in another way then, which takes several.
 */
export function oneStatement(sql: Bun.SQL, text: string, params: readonly Param[]): RawQuery {
  if (params.length > 0) return sql.unsafe(text, [...params]).raw() as RawQuery;
  const strings = [text];
  return sql(Object.defineProperty(strings, "raw", { value: strings }) as never).raw() as RawQuery; // as a template
}

/** Several statements of ours. */
export const ownStatements = (sql: Bun.SQL, text: string): Bun.SQL.Query<readonly (readonly object[])[]> =>
  sql.unsafe(text).simple();

export type RawQuery = Bun.SQL.Query<readonly RawRow[]>;
export type RawRow = readonly (Buffer | null)[];

/** More need not be read: it would be left out of the answer. */
export const answerBytes = (): number => limit("sqlAnswerBytes");
