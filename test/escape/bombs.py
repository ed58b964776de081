"""Attempts to use up more than a policy's limit. argv: the name of one, its arguments, and behind a + the next. Each
prints what it had, and what refused more, as a line of JSON, and gives it back.
"""

import ctypes
import errno
import hashlib
import json
import os
import resource
import signal
import socket
import sys
import threading
import time

MIB = 1 << 20
PIECE = 4 * MIB
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mremap.restype = ctypes.c_void_p
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.getauxval.restype = ctypes.c_ulong
FAILED = ctypes.c_void_p(-1).value
PRIVATE, SHARED, GROWSDOWN = 0x22, 0x21, 0x100
scratch = os.environ.get("TMPDIR", "/tmp")


def say(had: int, by: object) -> None:
    if isinstance(by, OSError):
        by = errno.errorcode.get(by.errno or 0, str(by))
    elif isinstance(by, BaseException):
        by = f"{type(by).__name__}: {by}".rstrip(": ")
    print(json.dumps({"had": had, "by": by}), flush=True)


def map_until_refused(flags: int, most: int, seal: bool = False, file: int = -1) -> None:
    """Each piece is written to: what counts is what has to be kept."""
    pieces: list[int] = []
    by = None
    while by is None and len(pieces) * PIECE < most:
        at = libc.mmap(None, PIECE, 3, flags, file, 0)
        if at == FAILED:
            by = OSError(ctypes.get_errno(), "")
            break
        pieces.append(at)
        ctypes.memset(at, 1, PIECE)
        if seal and libc.mprotect(at, PIECE, 1) != 0:
            by = OSError(ctypes.get_errno(), "")
    had = len(pieces) * PIECE
    for at in pieces:
        libc.munmap(at, PIECE)
    say(had, by)


# ---- memory; the argument is where to give up, in bytes ----


def memory_objects(most: int) -> None:
    kept: list[bytearray] = []
    try:
        while len(kept) * MIB < most:
            kept.append(bytearray(b"x") * MIB)
    except MemoryError as error:
        had = len(kept) * MIB
        kept.clear()
        return say(had, error)
    say(len(kept) * MIB, None)


def memory_private(most: int) -> None:
    map_until_refused(PRIVATE, most)


def memory_shared(most: int) -> None:
    map_until_refused(SHARED, most)


def memory_growing(most: int) -> None:
    """MAP_GROWSDOWN: the kernel counts it as a stack."""
    map_until_refused(PRIVATE | GROWSDOWN, most)


def memory_sealed(most: int) -> None:
    """Read-only once it is written: the kernel counts what may be written."""
    map_until_refused(PRIVATE, most, seal=True)


def memory_remapped(most: int) -> None:
    size = PIECE
    by = None
    at = libc.mmap(None, size, 3, PRIVATE, -1, 0)
    while size < most:
        to = libc.mremap(at, size, size + PIECE, 1)
        if to == FAILED:
            by = OSError(ctypes.get_errno(), "")
            break
        at = to
        ctypes.memset(at + size, 1, PIECE)
        size += PIECE
    libc.munmap(at, size)
    say(size, by)


def memory_unnamed_file(most: int) -> None:
    try:
        file = os.memfd_create("bomb")
    except OSError as error:
        return say(0, error)
    had = 0
    while had < most:
        had += os.write(file, b"x" * MIB)
    os.close(file)
    say(had, None)


def memory_zero_device(most: int) -> None:
    """A shared mapping of /dev/zero is shared memory without a name."""
    try:
        device = os.open("/dev/zero", os.O_RDWR)
    except OSError as error:
        return say(0, error)
    map_until_refused(1, most, file=device)


def memory_segments(most: int) -> None:
    """System V segments: kept by nobody, so no process has them. Removed at the end."""
    libc.shmat.restype = ctypes.c_void_p
    segments: list[int] = []
    by: object = None
    while len(segments) * PIECE < most:
        segment = libc.shmget(0, ctypes.c_size_t(PIECE), 0o1600)
        if segment < 0:
            by = OSError(ctypes.get_errno(), "")
            break
        at = libc.shmat(segment, None, 0)
        ctypes.memset(at, 1, PIECE)
        libc.shmdt(ctypes.c_void_p(at))
        segments.append(segment)
    for segment in segments:
        libc.shmctl(segment, 0, None)
    say(len(segments) * PIECE, by)


def memory_main_stack(most: int) -> None:
    """The first thread's stack with its limit raised. A signal ends it: each line says how far it got."""
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    resource.setrlimit(resource.RLIMIT_STACK, (hard, hard))
    at = (libc.getauxval(25) & ~0xFFF) - MIB  # AT_RANDOM lies at the top of it
    for had in range(0, most, MIB):
        ctypes.memset(at - had - MIB, 1, MIB)
        say(had + MIB, None)


