r"""A session that analyses data: it lists files, asks a database, and answers with JSON.

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

import csv
import io
import json
import os
import sys
from decimal import Decimal

from ipcctl import host


def read(file: dict) -> str:
    """The whole of a file, which comes in pieces."""
    parts: list[str] = []
    offset = 0
    while offset is not None:
        piece = host.files.read(id=file["id"], offset=offset, version=file["version"])
        parts.append(piece["content"])
        offset = piece["next_offset"]
    return "".join(parts)


def main(conversation: str) -> dict:
    files = host.files.list(conversation_id=conversation)["files"]
    regions: dict[str, str] = {}
    for file in files:
        if file["name"].endswith(".csv"):
            regions.update((row["customer"], row["region"]) for row in csv.DictReader(io.StringIO(read(file))))

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
        "origin": orders["origin"],
    }


try:
    print(json.dumps(main(os.environ["IPCCTL_PROMPT"])))
except host.HostError as error:
    # What a backend reads: what went wrong, and whether the same call may succeed later.
    print(json.dumps({"error": {"code": error.code, "message": str(error), "retriable": error.retriable}}))
    sys.exit(1)
