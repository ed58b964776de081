"""The model as a worker of ipcctl, for server.ts."""

import ipcctl
from iris import classify


@ipcctl.expose
def predict(rows: list[list[float]]) -> list[dict[str, object]]:
    return classify(rows)


ipcctl.serve()
