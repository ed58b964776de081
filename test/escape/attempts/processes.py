"""Ways to other processes: their memory, what they have open, their limits and their time; signals; and to more
processes.
"""

import ctypes
import errno
import fcntl
import os
import resource
import select
import signal
import socket
import struct
import termios
import time

from _attempt import (
    IS_X86,
    address_of,
    attempt,
    buffer,
    call,
    closing,
    content,
    in_child,
    libc,
    noticed,
    opened,
    scratch,
    vector,
    where,
)


def peer() -> int:
    return where["peer"]["pid"]


def mark() -> bytes:
    return where["peer"]["mark"].encode()


def is_marked(data: bytes) -> bool:
    return data.startswith(mark())


# Memory and descriptors.
@attempt("must", against="others")
def memory_as_a_file() -> bool:
    """/proc/PID/mem."""
    with opened(f"/proc/{peer()}/mem", os.O_RDONLY) as fd:
        return is_marked(os.pread(fd, 64, where["peer"]["address"]))


@attempt("must", against="others")
def memory_as_a_file_written() -> bool:
    """/proc/PID/mem, written to."""
    with opened(f"/proc/{peer()}/mem", os.O_RDWR) as fd:
        os.pwrite(fd, b"touched", where["peer"]["writable"])
        return os.pread(fd, 7, where["peer"]["writable"]) == b"touched"


@attempt("must", against="others")
def memory_of_a_thread() -> bool:
    """The same by one of its threads."""
    thread = os.listdir(f"/proc/{peer()}/task")[-1]
    with opened(f"/proc/{peer()}/task/{thread}/mem", os.O_RDONLY) as fd:
        return is_marked(os.pread(fd, 64, where["peer"]["address"]))


@attempt("must", against="others", needs="kernel")
def memory_read() -> bool:
    """process_vm_readv."""
    data = buffer(bytes(64))
    call("process_vm_readv", peer(), vector((address_of(data), 64)), 1, vector((where["peer"]["address"], 64)), 1, 0)
    return is_marked(data.raw)


@attempt("must", against="others", needs="kernel")
def memory_written() -> bool:
    """process_vm_writev."""
    data = buffer(b"written", 7)
    return (
        call(
            "process_vm_writev", peer(), vector((address_of(data), 7)), 1, vector((where["peer"]["writable"], 7)), 1, 0
        )
        == 7
    )


@attempt("must", against="others")
def memory_of_the_supervisor() -> bool:
    """The memory of the supervisor, a copy of the peer's."""
    data = buffer(bytes(64))
    place = int(content(f"/proc/{where['daemon_pid']}/stat").rsplit(b")", 1)[1].split()[45])  # the arguments
    return (
        call("process_vm_readv", where["daemon_pid"], vector((address_of(data), 8)), 1, vector((place, 8)), 1, 0) == 8
    )


def seized(pid: int) -> None:
    call("ptrace", 0x4206, pid, 0, 0)


@attempt("must", against="others kernel", needs="kernel")
def trace() -> bool:
    """ptrace, without stopping it."""
    seized(peer())
    call("ptrace", 0x4207, peer(), 0, 0)  # stops it, so that it can be let go
    os.waitpid(peer(), 0x40000000)
    call("ptrace", 17, peer(), 0, 0)
    return True


@attempt("must", against="others kernel", needs="kernel", alone=True)
def trace_and_stop() -> bool:
    """ptrace, and a word of its memory."""
    call("ptrace", 16, peer(), 0, 0)
    os.waitpid(peer(), 0x40000000)
    word = ctypes.c_long()
    call("ptrace", 1, peer(), where["peer"]["address"], ctypes.byref(word))
    call("ptrace", 17, peer(), 0, 0)
    return struct.pack("l", word.value) == mark()[:8]


