"""Ways to change what lies outside of the scratch folder."""

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import tempfile
import threading
import time

from _attempt import (
    AT_FDCWD,
    Uring,
    attempt,
    buffer,
    call,
    closing,
    content,
    existing,
    fresh,
    gone_after,
    libc,
    nonce,
    noticed,
    opened,
    outside,
    reached,
    scratch,
    where,
    within,
)


def added(write: object, path: str | None = None) -> bool:
    """What it writes is in the file afterwards."""
    text = nonce().encode()
    write(text)
    return text in content(path or existing())


def made(path: str, make: object) -> bool:
    """It is there afterwards."""
    with gone_after(path):
        make(path)
        return os.path.lexists(path)


@attempt("must", against="writing")
def create() -> bool:
    """A new file."""
    return made(outside(), lambda path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY)))


@attempt("must", against="writing")
def append() -> bool:
    """More, at the end of a file that is there."""

    def write(text: bytes) -> None:
        with open(existing(), "ab") as file:
            file.write(text)

    return added(write)


@attempt("must", against="writing")
def overwrite() -> bool:
    """Something else, in a file that is there."""

    def write(text: bytes) -> None:
        with opened(existing(), os.O_RDWR) as fd:
            os.pwrite(fd, text, 0)

    return added(write)


@attempt("must", against="writing")
def overwrite_by_vectors() -> bool:
    """The same by pwritev."""

    def write(text: bytes) -> None:
        with opened(existing(), os.O_WRONLY) as fd:
            os.pwritev(fd, [text[:3], text[3:]], 0)

    return added(write)


@attempt("must", against="writing")
def overwrite_as_memory() -> bool:
    """A shared mapping."""

    def write(text: bytes) -> None:
        with opened(existing(), os.O_RDWR) as fd:
            os.ftruncate(fd, max(100, os.fstat(fd).st_size))
            with mmap.mmap(fd, 0) as memory:
                memory[: len(text)] = text

    return added(write)


@attempt("must", against="writing")
def overwrite_by_the_kernel() -> bool:
    """sendfile into it."""

    def write(text: bytes) -> None:
        with opened(existing(), os.O_WRONLY) as fd, closing(os.memfd_create("x")) as source:
            os.write(source, text)
            os.sendfile(fd, source, 0, len(text))

    return added(write)


@attempt("must", against="writing")
def overwrite_by_splice() -> bool:
    """A pipe spliced into it."""

    def write(text: bytes) -> None:
        out, into = os.pipe()
        with closing(out), closing(into), opened(existing(), os.O_WRONLY) as fd:
            os.write(into, text)
            os.splice(out, fd, len(text))

    return added(write)


@attempt("must", against="writing", needs="kernel")
def overwrite_by_io_uring() -> bool:
    """Opened and written by io_uring."""

    def write(text: bytes) -> None:
        with Uring() as ring:
            path, data = buffer(existing().encode()), buffer(text)
            with closing(ring.submit(18, AT_FDCWD, address=ctypes.addressof(path), flags=os.O_WRONLY)) as fd:
                ring.submit(23, fd, address=ctypes.addressof(data), length=len(text))

    return added(write)


@attempt("must", against="writing", needs="kernel")
def copy_range() -> bool:
    """copy_file_range into it."""

    def write(text: bytes) -> None:
        path = scratch()
        with open(path, "wb") as file:
            file.write(text)
        with gone_after(path), opened(path, os.O_RDONLY) as source, opened(existing(), os.O_WRONLY) as fd:
            os.copy_file_range(source, fd, len(text))

    return added(write)


@attempt("must", against="writing")
def punch() -> bool:
    """A hole in a file that is there."""
    with opened(existing(), os.O_WRONLY) as fd:
        return libc.fallocate(fd, 3, ctypes.c_long(0), ctypes.c_long(1)) == 0


@attempt("must", against="writing")
def truncate() -> bool:
    """truncate, which opens nothing."""
    size = os.stat(existing()).st_size
    os.truncate(existing(), size + 1)
    return os.stat(existing()).st_size == size + 1


