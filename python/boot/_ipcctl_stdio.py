"""Unbuffered output that a signal does not cut short.

With ``PYTHONUNBUFFERED`` (or ``-u``) Python hands text to write(2) once and looks no further: where a pipe is full and
a signal comes in between, a part of it is written, and the rest is lost.
"""

import io
import os
import sys

_WORDS_BYTES = 4096  # a pipe takes as much at once or not at all


class WholeWriter(io.FileIO):
    """Writes on until all is written. Where nothing can be written without waiting, and that is not wished, it says how
    far it came.
    """

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


class RememberedWriter(WholeWriter):
    """Remembers the end of what was written: a run that fails tells by it what the policy has to do with it."""

    words = b""

    def write(self, data):  # type: ignore[no-untyped-def,override] # old Pythons read this
        self.words = (self.words + bytes(memoryview(data).cast("B")[-_WORDS_BYTES:]))[-_WORDS_BYTES:]
        return super().write(data)

    def leave(self, fd):  # type: ignore[no-untyped-def] # old Pythons read this
        try:
            os.write(fd, self.words)
        except OSError:  # the script has closed it
            pass


def writer_of(number, words_fd):  # type: ignore[no-untyped-def] # old Pythons read this
    """For one of our own streams. ``words_fd``: where the last words on the second one go to, if anywhere."""
    if number != 2 or words_fd is None:
        return WholeWriter(number, "wb", closefd=False)
    import atexit

    remembered = RememberedWriter(number, "wb", closefd=False)
    atexit.register(remembered.leave, words_fd)
    return remembered


def take_words_fd():  # type: ignore[no-untyped-def] # old Pythons read this
    """Programs that it starts find neither the variable nor the descriptor."""
    number = os.environ.pop("IPCCTL_WORDS_FD", None)
    if number is None:
        return None
    try:
        os.set_inheritable(int(number), False)
    except (OSError, ValueError):
        return None
    return int(number)


def make_whole() -> None:
    """Puts it in the place of what Python opened, where that is not buffered."""
    words_fd = take_words_fd()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and type(stream.buffer) is io.FileIO:
            name = stream.buffer.name
            whole = writer_of(stream.buffer.fileno(), words_fd)
            setattr(whole, "name", name)
            # In place, for others may have taken hold of it.
            stream.__init__(  # type: ignore[misc]
                whole, stream.encoding, stream.errors, "\n", line_buffering=stream.line_buffering, write_through=True
            )