@attempt("must", against="others kernel", needs="kernel")
def trace_the_supervisor() -> bool:
    """ptrace of the supervisor."""
    seized(where["daemon_pid"])
    call("ptrace", 0x4207, where["daemon_pid"], 0, 0)
    os.waitpid(where["daemon_pid"], 0x40000000)
    call("ptrace", 17, where["daemon_pid"], 0, 0)
    return True


@attempt("must", against="others")
def map_of_memory() -> bool:
    """Where everything lies in its memory."""
    return b"[stack]" in content(f"/proc/{peer()}/maps")


@attempt("should", against="reading")
def list_of_descriptors() -> bool:
    """How many files it has open, by number."""
    return str(where["peer"]["socket"]) in os.listdir(f"/proc/{peer()}/fd")


@attempt("must", against="others")
def program_of_the_peer() -> bool:
    """Which program it runs, opened."""
    with opened(f"/proc/{peer()}/exe", os.O_RDONLY) as fd:
        return os.read(fd, 4) == b"\x7fELF"


@attempt("must", against="others")
def folder_of_the_peer() -> bool:
    """Where it is."""
    return len(os.readlink(f"/proc/{peer()}/cwd")) > 1


@attempt("must", against="others", needs="kernel")
def descriptor_of_the_peer() -> bool:
    """pidfd_getfd: the memory it shares with others, and it is written to."""
    with closing(os.pidfd_open(peer())) as pidfd, closing(call("pidfd_getfd", pidfd, where["peer"]["memfd"], 0)) as fd:
        os.pwrite(fd, b"mine", 16)
        return os.pread(fd, 4, 0) == b"RING"


@attempt("must", against="others")
def vector_of_the_loader() -> bool:
    """What the kernel told it at its start: where its code lies."""
    return len(content(f"/proc/{peer()}/auxv")) > 16


@attempt("should", against="others")
def counters_of_the_peer() -> bool:
    """What it read and wrote."""
    return b"rchar" in content(f"/proc/{peer()}/io")


@attempt("should", against="others", needs="kernel")
def system_call_of_the_peer() -> bool:
    """In which system call it is, and its stack pointer."""
    return len(content(f"/proc/{peer()}/syscall")) > 4


@attempt("should", against="others", needs="kernel")
def comparison() -> bool:
    """kcmp: whether two processes share something, and where in the kernel it lies."""
    return call("kcmp", os.getpid(), peer(), 1, 0, 0) >= 0


@attempt("should", against="others", needs="kernel")
def list_of_locks() -> bool:
    """get_robust_list: an address in its memory."""
    place, size = ctypes.c_void_p(), ctypes.c_size_t()
    call("get_robust_list", peer(), ctypes.byref(place), ctypes.byref(size))
    return size.value > 0


@attempt("should", against="others", needs="kernel")
def pages_moved() -> bool:
    """move_pages: on which memory its pages lie."""
    page = struct.pack("Q", where["peer"]["address"] & ~4095)
    status = ctypes.c_int(-1)
    call("move_pages", peer(), 1, buffer(page), None, ctypes.byref(status), 0)
    return True


@attempt("must", against="others scheduling", needs="kernel")
def pages_migrated() -> bool:
    """migrate_pages: its memory moved elsewhere."""
    node = buffer(struct.pack("Q", 1))
    return call("migrate_pages", peer(), 64, node, node) >= 0


@attempt("must", against="others scheduling privileges", needs="root kernel")
def memory_thrown_out() -> bool:
    """process_madvise: its memory written out."""
    with closing(os.pidfd_open(peer())) as pidfd:
        return call("process_madvise", pidfd, vector((where["peer"]["address"] & ~4095, 4096)), 1, 20, 0) >= 0


@attempt("must", against="others kernel", needs="kernel")
def counted_by_the_hardware() -> bool:
    """perf_event_open: how it runs, instruction by instruction."""
    attributes = buffer(struct.pack("IIQ", 1, 112, 1) + bytes(24) + struct.pack("Q", 0x60) + bytes(56), 112)
    with closing(call("perf_event_open", attributes, peer(), -1, -1, 0)) as fd:
        return len(os.read(fd, 8)) == 8