def memory_thread_stacks(most: int) -> None:
    """As many stacks as fit: one counts as a whole as soon as it is there."""
    gate = threading.Event()
    size = 8 * MIB
    threading.stack_size(size)

    had = 0
    by: object = None
    try:
        while had < most:
            threading.Thread(target=gate.wait, daemon=True).start()
            had += size
    except (RuntimeError, MemoryError) as error:
        by = error
    say(had, by)
    gate.set()


def memory_children(most: int) -> None:
    """Each child has the limit anew; all of them at once. A control group kills some of them, which then report
    nothing.
    """
    children = []
    for _ in range(4):
        ready, reports = os.pipe()
        pid = os.fork()
        if pid == 0:
            had = 0
            while had < most // 4:
                at = libc.mmap(None, PIECE, 3, PRIVATE, -1, 0)
                if at == FAILED:
                    break
                ctypes.memset(at, 1, PIECE)
                had += PIECE
            os.write(reports, had.to_bytes(8, "little"))
            signal.pause()
        os.close(reports)
        children.append((pid, ready))
    had = sum(int.from_bytes(os.read(ready, 8), "little") for _, ready in children)
    for pid, _ in children:
        os.kill(pid, signal.SIGKILL)
    say(had, None)


# ---- processor ----


def spin() -> None:
    while True:
        hashlib.sha256(bytes(MIB)).digest()


def cpu() -> None:
    spin()


def cpu_ignoring() -> None:
    signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    spin()


def cpu_threads() -> None:
    for _ in range(3):
        threading.Thread(target=spin, daemon=True).start()
    spin()


def cpu_children() -> None:
    """Each child has its time anew."""
    children = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            spin()
        children.append(pid)
    ends = [os.waitpid(pid, 0)[1] for pid in children]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    say(round((used.ru_utime + used.ru_stime) * 1000), " ".join(signal.Signals(os.WTERMSIG(end)).name for end in ends))


def cpu_share() -> None:
    """Percent of a core over a moment."""
    begin, used = time.monotonic(), time.process_time()
    while time.process_time() - used < 0.2:
        hashlib.sha256(bytes(MIB)).digest()
    say(round(100 * (time.process_time() - used) / (time.monotonic() - begin)), None)


# ---- processes and threads ----


def threads(most: int) -> None:
    gate = threading.Event()
    threading.stack_size(64 * 1024)
    had = 1
    by: object = None
    try:
        while had < most:
            threading.Thread(target=gate.wait, daemon=True).start()
            had += 1
    except RuntimeError as error:
        by = error
    say(had, by)
    gate.set()


def leave_session() -> None:
    try:
        os.setsid()
    except OSError:
        pass  # not an ordinary call under a strict policy


def processes(_: str) -> None:
    """Doubles at every step, each child away from its parent and its session; who is refused stays. The argument marks
    them.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        try:
            pid = os.fork()
            if pid > 0:
                os.waitpid(pid, 0)
                continue
            leave_session()
            if os.fork() > 0:
                os._exit(0)
            leave_session()
        except OSError as error:
            say(0, error)
            while True:
                signal.pause()


# ---- descriptors, files ----


def open_files(most: int) -> None:
    kept: list[int] = []
    by = None
    try:
        while len(kept) < most:
            kept.append(os.dup(0))
    except OSError as error:
        by = error
    for one in kept:
        os.close(one)
    say(max(kept) + 1, by)


def open_files_in_flight(most: int) -> None:
    """Descriptors sent to oneself and closed: nobody has them."""
    one, other = socket.socketpair()
    had = 0
    by = None
    try:
        while had < most:
            ends = os.pipe()
            socket.send_fds(one, [b"x"], ends)
            for end in ends:
                os.close(end)
            had += 2
    except OSError as error:
        by = error
    other.close()
    say(had, by)


def socket_buffers(most: int) -> None:
    """Bytes in pairs of sockets, asked to be large: as many as there may be, in messages to oneself, and then as many
    again.
    """
    had, by, kept = 0, None, []
    post, _post_end = socket.socketpair()
    for _ in range(3):
        pairs = []
        try:
            while had < most:
                pairs.append(socket.socketpair())
                for end in pairs[-1]:
                    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF, 32, 33):
                        try:
                            end.setsockopt(socket.SOL_SOCKET, option, 1 << 24)
                        except PermissionError:
                            pass
                    end.setblocking(False)
                    try:
                        while True:
                            had += end.send(bytes(65536))
                    except BlockingIOError:
                        pass
        except OSError as error:
            by = error
        ends = [end.fileno() for pair in pairs[:120] for end in pair]
        try:
            for at in range(0, len(ends), 250):
                socket.send_fds(post, [b"x"], ends[at : at + 250])
            for pair in pairs[:120]:
                for end in pair:
                    end.close()
        except OSError as error:
            by = error
            kept.append(pairs)
    say(had, by)


def pages_in_sockets(most: int) -> None:
    """A byte of each page of a file: to the sockets' limits it is a byte, and the page stays when the file is cut."""
    had, by, pairs = 0, None, []
    first, last = os.pipe()
    with open(os.path.join(scratch, "pages"), "w+b", buffering=0) as file:
        ways = (
            lambda at, to: os.sendfile(to, file.fileno(), at, 1),
            lambda at, to: os.splice(file.fileno(), last, 1, offset_src=at) and os.splice(first, to, 1, flags=2),
        )
        for way in ways:
            at = 0
            try:
                while had < most:
                    pairs.append(socket.socketpair())
                    pairs[-1][0].setblocking(False)
                    try:
                        while had < most:
                            if at == 0:
                                file.write(bytes(1 << 20))
                            way(at, pairs[-1][0].fileno())
                            had += 4096
                            at += 4096
                            if at == 1 << 20:
                                at = file.truncate(0) or file.seek(0)
                    except BlockingIOError:
                        pass
            except OSError as error:
                by = error
    say(had, by)


