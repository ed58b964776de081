/** A MariaDB or MySQL database, for workers: they read it, and change it where the configuration says so. */
import type { Plugin } from "../../src/host/plugin.ts";
import { connectionOf } from "../../src/sql/driver.ts";
import { sqlTools, timeoutOf, type SqlConfig } from "../../src/sql/sql-tools.ts";
import { MySql } from "./mysql.ts";

const PORT = 3306;

const mysql: Plugin<SqlConfig> = ({ config, credentials: { password = "" } }) =>
  sqlTools(config, new MySql(connectionOf(config, password, PORT), timeoutOf(config)));

export default mysql;