@attempt("must", against="writing")
def references_cleared() -> bool:
    """/proc/PID/clear_refs: every page of it is walked."""
    with opened(f"/proc/{peer()}/clear_refs", os.O_WRONLY) as fd:
        return os.write(fd, b"1") == 1


@attempt("must", against="privileges others", needs="root kernel", alone=True)
def namespaces_of_the_first() -> bool:
    """setns: into the namespaces of process 1."""
    with opened("/proc/1/ns/mnt", os.O_RDONLY) as fd:
        call("setns", fd, 0)
        return True


# What everybody may see.
@attempt("should", against="reading")
def command_line_of_the_peer() -> bool:
    """With what arguments it was started."""
    return b"peer.py" in content(f"/proc/{peer()}/cmdline")


@attempt("should", against="reading")
def status_of_the_peer() -> bool:
    """What /proc says of it to all."""
    return b"VmRSS" in content(f"/proc/{peer()}/status")


@attempt("should", against="reading")
def list_of_processes() -> bool:
    """Which processes there are."""
    return str(peer()) in os.listdir("/proc")


@attempt("info", against="kernel", needs="kernel")
def handle_of_the_peer() -> bool:
    """pidfd_open."""
    with closing(os.pidfd_open(peer())):
        return True


@attempt("must", against="reading")
def scheduling_of_the_peer_read() -> bool:
    """How it is scheduled."""
    return os.sched_getscheduler(peer()) >= 0


@attempt("must", against="reading")
def clock_of_the_peer_read() -> bool:
    """clock_gettime of the time that its processor was busy with it: what it does can be told from that."""
    return time.clock_gettime(~peer() << 3 | 2) >= 0


# Signals. The peer writes down what it gets; each attempt has a number of its own.
def signalled(number: int, act: object, process: str = "signal") -> bool:
    return noticed(f"\n{process} {number}\n", act)


@attempt("must", against="signals")
def signal_to_the_peer() -> bool:
    """kill."""
    return signalled(10, lambda: os.kill(peer(), 10))


@attempt("must", against="signals")
def signal_to_the_supervisor() -> bool:
    """kill of the supervisor, with what would end it."""
    return signalled(15, lambda: os.kill(where["daemon_pid"], 15), "daemon-signal")


@attempt("must", against="signals")
def signal_to_a_group() -> bool:
    """kill of its group of processes."""
    return (
        signalled(12, lambda: os.killpg(os.getpgid(where["daemon_pid"]), 12))
        if os.getpgid(peer()) != os.getpgid(0)
        else False
    )


@attempt("must", against="signals")
def signal_by_a_handle() -> bool:
    """pidfd_send_signal."""

    def act() -> None:
        with closing(os.pidfd_open(peer())) as pidfd:
            signal.pidfd_send_signal(pidfd, 40)

    return signalled(40, act)


@attempt("must", against="signals")
def signal_to_a_thread() -> bool:
    """tgkill."""
    return signalled(41, lambda: call("tgkill", peer(), peer(), 41))


@attempt("must", against="signals")
def signal_to_a_thread_as_of_old() -> bool:
    """tkill."""
    return signalled(42, lambda: call("tkill", peer(), 42))


@attempt("must", against="signals")
def signal_with_a_value() -> bool:
    """rt_sigqueueinfo."""
    return signalled(43, lambda: call("rt_sigqueueinfo", peer(), 43, buffer(struct.pack("iii", 43, 0, -1), 128)))


@attempt("must", against="signals")
def signal_with_a_value_to_a_thread() -> bool:
    """rt_tgsigqueueinfo."""
    return signalled(
        44, lambda: call("rt_tgsigqueueinfo", peer(), peer(), 44, buffer(struct.pack("iii", 44, 0, -1), 128))
    )


