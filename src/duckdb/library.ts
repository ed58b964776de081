/**
 * DuckDB's own library, by its C interface: of the packages for JavaScript only this file of theirs is used, because
 * they offer no Arrow. Handles are numbers here, as in C.
 */
import { CString, dlopen, FFIType, ptr, type Pointer } from "bun:ffi";
import { join } from "node:path";
import { packageFolder } from "../base/install.ts";
import { DUCKDB_PACKAGE, DUCKDB_VERSION } from "../host/shipped-manifests.ts";

const { i32, u64, ptr: pointer, void: nothing } = FFIType;

/**
 * `duckdb_fetch_chunk` takes a structure of 48 bytes by value, which FFI does not know. By the ABI of x86-64 such a one
 * lies on the stack, as arguments do for which the six registers have no room; by that of AArch64 it is a pointer.
 */
const WORDS_OF_RESULT = 6;
const IS_BY_POINTER = process.arch === "arm64";

const SYMBOLS = {
  duckdb_open: { args: [pointer, pointer], returns: i32 },
  duckdb_close: { args: [pointer], returns: nothing },
  duckdb_connect: { args: [u64, pointer], returns: i32 },
  duckdb_disconnect: { args: [pointer], returns: nothing },
  duckdb_interrupt: { args: [u64], returns: nothing },
  duckdb_query: { args: [u64, pointer, pointer], returns: i32 },
  duckdb_destroy_result: { args: [pointer], returns: nothing },
  duckdb_result_error: { args: [pointer], returns: pointer },
  duckdb_extract_statements: { args: [u64, pointer, pointer], returns: u64 },
  duckdb_extract_statements_error: { args: [u64], returns: pointer },
  duckdb_destroy_extracted: { args: [pointer], returns: nothing },
  duckdb_prepare_extracted_statement: { args: [u64, u64, u64, pointer], returns: i32 },
  duckdb_prepare_error: { args: [u64], returns: pointer },
  duckdb_prepared_statement_type: { args: [u64], returns: i32 },
  duckdb_nparams: { args: [u64], returns: u64 },
  duckdb_destroy_prepare: { args: [pointer], returns: nothing },
  duckdb_bind_null: { args: [u64, u64], returns: i32 },
  duckdb_bind_boolean: { args: [u64, u64, FFIType.bool], returns: i32 },
  duckdb_bind_int64: { args: [u64, u64, FFIType.i64], returns: i32 },
  duckdb_bind_double: { args: [u64, u64, FFIType.f64], returns: i32 },
  duckdb_bind_varchar_length: { args: [u64, u64, pointer, u64], returns: i32 },
  duckdb_execute_prepared: { args: [u64, pointer], returns: i32 },
  duckdb_pending_prepared_streaming: { args: [u64, pointer], returns: i32 },
  duckdb_pending_execute_task: { args: [u64], returns: i32 },
  duckdb_pending_error: { args: [u64], returns: pointer },
  duckdb_execute_pending: { args: [u64, pointer], returns: i32 },
  duckdb_destroy_pending: { args: [pointer], returns: nothing },
  duckdb_column_count: { args: [pointer], returns: u64 },
  duckdb_column_name: { args: [pointer, u64], returns: pointer },
  duckdb_column_logical_type: { args: [pointer, u64], returns: u64 },
  duckdb_get_type_id: { args: [u64], returns: i32 },
  duckdb_list_type_child_type: { args: [u64], returns: u64 },
  duckdb_array_type_child_type: { args: [u64], returns: u64 },
  duckdb_map_type_key_type: { args: [u64], returns: u64 },
  duckdb_map_type_value_type: { args: [u64], returns: u64 },
  duckdb_struct_type_child_count: { args: [u64], returns: u64 },
  duckdb_struct_type_child_type: { args: [u64, u64], returns: u64 },
  duckdb_destroy_logical_type: { args: [pointer], returns: nothing },
  duckdb_result_get_arrow_options: { args: [pointer], returns: u64 },
  duckdb_destroy_arrow_options: { args: [pointer], returns: nothing },
  duckdb_to_arrow_schema: { args: [u64, pointer, pointer, u64, pointer], returns: u64 },
  duckdb_fetch_chunk: {
    args: IS_BY_POINTER ? [pointer] : Array<typeof u64>(2 * WORDS_OF_RESULT).fill(u64),
    returns: u64,
  },
  duckdb_destroy_data_chunk: { args: [pointer], returns: nothing },
  duckdb_data_chunk_to_arrow: { args: [u64, u64, pointer], returns: u64 },
  duckdb_error_data_message: { args: [u64], returns: pointer },
  duckdb_error_data_has_error: { args: [u64], returns: FFIType.bool },
  duckdb_destroy_error_data: { args: [pointer], returns: nothing },
} as const;

type Api = ReturnType<typeof dlopen<typeof SYMBOLS>>["symbols"];

let loaded: Api | undefined;

/** Loaded with the first query, which takes some 20 ms. @throws Error that says how to install it */
export function duckdb(): Api {
  return (loaded ??= dlopen(libraryPath(), SYMBOLS).symbols);
}

/** Where npm puts it: beside ipcctl, or in it. @throws Error that says how to install it */
export function libraryPath(name = DUCKDB_PACKAGE): string {
  const folder = packageFolder(name);
  if (folder !== undefined) return join(folder, "libduckdb.so");
  throw new Error(
    `DuckDB is not installed, which is an optional dependency of ipcctl: npm install ${name}@${DUCKDB_VERSION}`,
  );
}

/** Text as C has it; it has to be kept until the call has returned. */
export const cText = (text: string): Buffer => Buffer.from(`${text}\0`);

/** Text that DuckDB owns. */
export function textAt(at: Pointer | bigint | null): string {
  return at === null || Number(at) === 0 ? "" : new CString(Number(at)).slice(); // it is an object, and this a string
}

/** Memory for what a function of DuckDB writes: a handle, or a structure. */
export class Out {
  readonly words: BigUint64Array<ArrayBuffer>;
  readonly at: Pointer;

  constructor(words = 1) {
    this.words = new BigUint64Array(new ArrayBuffer(8 * words)); // a buffer of its own does not move
    this.at = ptr(this.words);
  }

  get handle(): bigint {
    return this.words[0]!;
  }
}

/** A result, as `duckdb_result` lies in memory. */
export const newResult = (): Out => new Out(WORDS_OF_RESULT);

/** The next piece of a result; 0n at the end. */
export function fetchChunk({ words, at }: Out): bigint {
  const fetch = duckdb().duckdb_fetch_chunk as unknown as (...args: (bigint | Pointer)[]) => bigint | number;
  return BigInt(IS_BY_POINTER ? fetch(at) : fetch(...new BigUint64Array(WORDS_OF_RESULT), ...words));
}