@attempt("must", against="writing")
def truncate_while_reading() -> bool:
    """Opened for reading, and emptied by the same call."""
    victim = os.path.join(where["folder"], "victim")
    before = content(victim)
    os.close(os.open(victim, os.O_RDONLY | os.O_TRUNC))
    is_empty = content(victim) == b"" and before != b""
    if is_empty:
        with open(victim, "wb") as file:
            file.write(before)
    return is_empty


@attempt("must", against="writing", needs="x86-64")
def create_as_of_old() -> bool:
    """creat, the call that open replaced."""
    return made(outside(), lambda path: os.close(call("creat", buffer(path.encode()), 0o600)))


@attempt("must", against="writing")
def create_by_openat2() -> bool:
    """openat2, which newer filters forget."""
    how = buffer((os.O_CREAT | os.O_WRONLY).to_bytes(8, "little") + (0o600).to_bytes(8, "little") + bytes(8))
    return made(outside(), lambda path: os.close(call("openat2", AT_FDCWD, buffer(path.encode()), how, 24)))


@attempt("must", against="writing")
def create_from_here() -> bool:
    """By a relative path."""
    with within(where["folder"]):
        name = os.path.basename(outside())
        return made(name, lambda path: open(path, "x").close())


@attempt("must", against="writing")
def create_by_a_handle() -> bool:
    """Relative to a descriptor of the folder."""
    path = outside()
    with gone_after(path), opened(where["folder"], os.O_PATH) as folder:
        os.close(os.open(os.path.basename(path), os.O_CREAT | os.O_WRONLY, dir_fd=folder))
        return os.path.exists(path)


@attempt("must", against="writing")
def create_without_a_name() -> bool:
    """A file without a name, which is given one later."""
    path = outside()
    with gone_after(path), opened(where["folder"], os.O_RDWR | os.O_TMPFILE, 0o600) as fd:
        os.write(fd, b"x")
        os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)
        return content(path) == b"x"


@attempt("must", against="writing")
def temporary_without_a_name() -> bool:
    """A file without a name: space on a disk that is not ours."""
    with opened(where["folder"], os.O_RDWR | os.O_TMPFILE, 0o600) as fd:
        return os.write(fd, b"x") == 1


@attempt("must", against="writing")
def make_folder() -> bool:
    """A new folder."""
    return made(outside(), os.mkdir)


@attempt("must", against="writing")
def remove_folder() -> bool:
    """A folder taken away."""
    path = os.path.join(where["folder"], "empty")
    os.rmdir(path)
    os.mkdir(path)
    return True


@attempt("must", against="writing")
def remove() -> bool:
    """A file taken away."""
    path = os.path.join(where["folder"], "victim")
    before = content(path)
    os.unlink(path)
    is_gone = not os.path.exists(path)
    with open(path, "wb") as file:
        file.write(before)
    return is_gone


@attempt("must", against="writing", needs="kernel")
def make_folder_by_io_uring() -> bool:
    """A folder made by io_uring."""
    path = outside()
    name = buffer(path.encode())
    with gone_after(path), Uring() as ring:
        ring.submit(37, AT_FDCWD, address=ctypes.addressof(name), length=0o700)
        return os.path.isdir(path)


@attempt("must", against="writing")
def rename() -> bool:
    """Another name for a file."""
    path, name = os.path.join(where["folder"], "moved"), outside()
    os.rename(path, name)
    os.rename(name, path)
    return True


@attempt("must", against="writing")
def rename_into() -> bool:
    """A file of ours in place of one that is there."""
    path, ours = os.path.join(where["folder"], "moved"), scratch()
    text = nonce()
    with open(ours, "w") as file:
        file.write(text)
    with gone_after(ours):
        os.rename(ours, path)
        return content(path) == text.encode()


@attempt("must", against="writing")
def rename_out() -> bool:
    """A file moved away, into the scratch folder."""
    path, ours = os.path.join(where["folder"], "moved"), scratch()
    os.rename(path, ours)
    is_gone = not os.path.exists(path)
    os.rename(ours, path)
    return is_gone