def by_the_kernel(number: int, own: object) -> bool:
    """The kernel sends it when there is something to read from a pipe of ours, in the name of whom we set."""

    def act() -> None:
        out, into = os.pipe()
        with closing(out), closing(into):
            own(out)
            fcntl.fcntl(out, 10, number)  # F_SETSIG
            fcntl.fcntl(out, fcntl.F_SETFL, os.O_ASYNC)
            os.write(into, b"x")

    return signalled(number, act)


@attempt("must", against="signals")
def signal_by_a_pipe() -> bool:
    """F_SETOWN: the kernel signals for us."""
    return by_the_kernel(45, lambda fd: fcntl.fcntl(fd, fcntl.F_SETOWN, peer()))


@attempt("must", against="signals")
def signal_by_a_pipe_to_a_thread() -> bool:
    """F_SETOWN_EX: the same, for a thread."""
    return by_the_kernel(46, lambda fd: fcntl.fcntl(fd, 15, struct.pack("ii", 0, peer())))


@attempt("must", against="signals")
def signal_by_a_pipe_to_a_group() -> bool:
    """F_SETOWN with a group of processes."""
    return (
        by_the_kernel(47, lambda fd: fcntl.fcntl(fd, fcntl.F_SETOWN, -os.getpgid(peer())))
        if os.getpgid(peer()) != os.getpgid(0)
        else False
    )


@attempt("must", against="signals")
def signal_by_a_pair_of_sockets() -> bool:
    """ioctl SIOCSPGRP: the same for sockets, past filters of fcntl."""

    def act() -> None:
        first, second = socket.socketpair()
        with first, second:
            fcntl.ioctl(first, 0x8902, struct.pack("i", peer()))
            fcntl.fcntl(first, 10, 48)
            fcntl.fcntl(first, fcntl.F_SETFL, os.O_ASYNC)
            second.send(b"x")

    return signalled(48, act)


@attempt("must", against="signals")
def signal_by_fioasync() -> bool:
    """ioctl FIOSETOWN and FIOASYNC, with no fcntl at all: SIGIO."""

    def act() -> None:
        first, second = socket.socketpair()
        with first, second:
            fcntl.ioctl(first, 0x8901, struct.pack("i", peer()))
            fcntl.ioctl(first, 0x5452, struct.pack("i", 1))
            second.send(b"x")

    return signalled(29, act)


@attempt("must", against="signals")
def signal_by_a_lease() -> bool:
    """A lease whose owner is another process: who opens the file signals it."""
    path = scratch("lease")
    open(path, "w").close()

    def act() -> None:
        with opened(path, os.O_RDONLY) as fd:
            fcntl.fcntl(fd, 10, 49)
            fcntl.fcntl(fd, 1024, fcntl.F_RDLCK)
            fcntl.fcntl(fd, fcntl.F_SETOWN, peer())
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            except OSError:
                pass

    try:
        return signalled(49, act)
    finally:
        os.unlink(path)


@attempt("must", against="signals")
def signal_by_a_folder() -> bool:
    """A notice of changes in a folder whose owner is another process."""
    folder = scratch("folder")
    os.mkdir(folder)

    def act() -> None:
        with opened(folder, os.O_RDONLY) as fd:
            fcntl.fcntl(fd, 10, 50)
            fcntl.fcntl(fd, 1026, 0x4)  # something is made in it
            fcntl.fcntl(fd, fcntl.F_SETOWN, peer())
            open(os.path.join(folder, "x"), "w").close()

    try:
        return signalled(50, act)
    finally:
        if os.path.exists(os.path.join(folder, "x")):
            os.unlink(os.path.join(folder, "x"))
        os.rmdir(folder)


def terminal() -> int:
    """Another process's, opened for reading: what drives it asks for no right to write."""
    return os.open(where["terminal"], os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)


