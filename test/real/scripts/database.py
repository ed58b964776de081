"""SQLite in memory, in the scratch folder, and in a folder that is granted."""

import os
import sqlite3
import sys
import tempfile

for path in (":memory:", os.path.join(tempfile.gettempdir(), "rows.db"), os.path.join(sys.argv[1], "rows.db")):
    connection = sqlite3.connect(path)
    connection.execute("pragma journal_mode = wal")
    connection.execute("create table rows (number)")
    with connection:
        connection.executemany("insert into rows values (?)", ((number,) for number in range(100)))
    connection.execute("vacuum")
    print(connection.execute("select count(*), sum(number) from rows").fetchone())
    connection.close()