@attempt("must", against="writing")
def exchange() -> bool:
    """renameat2: a file of ours and another one change places."""
    ours, text = scratch(), nonce()
    with open(ours, "w") as file:
        file.write(text)
    with gone_after(ours):
        call("renameat2", AT_FDCWD, buffer(ours.encode()), AT_FDCWD, buffer(existing().encode()), 2)
        is_changed = content(existing()) == text.encode()
        call("renameat2", AT_FDCWD, buffer(ours.encode()), AT_FDCWD, buffer(existing().encode()), 2)
        return is_changed


@attempt("must", against="writing")
def whiteout() -> bool:
    """renameat2 that leaves a device in the old place."""
    path, name = outside(), outside()
    with open(path, "w"), gone_after(path, name):
        call("renameat2", AT_FDCWD, buffer(path.encode()), AT_FDCWD, buffer(name.encode()), 1)
        return os.path.exists(name)


def added_by(path: str) -> bool:
    """By another name of the file."""

    def write(text: bytes) -> None:
        with open(path, "ab") as file:
            file.write(text)

    return added(write)


@attempt("must", against="writing")
def link() -> bool:
    """A second name for a file."""
    return made(outside(), lambda path: os.link(existing(), path))


@attempt("must", against="writing")
def link_to_ours() -> bool:
    """A second name in the scratch folder, to write by."""
    path = scratch("hard")
    os.link(existing(), path)
    with gone_after(path):
        return added_by(path)


@attempt("must", against="writing")
def symbolic_link() -> bool:
    """A symbolic link."""
    return made(outside(), lambda path: os.symlink("/etc", path))


@attempt("must", against="writing")
def through_a_link() -> bool:
    """Through a symbolic link in the scratch folder."""
    path = scratch("link")
    os.symlink(existing(), path)
    with gone_after(path):
        return added_by(path)


@attempt("must", against="writing")
def through_a_linked_folder() -> bool:
    """Through a symbolic link to the folder."""
    path = scratch("link")
    os.symlink(where["folder"], path)
    with gone_after(path):
        return made(os.path.join(path, os.path.basename(outside())), lambda name: open(name, "x").close())


@attempt("must", against="writing")
def through_a_link_in_turns() -> bool:
    """A folder of ours that is a link to another one when it is used."""
    ours, other = scratch("race"), scratch("link")
    os.mkdir(ours)
    open(os.path.join(ours, "existing"), "w").close()
    os.symlink(where["folder"], other)
    inode, is_over = os.stat(existing()).st_ino, threading.Event()
    one, two = ours.encode(), other.encode()

    def flip() -> None:
        while not is_over.is_set():
            libc.renameat2(AT_FDCWD, one, AT_FDCWD, two, 2)

    thread = threading.Thread(target=flip)
    thread.start()
    end = time.monotonic() + 0.7
    is_hit = False
    try:
        while time.monotonic() < end and not is_hit:
            try:
                with opened(os.path.join(ours, "existing"), os.O_WRONLY | os.O_APPEND) as fd:
                    is_hit = os.fstat(fd).st_ino == inode
            except OSError:
                continue
        return is_hit
    finally:
        is_over.set()
        thread.join()
        for path in (ours, other):
            if os.path.islink(path):
                os.unlink(path)
            else:
                shutil.rmtree(path, ignore_errors=True)


@attempt("must", against="writing")
def through_proc() -> bool:
    """Opened for reading, and again for writing by /proc/self/fd."""

    def write(text: bytes) -> None:
        with opened(existing(), os.O_RDONLY) as fd, opened(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_APPEND) as again:
            os.write(again, text)

    return added(write)


@attempt("must", against="writing")
def through_a_handle() -> bool:
    """A descriptor without rights, opened again for writing."""

    def write(text: bytes) -> None:
        with opened(existing(), os.O_PATH) as fd, opened(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_APPEND) as again:
            os.write(again, text)

    return added(write)


@attempt("must", against="writing")
def through_the_root() -> bool:
    """By /proc/self/root."""

    def write(text: bytes) -> None:
        with open("/proc/self/root" + existing(), "ab") as file:
            file.write(text)

    return added(write)


