"""Polars: lazily, in many threads, from and into files."""

import os
import sys

import polars

source, folder = sys.argv[1:]
sums = polars.scan_csv(source).group_by("kind").agg(polars.col("value").sum()).sort("kind")
sums.sink_parquet(os.path.join(folder, "sums.parquet"))
print(polars.read_parquet(os.path.join(folder, "sums.parquet")).to_dicts())
numbers = polars.DataFrame({"number": range(1_000_000)}).with_columns(double=polars.col("number") * 2)
numbers.write_csv(os.path.join(folder, "numbers.csv"))
print(polars.scan_csv(os.path.join(folder, "numbers.csv")).select(polars.col("double").sum()).collect().item())