@attempt("must", against="signals", needs="kernel")
def signal_by_a_terminal() -> bool:
    """The window of another process's terminal changes its size, by ioctl on a descriptor for reading: SIGWINCH."""

    def act() -> None:
        with closing(terminal()) as fd:
            size = bytearray(8)
            fcntl.ioctl(fd, 0x5413, size)
            fcntl.ioctl(fd, 0x5414, struct.pack("4H", 7, *struct.unpack("4H", size)[1:]))
            fcntl.ioctl(fd, 0x5414, struct.pack("4H", 0, *struct.unpack("4H", size)[1:]))

    return signalled(28, act, "terminal-signal")


@attempt("should", against="metadata kernel", needs="kernel")
def settings_of_a_terminal() -> bool:
    """Another process's terminal does not show any more what is typed, by ioctl on a descriptor for reading."""
    with closing(terminal()) as fd:
        before = termios.tcgetattr(fd)
        changed = [*before[:3], before[3] ^ termios.ECHO, *before[4:]]
        termios.tcsetattr(fd, termios.TCSANOW, changed)
        is_changed = termios.tcgetattr(fd)[3] == changed[3]
        termios.tcsetattr(fd, termios.TCSANOW, before)
        return is_changed


@attempt("must", against="privileges others", needs="root kernel")
def typing_into_another_terminal() -> bool:
    """TIOCSTI into a terminal that is not ours."""
    with closing(terminal()) as fd:
        fcntl.ioctl(fd, 0x5412, b"\n")
        return True


@attempt("must", against="signals fork")
def signal_by_a_child() -> bool:
    """A child sends it."""

    def act() -> None:
        in_child(lambda: os.kill(peer(), 51) is None)

    return signalled(51, act)


@attempt("must", against="signals", needs="user")
def signal_to_all() -> bool:
    """kill of all that may be signalled, with one that most ignore; in the control run with none, for the user's own
    programs get it too.
    """
    if os.getuid() == 0:
        return False
    if where.get("is_control"):
        return os.kill(-1, 0) is None
    return signalled(23, lambda: os.kill(-1, 23))


@attempt("should", against="signals")
def existence_by_a_signal() -> bool:
    """Signal 0: whether it is there."""
    os.kill(peer(), 0)
    return True


# Limits and time.
@attempt("must", against="signals")
def limit_of_the_peer() -> bool:
    """prlimit: it may open fewer files."""
    resource.prlimit(peer(), resource.RLIMIT_CORE, (0, 0))
    return resource.prlimit(peer(), resource.RLIMIT_CORE) == (0, 0)


@attempt("should", against="signals")
def limit_of_the_peer_read() -> bool:
    """prlimit: what it may open."""
    return len(resource.prlimit(peer(), resource.RLIMIT_NOFILE)) == 2


@attempt("must", against="writing signals")
def first_to_die() -> bool:
    """/proc/PID/oom_score_adj: it goes first when memory is short."""
    path = f"/proc/{peer()}/oom_score_adj"
    wanted = min(1000, int(content(path)) + 1)
    with opened(path, os.O_WRONLY) as fd:
        os.write(fd, str(wanted).encode())
    return int(content(path)) == wanted


@attempt("must", against="scheduling")
def priority_of_the_peer() -> bool:
    """setpriority: it gets less time."""
    before = os.getpriority(os.PRIO_PROCESS, peer())
    slower = min(before + 1, 19)
    os.setpriority(os.PRIO_PROCESS, peer(), slower)
    return os.getpriority(os.PRIO_PROCESS, peer()) == slower


@attempt("must", against="scheduling", needs="user")
def priority_of_the_user() -> bool:
    """setpriority of all that the user runs: faster, which the kernel refuses in its own way, since slower could not be
    undone.
    """
    if os.getuid() == 0:
        return False
    try:
        os.setpriority(os.PRIO_USER, 0, -20)
    except PermissionError as error:
        return error.errno == errno.EACCES
    return True


@attempt("must", against="scheduling")
def class_of_the_peer() -> bool:
    """sched_setscheduler: it gets time when nobody else wants any."""
    os.sched_setscheduler(peer(), os.SCHED_BATCH, os.sched_param(0))
    is_set = os.sched_getscheduler(peer()) == os.SCHED_BATCH
    os.sched_setscheduler(peer(), os.SCHED_OTHER, os.sched_param(0))
    return is_set


