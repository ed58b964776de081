"""Ways to run a program, or code that nobody has seen."""

import ctypes
import glob
import mmap
import multiprocessing
import os
import pty
import shutil
import subprocess
import sys
import time

from _attempt import IS_X86, MACHINE, attempt, buffer, call, closing, content, gone_after, libc, native, opened, scratch

TRUE = "/bin/true"


def loader() -> str:
    return (
        glob.glob("/lib64/ld-linux-x86-64.so.2")
        + glob.glob("/lib/ld-linux-aarch64.so.1")
        + glob.glob("/lib/ld-musl-*.so.1")
    )[0]


def ended_well(pid: int) -> bool:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def as_child(run: object) -> bool:
    """Forks; the child becomes the program, which says 0."""
    pid = os.fork()
    if pid == 0:
        try:
            run()
        except BaseException:
            pass
        os._exit(99)
    return ended_well(pid)


def in_place(run: object) -> bool:
    """This process becomes the program, which says for us that it ran."""
    name = sys._getframe(1).f_code.co_name
    said = '{"end": "' + name + '", "escaped": true}'
    run(["/bin/echo", said])
    return False


@attempt("must", against="exec fork")
def shell() -> bool:
    """A shell."""
    return subprocess.run(["/bin/sh", "-c", "echo $((6*7))"], capture_output=True, timeout=5).stdout == b"42\n"


@attempt("must", against="exec fork")
def shell_of_the_c_library() -> bool:
    """system."""
    return libc.system(b"exit 3") >> 8 == 3


@attempt("must", against="exec fork")
def shell_of_python() -> bool:
    """os.popen."""
    with os.popen("echo 42") as out:
        return out.read() == "42\n"


@attempt("must", against="exec fork")
def interpreter() -> bool:
    """Another Python."""
    return (
        subprocess.run([sys.executable, "-I", "-S", "-c", "print(6*7)"], capture_output=True, timeout=5).stdout
        == b"42\n"
    )


@attempt("must", against="exec fork")
def spawn() -> bool:
    """posix_spawn."""
    return ended_well(os.posix_spawn(TRUE, ["true"], {}))


@attempt("must", against="exec fork")
def spawn_with_vfork() -> bool:
    """subprocess without a wish that would need fork."""
    return subprocess.Popen([TRUE], close_fds=False).wait(5) == 0


@attempt("must", against="exec", alone=True)
def instead_of_us() -> bool:
    """The program in our place, with no fork."""
    return in_place(lambda argv: os.execv(argv[0], argv))


@attempt("must", against="exec", alone=True)
def instead_of_us_by_the_loader() -> bool:
    """The loader in our place, which maps the program itself: it is only read."""
    return in_place(lambda argv: os.execv(loader(), [loader(), *argv]))


@attempt("must", against="exec", alone=True)
def instead_of_us_by_a_handle() -> bool:
    """A program by its descriptor."""

    def run(argv: list[str]) -> None:
        fd = os.open(argv[0], os.O_RDONLY)
        os.execve(fd, argv, {})

    return in_place(run)


@attempt("must", against="exec", alone=True)
def instead_of_us_without_a_path() -> bool:
    """execveat with an empty path, by number."""

    def run(argv: list[str]) -> None:
        words = (ctypes.c_char_p * (len(argv) + 1))(*[one.encode() for one in argv], None)
        fd = os.open(argv[0], os.O_RDONLY)
        call("execveat", fd, buffer(b""), words, None, 0x1000)

    return in_place(run)


@attempt("must", against="exec", alone=True)
def instead_of_us_from_memory() -> bool:
    """A program that is in no folder."""

    def run(argv: list[str]) -> None:
        fd = os.memfd_create("x")
        os.write(fd, content(argv[0]))
        os.execve(fd, argv, {})

    return in_place(run)


@attempt("must", against="exec", alone=True)
def instead_of_us_from_a_thread() -> bool:
    """A program that a thread starts."""
    import threading

    def run(argv: list[str]) -> None:
        thread = threading.Thread(target=os.execv, args=(argv[0], argv))
        thread.start()
        thread.join()

    return in_place(run)


