"""Unbuffered output that a signal does not cut short.

With ``PYTHONUNBUFFERED`` (or ``-u``) Python hands text to a single write(2). If a pipe is full and a signal arrives in
between, only a part of the text is written, and the rest is lost.
"""

import io
import os
import sys

_WORDS_BYTES = 4096  # a pipe takes this much at once, or nothing


class WholeWriter(io.FileIO):
    """Writes until everything is written. On a non-blocking descriptor without room it returns how far it got."""

    def write(self, data):
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
    """Remembers the end of what was written: the last words of a failed run show whether the policy caused it."""

    words = b""

    def write(self, data):
        self.words = (self.words + bytes(memoryview(data).cast("B")[-_WORDS_BYTES:]))[-_WORDS_BYTES:]
        return super().write(data)

    def leave(self, fd):
        try:
            os.write(fd, self.words)
        except OSError:  # the script has closed it
            pass


def writer_of(number, words_fd):
    """For one of our own streams. ``words_fd``: where the last words on stderr go to, if anywhere."""
    if number != 2 or words_fd is None:
        return WholeWriter(number, "wb", closefd=False)
    import atexit

    remembered = RememberedWriter(number, "wb", closefd=False)
    atexit.register(remembered.leave, words_fd)
    return remembered


def take_words_fd():
    """Child programs find neither the variable nor the descriptor."""
    number = os.environ.pop("IPCCTL_WORDS_FD", None)
    if number is None:
        return None
    try:
        os.set_inheritable(int(number), False)
    except (OSError, ValueError):
        return None
    return int(number)


def make_whole() -> None:
    """Replaces the streams that Python opened, if they are unbuffered."""
    words_fd = take_words_fd()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and type(stream.buffer) is io.FileIO:
            name = stream.buffer.name
            whole = writer_of(stream.buffer.fileno(), words_fd)
            setattr(whole, "name", name)
            # In place, because others may hold a reference to it.
            stream.__init__(  # type: ignore[misc]
                whole, stream.encoding, stream.errors, "\n", line_buffering=stream.line_buffering, write_through=True
            )