def file_written(most: int) -> None:
    with open(os.path.join(scratch, "written"), "wb", buffering=0) as file:
        had = 0
        try:
            while had < most:
                had += file.write(bytes(65_536))
        except OSError as error:
            return say(had, error)
    say(had, None)


def file_sparse(most: int) -> None:
    """Nothing but its end: by its length, by a write far away, by reservation. All of them must be refused."""
    by: set[str] = set()
    had = 0
    with open(os.path.join(scratch, "sparse"), "wb", buffering=0) as file:
        for attempt in (
            lambda: os.ftruncate(file.fileno(), most),
            lambda: os.pwrite(file.fileno(), b"x", most - 1),
            lambda: os.posix_fallocate(file.fileno(), 0, most),
        ):
            try:
                attempt()
            except OSError as error:
                by.add(errno.errorcode[error.errno])
            had = max(had, os.fstat(file.fileno()).st_size)
    say(had, " ".join(sorted(by)))


def clear() -> None:
    for name in os.listdir(scratch):
        path = os.path.join(scratch, name)
        if not name.startswith(("fill", "small", "one")):
            continue  # a folder on the way to the program
        if os.path.isdir(path) and not os.path.islink(path):
            os.rmdir(path)
        else:
            os.unlink(path)


def fill(size: int, most: int, sparse: bool = False) -> None:
    had = count = 0
    by = None
    try:
        while had < most:
            path = os.path.join(scratch, f"fill-{count}")
            with open(path, "wb", buffering=0) as file:
                count += 1
                if sparse:
                    os.ftruncate(file.fileno(), size)
                    for at in range(0, size, 8192):
                        os.pwrite(file.fileno(), b"x", at)
                        had += 4096
                else:
                    while file.tell() < size:
                        had += file.write(bytes(min(65_536, size - file.tell())))
    except OSError as error:
        by = error
    clear()
    say(had, by)


def scratch_bytes(most: int) -> None:
    fill(MIB, most)


def scratch_sparse(most: int) -> None:
    """Every other page of each file: by their lengths it would be twice as much."""
    fill(MIB, most, sparse=True)


def scratch_files(most: int) -> None:
    had = 0
    by = None
    try:
        while had < most:
            with open(os.path.join(scratch, f"small-{had}"), "w"):
                had += 1
    except OSError as error:
        by = error
    clear()
    say(had, by)


def scratch_links(most: int) -> None:
    """Names of one file, hard and symbolic, and folders."""
    path = os.path.join(scratch, "one")
    had = 0
    by = None
    try:
        with open(path, "w"):
            had += 1
        while had < most:
            [os.link, os.symlink][had % 2](path, f"{path}-{had}")
            had += 1
            os.mkdir(f"{path}-{had}")
            had += 1
    except OSError as error:
        by = error
    clear()
    say(had, by)


# ---- output, time ----


def flood(size: int) -> None:
    line = b"x" * 4095 + b"\n"
    for _ in range(size // len(line) // 16):
        os.write(1, line * 16)
    say(size, "done")


def flood_one_line(size: int) -> None:
    for _ in range(size // 65_536):
        os.write(1, b"x" * 65_536)
    os.write(1, b"\n")
    say(size, "done")


def stay() -> None:
    """Past its time, whatever it is told."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    say(0, "stays")
    while True:
        signal.pause()


def keep_no_dumps() -> None:
    """Some bombs die of it: no file, and with 1 the kernel hands the dump to no program that would keep and report it
    either.
    """
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (min(1, hard) if hard != resource.RLIM_INFINITY else 1, hard))
    except (OSError, ValueError):
        pass


def main(words: list[str]) -> None:
    keep_no_dumps()
    while words:
        end = words.index("+") if "+" in words else len(words)
        name, *arguments = words[:end]
        words = words[end + 1 :]
        globals()[name](*(int(one) if one.isdigit() else one for one in arguments))


if __name__ == "__main__":
    main(sys.argv[1:])
