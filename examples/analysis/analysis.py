r"""A session that analyses data: it lists files, asks DuckDB and PostgreSQL, and answers with JSON.

It runs under the policy `analysis`, which shows it this folder and nothing else of the machine: no network, no
programs, no home. Files and rows come from the host, whose plugins hold the credentials, and it may call what the rule
in host.json names. In a checkout, after `sh scripts/setup.sh`, with a PostgreSQL that `psql` reaches as one who may
create databases (PGHOST, PGPORT and PGUSER say where):

    export IPCCTL_HOME=${IPCCTL_HOME:-$HOME/ipcctl-analysis}    # a daemon of its own, beside yours
    mkdir -p "$IPCCTL_HOME"
    sed "s|analysis.py|$PWD/examples/analysis/&|; s/5432/${PGPORT:-5432}/" examples/analysis/host.json \
        > "$IPCCTL_HOME/host.json"
    psql -d postgres -f examples/analysis/shop.sql
    printf only-for-this-example | bin/ipcctl auth add password --plugin postgres
    bin/ipcctl files put shop examples/analysis/customers.csv --conversation may
    bin/ipcctl prompt may

    bin/ipcctl session list                                     # what ran, and how it ended
    bin/ipcctl audit --tool 'postgres.*'                        # what was asked
    bin/ipcctl daemon stop

The prompt is the conversation whose files are read. A program asks by `ipcctl publish analysis.asked`, or by the SDK.
"""

import json
import os
import sys
from decimal import Decimal

from ipcctl import host


def main(conversation: str) -> dict:
    files = host.files.list(conversation_id=conversation)["files"]

    # A file is a table by its name.
    customers = host.duckdb.query(
        sql='select customer, region from "customers.csv" where region is not null', conversation_id=conversation
    )
    regions = dict(customers["rows"])

    # Values go as parameters, never into the text.
    orders = host.postgres.query(
        sql="select customer, total from orders where customer = any($1) and day >= $2::date order by id",
        params=[sorted(regions), "2026-05-01"],
    )
    revenue: dict[str, Decimal] = {}
    for customer, total in orders["rows"]:
        region = regions[customer]
        revenue[region] = revenue.get(region, Decimal(0)) + Decimal(total)

    return {
        "files": [file["name"] for file in files],
        "orders": len(orders["rows"]),
        "revenue": {region: str(total) for region, total in sorted(revenue.items())},
        "origins": [customers["origin"], orders["origin"]],
    }


try:
    print(json.dumps(main(os.environ["IPCCTL_PROMPT"])))
except host.HostError as error:
    # What a backend reads: what went wrong, and whether the same call may succeed later.
    print(json.dumps({"error": {"code": error.code, "message": str(error), "retriable": error.retriable}}))
    sys.exit(1)