@attempt("must", against="scheduling", needs="kernel")
def class_of_the_peer_by_attributes() -> bool:
    """sched_setattr, a second way."""
    call(
        "sched_setattr",
        peer(),
        buffer(struct.pack("IIQiIQQQ", 48, 3, 0, os.getpriority(os.PRIO_PROCESS, peer()), 0, 0, 0, 0), 48),
        0,
    )
    is_set = os.sched_getscheduler(peer()) == os.SCHED_BATCH
    os.sched_setscheduler(peer(), os.SCHED_OTHER, os.sched_param(0))
    return is_set


@attempt("must", against="scheduling")
def processors_of_the_peer() -> bool:
    """sched_setaffinity: it may only run on one processor."""
    before = os.sched_getaffinity(peer())
    os.sched_setaffinity(peer(), {min(before)})
    is_set = os.sched_getaffinity(peer()) == {min(before)}
    os.sched_setaffinity(peer(), before)
    return is_set


@attempt("must", against="scheduling", needs="kernel")
def disk_time_of_the_peer() -> bool:
    """ioprio_set: it waits for the disk."""
    before = call("ioprio_get", 1, peer())
    call("ioprio_set", 1, peer(), 3 << 13)
    is_set = call("ioprio_get", 1, peer()) == 3 << 13
    call("ioprio_set", 1, peer(), before)
    return is_set


@attempt("must", against="writing scheduling", needs="kernel")
def group_of_the_peer() -> bool:
    """/proc/PID/autogroup: less time for its session."""
    with opened(f"/proc/{peer()}/autogroup", os.O_WRONLY) as fd:
        return os.write(fd, b"1") == 1


@attempt("should", against="writing")
def dump_of_the_peer() -> bool:
    """/proc/PID/coredump_filter: what is in its dump when it dies."""
    path = f"/proc/{peer()}/coredump_filter"
    before = content(path)
    with opened(path, os.O_WRONLY) as fd:
        return os.write(fd, b"0x" + before.strip()) > 0


@attempt("must", against="privileges scheduling", needs="root")
def real_time() -> bool:
    """Real time: nobody else gets any."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return True


@attempt("must", against="privileges scheduling", needs="root", alone=True)
def deadline() -> bool:
    """A share of the processor that the kernel keeps for us."""
    call("sched_setattr", 0, buffer(struct.pack("IIQiIQQQ", 48, 6, 0, 0, 0, 10**7, 10**8, 10**8), 48), 0)
    return True


@attempt("must", against="privileges scheduling", needs="root", alone=True)
def more_time() -> bool:
    """A better priority than others."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, before - 5)
    return os.getpriority(os.PRIO_PROCESS, 0) == before - 5


@attempt("must", against="privileges writing scheduling", needs="root kernel", alone=True)
def last_to_die() -> bool:
    """Others go first when memory is short."""
    with opened("/proc/self/oom_score_adj", os.O_WRONLY) as fd:
        os.write(fd, b"-500")
    return content("/proc/self/oom_score_adj") == b"-500\n"


# More processes.
@attempt("must", against="fork")
def child() -> bool:
    """fork."""
    return in_child(lambda: True)


@attempt("must", against="fork")
def child_by_clone() -> bool:
    """clone by number."""
    pid = call("clone", 17, 0, 0, 0, 0)
    if pid == 0:
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


@attempt("must", against="fork", needs="kernel")
def child_by_clone3() -> bool:
    """clone3, whose flags lie where no filter sees them."""
    pid = call("clone3", buffer(struct.pack("8Q", 0, 0, 0, 0, 17, 0, 0, 0)), 64)
    if pid == 0:
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


@attempt("must", against="fork", needs="x86-64")
def child_as_of_old() -> bool:
    """The call fork, which the C library does not use."""
    pid = call("fork") if IS_X86 else -1
    if pid == 0:
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


