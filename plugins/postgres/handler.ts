/** A PostgreSQL database, for workers: they read it, and change it where the configuration says so. */
import type { Plugin } from "../../src/host/plugin.ts";
import { connectionOf } from "../../src/sql/driver.ts";
import { connectionsOf, sqlTools, timeoutOf, type SqlConfig } from "../../src/sql/sql-tools.ts";
import { Postgres } from "./postgres.ts";

const PORT = 5432;

const postgres: Plugin<SqlConfig> = ({ config, credentials: { password = "" } }) =>
  sqlTools(config, new Postgres(connectionOf(config, password, PORT), connectionsOf(config), timeoutOf(config)));

export default postgres;
