"""Ways to use up what all share. Bounded: 600 MB, 150 children, 400 threads, 4 seconds of the processor; where they are
not confined, a part of it.
"""

import ctypes
import fcntl
import mmap
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time

from _attempt import attempt, buffer, call, content, gone_after, libc, opened, part, scratch, where

MB = 1 << 20


def much() -> int:
    return part(600) * MB


def disk() -> int:
    return part(160) * MB


def seconds() -> float:
    """Of the processor: more than the limit that is to be tested."""
    return where.get("seconds", 4)


def touched(memory: mmap.mmap) -> bool:
    """Every page of it is really there."""
    for at in range(0, len(memory), mmap.PAGESIZE):
        memory[at] = 1
    return True


@attempt("must", against="limits", alone=True)
def memory() -> bool:
    """600 MB."""
    return touched(mmap.mmap(-1, much(), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


@attempt("must", against="limits", alone=True)
def memory_of_python() -> bool:
    """600 MB as Python takes them."""
    held = [b"x" * (10 * MB) for _ in range(part(60))]
    return len(held) == part(60)


@attempt("must", against="limits", alone=True)
def memory_shared() -> bool:
    """600 MB that may be shared: not counted as private data."""
    return touched(mmap.mmap(-1, much()))


@attempt("must", against="limits", alone=True)
def memory_in_a_file_without_a_name() -> bool:
    """600 MB in a memfd."""
    fd, data = os.memfd_create("x"), bytes(10 * MB)
    return sum(os.write(fd, data) for _ in range(part(60))) == part(60) * len(data)


@attempt("must", against="limits ipc writing", needs="room shm", alone=True)
def memory_in_a_file() -> bool:
    """600 MB in /dev/shm, which outlive us."""
    path = f"/dev/shm/ipcctl-escape-{os.getpid()}"
    with gone_after(path), opened(path, os.O_CREAT | os.O_RDWR, 0o600) as fd:
        os.unlink(path)
        data = bytes(10 * MB)
        return sum(os.write(fd, data) for _ in range(part(60))) == part(60) * len(data)


@attempt("must", against="limits ipc", needs="room", alone=True)
def memory_in_a_segment() -> bool:
    """600 MB of System V, which outlive us."""
    segment = call("shmget", 0, much(), 0o1600)
    libc.shmat.restype = ctypes.c_void_p
    place = libc.shmat(segment, None, 0)
    call("shmctl", segment, 0, None)
    if place in (None, 2**64 - 1):
        return False
    for at in range(0, much(), MB):
        ctypes.memset(place + at, 1, MB)
    return True


@attempt("must", against="limits fork", alone=True)
def memory_of_children() -> bool:
    """600 MB in three children: a limit of each process does not see it."""
    gate, pids = os.pipe(), []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(gate[1])
                if touched(mmap.mmap(-1, much() // 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)):
                    code = 0
                os.read(gate[0], 1)
            finally:
                os._exit(code)
        pids.append(pid)
    time.sleep(0.5)
    os.close(gate[1])
    return [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]


@attempt("must", against="limits", needs="room", alone=True)
def memory_in_pipes() -> bool:
    """Memory of the kernel: pipes, full."""
    total, data = 0, bytes(MB)
    for _ in range(part(60)):
        _, into = os.pipe()
        fcntl.fcntl(into, 1031, MB)
        os.set_blocking(into, False)
        total += os.write(into, data)
    return total >= part(60) * MB


@attempt("should", against="limits", alone=True)
def memory_in_sockets() -> bool:
    """Memory of the kernel: pairs of sockets, full."""
    total, held = 0, []
    for _ in range(part(100)):
        first, second = socket.socketpair()
        held.append((first, second))
        first.setblocking(False)
        try:
            while True:
                total += first.send(bytes(65536))
        except BlockingIOError:
            continue
    return total > part(10) * MB


@attempt("must", against="limits", needs="room", alone=True)
def memory_of_the_stack() -> bool:
    """A stack without an end."""
    resource.setrlimit(resource.RLIMIT_STACK, (much(), resource.getrlimit(resource.RLIMIT_STACK)[1]))
    threading.stack_size(much())
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    return True


@attempt("must", against="limits", needs="room", alone=True)
def address_space() -> bool:
    """1 TB of addresses."""
    return len(mmap.mmap(-1, 1 << 40, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)) == 1 << 40


@attempt("should", against="limits privileges", needs="root", alone=True)
def memory_locked() -> bool:
    """64 MB that may not be swapped out."""
    held = mmap.mmap(-1, part(64) * MB)
    place = ctypes.addressof(ctypes.c_char.from_buffer(held))
    return libc.mlock(ctypes.c_void_p(place), ctypes.c_size_t(part(64) * MB)) == 0


@attempt("must", against="limits", needs="room", alone=True)
def disk_one_file() -> bool:
    """160 MB in one file."""
    path, data = scratch("disk"), bytes(8 * MB)
    with gone_after(path), opened(path, os.O_CREAT | os.O_WRONLY, 0o600) as fd:
        return sum(os.write(fd, data) for _ in range(disk() // len(data))) == disk()


@attempt("must", against="limits", needs="room", alone=True)
def disk_many_files() -> bool:
    """The same in files of 8 MB: a limit of each file does not see it."""
    folder, data, total = scratch("disk"), bytes(8 * MB), 0
    os.mkdir(folder)
    try:
        for index in range(disk() // len(data)):
            with opened(os.path.join(folder, str(index)), os.O_CREAT | os.O_WRONLY, 0o600) as fd:
                total += os.write(fd, data)
        return total == disk()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@attempt("must", against="limits", needs="room", alone=True)
def disk_without_writing() -> bool:
    """The same by fallocate, which writes nothing."""
    path = scratch("disk")
    with gone_after(path), opened(path, os.O_CREAT | os.O_WRONLY, 0o600) as fd:
        os.posix_fallocate(fd, 0, disk())
        return os.fstat(fd).st_blocks * 512 >= disk()


@attempt("must", against="limits", needs="room", alone=True)
def disk_without_names() -> bool:
    """The same in files whose names are gone: nobody sees who has it."""
    data, held = bytes(8 * MB), []
    for _ in range(disk() // len(data)):
        path = scratch("disk")
        fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
        os.unlink(path)
        held.append(os.write(fd, data))
    return sum(held) == disk()


@attempt("should", against="limits", needs="room", alone=True)
def names() -> bool:
    """20000 empty files."""
    folder, count = scratch("names"), part(20000)
    os.mkdir(folder)
    try:
        for index in range(count):
            os.close(os.open(f"{folder}/{index}", os.O_CREAT | os.O_WRONLY))
        return len(os.listdir(folder)) == count
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@attempt("should", against="limits", alone=True)
def folders_in_folders() -> bool:
    """A thousand folders, each in the one before."""
    top = scratch("deep")
    os.mkdir(top)
    os.chdir(top)
    made = 0
    try:
        for _ in range(part(1000)):
            os.mkdir("x")
            os.chdir("x")
            made += 1
        return made == part(1000)
    finally:
        for _ in range(made):
            os.chdir("..")
            os.rmdir("x")
        os.rmdir(top)


@attempt("must", against="limits", needs="room", alone=True)
def descriptors() -> bool:
    """4000 open files."""
    return len([os.open("/dev/null", os.O_RDONLY) for _ in range(part(4000))]) == part(4000)


@attempt("must", against="limits", needs="room", alone=True)
def descriptors_after_raising() -> bool:
    """As many as the hard limit gives."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20000), hard))
    return len([os.open("/dev/null", os.O_RDONLY) for _ in range(part(4000))]) == part(4000)


@attempt("must", against="limits privileges", needs="root kernel", alone=True)
def limits_raised() -> bool:
    """The hard limit itself, raised."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard + 1))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1] == hard + 1


@attempt("must", against="limits", needs="room", alone=True)
def threads() -> bool:
    """400 threads."""
    threading.stack_size(65536)
    is_over = threading.Event()
    held = [threading.Thread(target=is_over.wait, daemon=True) for _ in range(part(400))]
    for thread in held:
        thread.start()
    count = len(os.listdir("/proc/self/task"))
    is_over.set()
    return count >= part(400)


def born(make: object) -> bool:
    """150 at once; taken away again."""
    pids, count = [], part(150)
    try:
        for _ in range(count):
            pids.append(make())
        return len(pids) == count
    finally:
        for pid in pids:
            os.kill(pid, 9)
            os.waitpid(pid, 0)


@attempt("must", against="limits fork", needs="room", alone=True)
def children() -> bool:
    """150 children."""

    def make() -> int:
        pid = os.fork()
        if pid == 0:
            time.sleep(10)
            os._exit(0)
        return pid

    return born(make)


@attempt("must", against="limits fork exec", needs="room", alone=True)
def programs_at_once() -> bool:
    """150 programs."""
    return born(lambda: os.posix_spawn("/bin/sleep", ["sleep", "10"], {}))


@attempt("must", against="limits fork", needs="room", alone=True)
def children_of_children() -> bool:
    """50 children, each the child of the one before, each in a session of its own."""
    out, into = os.pipe()

    def next_one(left: int) -> None:
        if left == 0:
            os.write(into, b"all")
            return
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                next_one(left - 1)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)

    next_one(part(50))
    os.close(into)
    return os.read(out, 3) == b"all"


@attempt("must", against="limits", alone=True)
def processor() -> bool:
    """Seconds of the processor, and no ear for the signal that says it is enough."""
    signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    while time.process_time() < seconds():
        sum(range(10000))
    return True


@attempt("must", against="limits fork", alone=True)
def processor_of_children() -> bool:
    """The same over four children: a limit of each process does not see it."""
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            while time.process_time() < seconds() / 4:
                sum(range(10000))
            os._exit(0)
        if os.waitpid(pid, 0)[1] != 0:
            return False
    return True


@attempt("should", against="limits", alone=True)
def maps_of_memory() -> bool:
    """30000 pieces of memory with different rights."""
    held = mmap.mmap(-1, part(60000) * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    place = ctypes.addressof(ctypes.c_char.from_buffer(held))
    for index in range(0, part(60000), 2):
        if libc.mprotect(ctypes.c_void_p(place + index * mmap.PAGESIZE), ctypes.c_size_t(mmap.PAGESIZE), 1) != 0:
            return False
    return True


@attempt("info", against="limits", needs="room", alone=True)
def watchers() -> bool:
    """The user's instances of inotify. Some only: he has 128, for his editor too."""
    return len([call("inotify_init1", 0) for _ in range(8)]) == 8


@attempt("should", against="limits", needs="room", alone=True)
def timers() -> bool:
    """5000 timers."""
    for _ in range(part(5000)):
        call("timer_create", 1, buffer(struct.pack("qii", 0, 0, 1), 64), ctypes.byref(ctypes.c_int()))
    return True


@attempt("should", against="limits", needs="room", alone=True)
def terminals() -> bool:
    """100 terminals."""
    return len([os.openpty() for _ in range(part(100))]) == part(100)


@attempt("should", against="limits", alone=True)
def locks() -> bool:
    """5000 locks on a file."""
    path = scratch("locks")
    with gone_after(path), opened(path, os.O_CREAT | os.O_RDWR, 0o600) as fd:
        for index in range(part(5000)):
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, index * 2)
        return True


@attempt("should", against="limits ipc", needs="kernel room", alone=True)
def queues() -> bool:
    """POSIX queues, until the kernel has had enough of them."""
    attributes, count = buffer(struct.pack("8l", 0, 10, 8192, 0, 0, 0, 0, 0)), part(5)
    for index in range(count):
        name = buffer(f"ipcctl-escape-{os.getpid()}-{index}".encode())
        call("mq_open", name, 0o102, 0o600, attributes)
        call("mq_unlink", name)  # it is there for as long as we have it open, and no longer
    return True


@attempt("should", against="limits ipc", needs="kernel room", alone=True)
def keys() -> bool:
    """100 keys in the kernel, taken away again."""
    held = [
        call("add_key", buffer(b"user"), buffer(f"ipcctl-escape-{index}".encode()), buffer(b"x" * 50), 50, -2)
        for index in range(part(100))
    ]
    for key in held:
        call("keyctl", 9, key, -2)
    return len(held) == part(100)


@attempt("must", against="limits writing", needs="root kernel", alone=True)
def out_of_the_group() -> bool:
    """Out of the control group, into the one that has no limits."""
    with open("/proc/self/cgroup") as file:
        before = file.read()
    with open("/proc/self/mountinfo") as file:
        tops = [line.split()[4] for line in file if " - cgroup" in line]
    for top in tops:
        try:
            with opened(os.path.join(top, "cgroup.procs"), os.O_WRONLY) as fd:
                os.write(fd, str(os.getpid()).encode())
            return bool(before)
        except OSError:
            continue
    return False


@attempt("should", against="limits", needs="room", alone=True)
def long_file() -> bool:
    """A file that claims to have 1 TB."""
    path = scratch("long")
    with gone_after(path), opened(path, os.O_CREAT | os.O_WRONLY, 0o600) as fd:
        os.ftruncate(fd, 1 << 40)
        return os.fstat(fd).st_size == 1 << 40


@attempt("info", against="limits")
def limits_seen() -> bool:
    """Which limits there are, and whether one of the usual is none."""
    names = (
        resource.RLIMIT_AS,
        resource.RLIMIT_DATA,
        resource.RLIMIT_CPU,
        resource.RLIMIT_NPROC,
        resource.RLIMIT_FSIZE,
    )
    return any(resource.getrlimit(name)[0] == resource.RLIM_INFINITY for name in names) and bool(where)


@attempt("must", against="limits exec fork", alone=True)
def processor_of_programs() -> bool:
    """As much of the processor as it gets in 2 seconds, by a program that we start."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run(["timeout", "2", "sh", "-c", "while :; do :; done"], timeout=6)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime > before and bool(content("/proc/self/stat"))