@attempt("must", against="writing")
def up_and_down() -> bool:
    """By dots, out of the scratch folder."""

    def write(text: bytes) -> None:
        with open(os.path.join(where["scratch"], *[".."] * 20, existing().lstrip("/")), "ab") as file:
            file.write(text)

    return added(write)


@attempt("must", against="writing")
def pipe() -> bool:
    """A pipe with a name."""
    return made(outside(), os.mkfifo)


@attempt("must", against="writing")
def node() -> bool:
    """A file by mknod."""
    return made(outside(), lambda path: os.mknod(path, stat.S_IFREG | 0o600))


@attempt("must", against="writing privileges", needs="root")
def device() -> bool:
    """A device."""
    return made(outside(), lambda path: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3)))


@attempt("must", against="privileges", needs="root")
def device_of_ours() -> bool:
    """A device in the scratch folder: the disk below the file system."""
    with open("/proc/self/mountinfo") as file:
        major, minor = next(line.split()[2] for line in file if line.split()[4] == "/").split(":")
    return made(scratch(), lambda path: os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(int(major), int(minor))))


@attempt("must", against="writing")
def socket_with_a_path() -> bool:
    """A Unix socket."""
    path = outside("s")
    with gone_after(path), socket.socket(socket.AF_UNIX) as s, within(where["folder"]):
        s.bind(os.path.basename(path))
        return stat.S_ISSOCK(os.stat(path).st_mode)


@attempt("must", against="writing ipc")
def into_a_pipe() -> bool:
    """Into a pipe with a name that somebody reads."""

    text = nonce()

    def write() -> None:
        with opened(where["fifo"], os.O_WRONLY | os.O_NONBLOCK) as fd:
            os.write(fd, text.encode())

    return noticed(text, write)


@attempt("must", against="writing exec fork")
def by_a_shell_command() -> bool:
    """A program that we start writes."""
    path = outside()
    with gone_after(path):
        return subprocess.run(
            ["sh", "-c", 'echo x > "$0"', path], capture_output=True, timeout=5
        ).returncode == 0 and os.path.exists(path)


@attempt("must", against="writing")
def copy() -> bool:
    """shutil copies a file there."""
    return made(outside(), lambda path: shutil.copyfile(existing(), path))


@attempt("must", against="writing")
def database() -> bool:
    """A database."""

    def make(path: str) -> None:
        base = sqlite3.connect(path)
        base.execute("create table t(x)")
        base.close()

    return made(outside(), make)


@attempt("must", against="writing")
def into_tmp() -> bool:
    """/tmp as all see it."""
    return made(fresh("/tmp", "ipcctl-escape"), lambda path: open(path, "x").close())


@attempt("must", against="writing")
def into_var_tmp() -> bool:
    """Python's second choice for temporary files."""
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:
        return os.path.exists(file.name)


@attempt("must", against="writing")
def marker_of_another_program() -> bool:
    """What another program left in /tmp."""
    path = where["tmp_marker"]

    def write(text: bytes) -> None:
        with open(path, "ab") as file:
            file.write(text)

    return added(write, path)


@attempt("must", against="writing", needs="kernel", alone=True)
def by_dying() -> bool:
    """A dump of memory that the kernel writes where a child of ours dies. Not where a program gets it, which would keep
    and report it.
    """
    if where["core_pattern"].startswith(("|", "@", "/")):
        return False
    resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))
    os.chdir(where["folder"])
    before = set(os.listdir("."))
    pid = os.fork()
    if pid == 0:
        libc.prctl(4, 1, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGABRT)
        os._exit(1)
    os.waitpid(pid, 0)
    found = set(os.listdir(".")) - before
    for name in found:
        os.unlink(name)
    return bool(found)


@attempt("must", against="writing", needs="root kernel", alone=True)
def by_the_accounting() -> bool:
    """The kernel's process accounting, into a folder of our choice: with a file it would end the machine's own."""
    return reached("acct", buffer(where["folder"].encode()))