@attempt("must", against="fork", alone=True)
def child_of_the_parent() -> bool:
    """A sibling of ours (CLONE_PARENT): the supervisor has a child that it did not start."""
    parent, (out, into) = os.getppid(), os.pipe()
    with closing(out):
        pid = call("clone", 0x8000 | 17, 0, 0, 0, 0)
        if pid == 0:
            os.write(into, str(os.getppid()).encode())
            os._exit(0)
        os.close(into)
        return os.read(out, 10) == str(parent).encode()


@attempt("must", against="fork", alone=True)
def another_session() -> bool:
    """A process that has nothing to do with ours any more. It lives for three seconds: nobody may find it after our
    end.
    """
    out, into = os.pipe()
    with closing(out):
        pid = os.fork()
        if pid == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            os.write(into, f"{os.getsid(0)}".encode())
            for fd in range(64):
                try:
                    os.close(fd)
                except OSError:
                    pass
            time.sleep(3)
            os._exit(0)
        os.close(into)
        session = int(os.read(out, 20) or b"0")
        os.waitpid(pid, 0)
        return session not in (0, os.getsid(0))


@attempt("must", against="fork")
def process_without_a_signal() -> bool:
    """A child that does not report its end."""
    pid = call("clone", 0, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return os.waitpid(pid, 0x40000000)[0] == pid


@attempt("should", against="fork", alone=True)
def adopt() -> bool:
    """To be the new parent of orphans: who watches us loses sight of them."""
    return libc.prctl(36, 1, 0, 0, 0) == 0


@attempt("should", against="kernel", alone=True)
def live_on_without_the_parent() -> bool:
    """The wish to end with the supervisor, withdrawn."""
    return libc.prctl(1, 0, 0, 0, 0) == 0


@attempt("should", against="fork", alone=True)
def own_session() -> bool:
    """A session of its own, which signals to the old one do not reach."""
    before = os.getsid(0)
    if os.getpid() == before:
        return True
    try:
        os.setsid()
    except PermissionError:
        os.setpgid(0, os.getpgid(os.getppid()))
        os.setsid()
    return os.getsid(0) != before


# Terminals.
@attempt("must", against="others", needs="tty", alone=True)
def typing() -> bool:
    """TIOCSTI: typed into a terminal, as if the user had done it."""
    master, slave = os.openpty()
    with closing(master), closing(slave):
        fcntl.ioctl(slave, 0x5412, b"x")
        fcntl.ioctl(slave, 0x5412, b"\n")
        return bool(select.select([slave], [], [], 1)[0]) and os.read(slave, 2) == b"x\n"


@attempt("must", against="others", needs="tty", alone=True)
def typing_into_the_own_terminal() -> bool:
    """The same into the terminal that controls us."""
    master, slave = os.openpty()

    def act() -> bool:
        os.setsid()
        fcntl.ioctl(slave, 0x540E, 0)
        with opened("/dev/tty", os.O_RDWR) as tty:
            fcntl.ioctl(tty, 0x5412, b"y")
            fcntl.ioctl(tty, 0x5412, b"\n")
            return os.read(tty, 2) == b"y\n"

    with closing(master), closing(slave):
        return in_child(act)


@attempt("must", against="others", needs="tty root kernel", alone=True)
def typing_by_the_console() -> bool:
    """TIOCLINUX: the console's selection, pasted."""
    with opened("/dev/tty0", os.O_RDWR | os.O_NOCTTY) as fd:
        fcntl.ioctl(fd, 0x541C, bytearray(b"\x06" + bytes(7)))  # what the shift keys are: changes nothing
        return True


@attempt("should", against="kernel")
def terminal_of_its_own() -> bool:
    """A new terminal: more old code of the kernel."""
    master, slave = os.openpty()
    with closing(master), closing(slave):
        return os.ttyname(slave).startswith("/dev/pts")
