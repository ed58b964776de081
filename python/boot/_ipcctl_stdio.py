"""Unbuffered output that a signal does not cut short.

With ``PYTHONUNBUFFERED`` (or ``-u``) Python hands text to write(2) once and looks no further: where a pipe is full and a signal comes in
between, a part of it is written, and the rest is lost.
"""

import io
import sys


class WholeWriter(io.FileIO):
    """Writes on until all is written. Where nothing can be written without waiting, and that is not wished, it says how far it came."""

    def write(self, data):  # type: ignore[no-untyped-def,override] # old Pythons read this
        count = super().write(data)
        size = len(data) if isinstance(data, bytes) else memoryview(data).nbytes
        if count is None or count == size:
            return count
        view = memoryview(data).cast("B")
        while count < size:
            more = super().write(view[count:])
            if more is None:
                break
            count += more
        return count


def make_whole() -> None:
    """Puts it in the place of what Python opened, where that is not buffered."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and type(stream.buffer) is io.FileIO:
            name = stream.buffer.name
            whole = WholeWriter(stream.buffer.fileno(), "wb", closefd=False)
            setattr(whole, "name", name)
            # In place, for others may have taken hold of it.
            stream.__init__(  # type: ignore[misc]
                whole, stream.encoding, stream.errors, "\n", line_buffering=stream.line_buffering, write_through=True
            )