@attempt("must", against="writing kernel", needs="kernel", alone=True)
def by_a_mount() -> bool:
    """Writable again by a mount of its own, seen from the scratch folder."""
    call("unshare", 0x10020000)
    place = scratch("mount")
    os.mkdir(place)
    call("mount", buffer(where["folder"].encode()), buffer(place.encode()), None, 0x5000, None)
    with open(os.path.join(place, "existing"), "a") as file:
        return file.write("x") == 1


@attempt("must", against="writing kernel", needs="kernel", alone=True)
def by_a_detached_mount() -> bool:
    """open_tree: a copy of the mount that hangs nowhere."""
    call("unshare", 0x10020000)
    with closing(call("open_tree", AT_FDCWD, buffer(where["folder"].encode()), 0x8001)) as tree:
        with opened("existing", os.O_WRONLY | os.O_APPEND, dir_fd=tree) as fd:
            return os.write(fd, b"x") == 1


@attempt("must", against="writing kernel", needs="kernel", alone=True)
def by_a_changed_root() -> bool:
    """chroot in a user namespace of its own."""
    call("unshare", 0x10000000)
    os.chroot(where["folder"])
    with open("/existing", "a") as file:
        return file.write("x") == 1


@attempt("must", against="writing", needs="root")
def settings_of_the_kernel() -> bool:
    """/proc/sys: user 0 needs no capability for it. Nothing is written, which the kernel allows whom it allows more."""
    with opened("/proc/sys/kernel/core_pattern", os.O_WRONLY) as fd:
        return os.write(fd, b"") == 0


@attempt("must", against="writing", needs="root kernel")
def settings_of_devices() -> bool:
    """/sys."""
    for path in ("/sys/kernel/mm/transparent_hugepage/enabled", "/sys/kernel/uevent_helper", "/sys/power/state"):
        try:
            with opened(path, os.O_WRONLY):
                return True
        except OSError:
            continue
    return False


@attempt("must", against="writing privileges", needs="root kernel")
def disk_written() -> bool:
    """The disk below the file system, opened for writing; and for us alone, which the kernel refuses as long as it is
    mounted.
    """
    with open("/proc/self/mountinfo") as file:
        line = next(line.split() for line in file if line.split()[4] == "/")
    try:
        with opened(line[line.index("-") + 2], os.O_WRONLY | os.O_EXCL):
            return True
    except OSError as error:
        return error.errno == errno.EBUSY


@attempt("must", against="writing", needs="root kernel")
def log_of_the_kernel() -> bool:
    """Lines in the kernel's log that are ours: one that is too long to be kept."""
    with opened("/dev/kmsg", os.O_WRONLY) as fd:
        try:
            return os.write(fd, b"x" * 16384) > 0
        except OSError as error:
            return error.errno == errno.EINVAL


@attempt("must", against="writing", needs="root kernel")
def group_of_processes() -> bool:
    """A control group of its own, without the limits of ours."""
    with open("/proc/self/mountinfo") as file:
        tops = [line.split()[4] for line in file if " - cgroup" in line]
    for top in tops:
        path = fresh(top, "ipcctl-escape")
        try:
            os.mkdir(path)
        except OSError:
            continue
        os.rmdir(path)
        return True
    return False


@attempt("must", against="writing others")
def by_a_descriptor_of_the_peer() -> bool:
    """By /proc, what another process has open, opened again for writing."""
    pid, fd = where["peer"]["pid"], where["peer"]["memfd"]
    with opened(f"/proc/{pid}/fd/{fd}", os.O_RDWR) as ring:
        return os.pwrite(ring, b"evil", 8) == 4


@attempt("must", against="writing")
def by_a_lock() -> bool:
    """A file of locks that other programs wait for."""
    path = os.path.join(where["folder"], "existing")
    with opened(path, os.O_RDWR) as fd:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True


@attempt("must", against="writing")
def terminals_of_others() -> bool:
    """What is written to another terminal its user reads as ours: here one that the supervisor could have."""
    master, slave = os.openpty()
    with closing(master), closing(slave):
        name = os.ttyname(slave)
        with opened(name, os.O_WRONLY | os.O_NOCTTY) as fd:
            os.write(fd, b"hello")
        return os.read(master, 5) == b"hello"
