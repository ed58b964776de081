/** SQL over the files of the group, by DuckDB. */
import { duckdbTools } from "../../src/duckdb/duckdb-tools.ts";

export default duckdbTools;