@attempt("must", against="exec", alone=True)
def instead_of_us_with_a_library() -> bool:
    """Ourselves again, with a library of our choice loaded first."""
    library = next(iter(glob.glob("/lib/*-linux-gnu/libm.so.6") + glob.glob("/lib*/libm.so.6")))
    said = '{"end": "instead_of_us_with_a_library", "escaped": true}'
    code = f"import os, sys; sys.exit(0 if not any('libm' in x for x in open('/proc/self/maps')) else os.write(1, {said.encode() + chr(10).encode()!r}) and 0)"
    os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", code], {"LD_PRELOAD": library})
    return False


@attempt("must", against="exec fork")
def loaded_by_the_loader() -> bool:
    """The loader runs it: it needs to be readable only."""
    return subprocess.run([loader(), TRUE], timeout=5).returncode == 0


@attempt("must", against="exec fork")
def from_memory() -> bool:
    """A program that is in no folder, in a child."""
    with closing(os.memfd_create("x", 0)) as fd:
        os.write(fd, content(TRUE))
        return as_child(lambda: os.execve(fd, ["true"], {}))


@attempt("must", against="exec fork")
def from_memory_by_proc() -> bool:
    """The same by its path in /proc."""
    with closing(os.memfd_create("x", 0)) as fd:
        os.write(fd, content(TRUE))
        return as_child(lambda: os.execv(f"/proc/self/fd/{fd}", ["true"]))


@attempt("must", against="exec fork")
def from_the_scratch_folder() -> bool:
    """A copy of a program in the scratch folder."""
    path = scratch("program")
    with gone_after(path):
        with opened(path, os.O_CREAT | os.O_WRONLY, 0o755) as fd:
            os.write(fd, content(TRUE))
        return subprocess.run([path], timeout=5).returncode == 0


@attempt("must", against="exec fork")
def script_of_ours() -> bool:
    """A script with an interpreter in its first line."""
    path = scratch("script")
    with gone_after(path):
        with opened(path, os.O_CREAT | os.O_WRONLY, 0o755) as fd:
            os.write(fd, b"#!/bin/sh\nexit 5\n")
        return subprocess.run([path], timeout=5).returncode == 5


@attempt("must", against="exec fork")
def by_a_link() -> bool:
    """By a link in the scratch folder."""
    path = scratch("link")
    os.symlink(TRUE, path)
    with gone_after(path):
        return subprocess.run([path], timeout=5).returncode == 0


@attempt("must", against="exec fork", alone=True)
def on_a_terminal() -> bool:
    """On a terminal of its own."""
    pid, fd = pty.fork()
    if pid == 0:
        try:
            os.execv(TRUE, ["true"])
        finally:
            os._exit(99)
    with closing(fd):
        return ended_well(pid)


@attempt("must", against="exec fork")
def pool_of_processes() -> bool:
    """multiprocessing's own way to start one."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=abs, args=(1,))
    process._start_method = "spawn"
    main = sys.modules["__main__"]
    file, main.__file__ = main.__file__, None
    try:
        del main.__file__
        process.start()
        process.join(5)
        return process.exitcode == 0
    finally:
        main.__file__ = file
        process.kill() if process.exitcode is None and process.pid else None
        stop = getattr(multiprocessing.resource_tracker._resource_tracker, "_stop", None)
        stop() if stop else None


@attempt("must", against="exec fork")
def ourselves_by_proc() -> bool:
    """The program that runs, by /proc/self/exe."""
    return as_child(lambda: os.execv("/proc/self/exe", ["python3", "-I", "-S", "-c", "pass"]))


@attempt("must", against="exec fork", needs="service")
def compiler() -> bool:
    """A program of ours, compiled."""
    path = scratch("compiled")
    with gone_after(path, path + ".c"):
        with open(path + ".c", "w") as file:
            file.write("int main(void) { return 6; }")
        subprocess.run(["cc", "-o", path, path + ".c"], capture_output=True, timeout=7)
        return subprocess.run([path], timeout=5).returncode == 6


@attempt("must", against="privileges", needs="user service")
def setuid_program() -> bool:
    """A program that runs as user 0, whoever starts it: it waits with its help, for a pipe that is full, and asks for
    no password.
    """
    path = next(
        one
        for one in map(shutil.which, ("mount", "umount", "chsh", "passwd", "su", "sudo"))
        if one and os.stat(one).st_mode & 0o4000
    )
    out, into = os.pipe()
    with closing(out), closing(into):
        os.set_blocking(into, False)
        os.write(into, bytes(1 << 20))
        os.set_blocking(into, True)
        process = subprocess.Popen([path, "--help"], stdin=subprocess.DEVNULL, stdout=into, stderr=into)
        try:
            end = time.monotonic() + 1
            while process.poll() is None and time.monotonic() < end:
                if os.getuid() != 0 and b"\nUid:\t%d\t0\t" % os.getuid() in content(f"/proc/{process.pid}/status"):
                    return True
                time.sleep(0.001)
            return False
        finally:
            process.kill()
            process.wait()


@attempt("must", against="privileges")
def promise_of_no_privileges() -> bool:
    """Whether a program that we start may gain more than we have: the kernel's promise is not set."""
    return b"\nNoNewPrivs:\t0\n" in content("/proc/self/status")


