"""pandas and Matplotlib: a table in, results of all kinds into a folder."""

import os
import sqlite3
import sys

import matplotlib.pyplot
import pandas

table = pandas.read_csv(sys.argv[1])
folder = sys.argv[2]
sums = table.groupby("kind").value.sum()
sums.to_csv(os.path.join(folder, "sums.csv"))
table.to_parquet(os.path.join(folder, "table.parquet"))
print(pandas.read_parquet(os.path.join(folder, "table.parquet")).shape)
with sqlite3.connect(os.path.join(folder, "table.db")) as connection:
    table.to_sql("rows", connection)
    print(pandas.read_sql("select count(*) as number from rows", connection).number[0])
sums.plot.bar()
matplotlib.pyplot.title("Sums in µ")
for ending in ("png", "svg", "pdf"):
    matplotlib.pyplot.savefig(os.path.join(folder, f"sums.{ending}"))
print(sums.to_dict())
