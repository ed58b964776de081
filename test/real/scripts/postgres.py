import asyncio
import sys

import psycopg

url = sys.argv[1]


async def main() -> None:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        print(await (await connection.execute("select 1 + 1")).fetchone())


with psycopg.connect(url) as connection:
    connection.execute("create temporary table rows (number int, text text)")
    with connection.cursor().copy("copy rows from stdin") as copy:
        for number in range(1000):
            copy.write_row((number, f"row {number}"))
    print(connection.execute("select count(*), sum(number) from rows").fetchone())
asyncio.run(main())
