"""Runs the Python that a model wrote. agent.ts starts it, under a policy that shows it nothing of the machine."""

import contextlib
import io
import traceback

import ipcctl
from ipcctl import host

OUTPUT_CHARS = 20_000


@ipcctl.expose
def run(code: str) -> str:
    """What it printed, and how it failed: both are for the model to read."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            exec(compile(code, "<model>", "exec"), {"__name__": "__main__", "host": host})
        except BaseException as error:
            said.write("".join(traceback.format_exception_only(error)))
    return said.getvalue()[-OUTPUT_CHARS:]


ipcctl.serve()