@attempt("must", against="privileges", needs="root")
def capabilities() -> bool:
    """Capabilities that are left, or that can be won back."""
    lines = dict(line.split(b":\t") for line in content("/proc/self/status").splitlines() if b":\t" in line)
    return any(int(lines[name], 16) for name in (b"CapPrm", b"CapEff", b"CapInh", b"CapAmb"))


@attempt("must", against="privileges", needs="root")
def another_user() -> bool:
    """setuid: as somebody else, whose files are not ours."""

    def change() -> None:
        os.setresuid(1234, 1234, 1234)
        os._exit(0 if os.getuid() == 1234 else 1)

    return as_child(change)


@attempt("must", against="privileges", needs="root")
def other_groups() -> bool:
    """setgroups: into groups that may more."""

    def change() -> None:
        os.setgroups([6])
        os._exit(0 if os.getgroups() == [6] else 1)

    return as_child(change)


@attempt("info", against="kernel")
def code_of_ours() -> bool:
    """Memory that may be written and run."""
    code = bytes.fromhex("b82a000000c3") if IS_X86 else bytes.fromhex("40058052c0035fd6")
    return MACHINE in ("x86_64", "aarch64") and native(code) == 42


@attempt("info", against="kernel")
def code_by_changing_rights() -> bool:
    """Memory that may be run after it was written."""
    memory = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(bytes.fromhex("b82a000000c3") if IS_X86 else bytes.fromhex("40058052c0035fd6"))
    place = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc.mprotect(ctypes.c_void_p(place), ctypes.c_size_t(mmap.PAGESIZE), 5)
    with open("/proc/self/maps") as file:
        is_runnable = any(line.startswith(f"{place:x}-") and " r-x" in line for line in file)
    return is_runnable and ctypes.CFUNCTYPE(ctypes.c_long)(place)() == 42


@attempt("should", against="exec")
def library_of_ours() -> bool:
    """A library in the scratch folder, loaded into this process."""
    library = next(
        iter(
            glob.glob("/lib/*-linux-gnu/libutil.so.1")
            + glob.glob("/lib/*-linux-gnu/libm.so.6")
            + glob.glob("/lib*/libm.so.6")
        )
    )
    path = scratch("library")
    with gone_after(path):
        shutil.copyfile(library, path)
        ctypes.CDLL(path)
        return True


@attempt("should", against="exec")
def library_from_memory() -> bool:
    """A library that is in no folder."""
    library = next(
        iter(
            glob.glob("/lib/*-linux-gnu/libutil.so.1")
            + glob.glob("/lib/*-linux-gnu/libm.so.6")
            + glob.glob("/lib*/libm.so.6")
        )
    )
    with closing(os.memfd_create("x")) as fd:
        os.write(fd, content(library))
        ctypes.CDLL(f"/proc/self/fd/{fd}")
        return True


@attempt("info", against="kernel")
def read_only_memory_written() -> bool:
    """/proc/self/mem writes where memory may only be read."""
    memory = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    place = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc.mprotect(ctypes.c_void_p(place), ctypes.c_size_t(mmap.PAGESIZE), 1)
    with opened("/proc/self/mem", os.O_RDWR) as fd:
        os.pwrite(fd, b"Z", place)
    return memory[:1] == b"Z"
