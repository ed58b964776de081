"""Ways to what a file holds that the worker may not read, and to whether and where it is."""

import ctypes
import fcntl
import mmap
import os
import runpy
import shutil
import socket
import struct
import subprocess
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
    in_child,
    is_secret,
    libc,
    opened,
    scratch,
    where,
    within,
)


def secret() -> str:
    return where["secret"]


def vault() -> str:
    return os.path.dirname(where["secret"])


@attempt("must", against="reading")
def read() -> bool:
    """The file, opened."""
    return is_secret(content(secret()))


@attempt("must", against="reading")
def read_from_its_folder() -> bool:
    """Relative to a descriptor of its folder."""
    with opened(vault(), os.O_PATH) as folder, opened(os.path.basename(secret()), os.O_RDONLY, dir_fd=folder) as fd:
        return is_secret(os.read(fd, 100))


@attempt("must", against="reading")
def read_from_here() -> bool:
    """By a relative path, out of its folder as the current one."""
    with within(vault()):
        return is_secret(content(os.path.basename(secret())))


@attempt("must", against="reading")
def read_by_dots() -> bool:
    """Up and down again, out of the scratch folder."""
    return is_secret(content(os.path.join(where["scratch"], *[".."] * 20, secret().lstrip("/"))))


@attempt("must", against="reading")
def read_by_openat2() -> bool:
    """openat2, a newer way to open."""
    with closing(call("openat2", AT_FDCWD, buffer(secret().encode()), buffer(bytes(24)), 24)) as fd:
        return is_secret(os.read(fd, 100))


@attempt("must", against="reading", needs="x86-64")
def read_by_the_old_open() -> bool:
    """The call that openat replaced."""
    with closing(call("open", buffer(secret().encode()), 0, 0)) as fd:
        return is_secret(os.read(fd, 100))


@attempt("must", against="reading")
def read_by_the_c_library() -> bool:
    """fopen and fgets."""
    libc.fopen.restype = ctypes.c_void_p
    file = libc.fopen(secret().encode(), b"r")
    if not file:
        return False
    data = buffer(bytes(100))
    libc.fgets(data, 100, ctypes.c_void_p(file))
    libc.fclose(ctypes.c_void_p(file))
    return is_secret(data.value)


@attempt("must", against="reading")
def read_by_a_link() -> bool:
    """A symbolic link in the scratch folder."""
    link = scratch("link")
    os.symlink(secret(), link)
    with gone_after(link):
        return is_secret(content(link))


@attempt("must", against="reading")
def read_by_a_linked_folder() -> bool:
    """A symbolic link to its folder."""
    link = scratch("link")
    os.symlink(vault(), link)
    with gone_after(link):
        return is_secret(content(os.path.join(link, os.path.basename(secret()))))


@attempt("must", against="reading writing")
def read_by_a_hard_link() -> bool:
    """A second name for it, in the scratch folder."""
    link = scratch("hard")
    os.link(secret(), link)
    with gone_after(link):
        return is_secret(content(link))


@attempt("must", against="reading writing")
def read_after_moving() -> bool:
    """Moved into the scratch folder."""
    place = scratch("moved")
    os.rename(secret(), place)
    try:
        return is_secret(content(place))
    finally:
        os.rename(place, secret())


@attempt("must", against="reading writing")
def read_after_moving_its_folder() -> bool:
    """Its folder moved into the scratch folder."""
    place = scratch("moved")
    os.rename(vault(), place)
    try:
        return is_secret(content(os.path.join(place, os.path.basename(secret()))))
    finally:
        os.rename(place, vault())


@attempt("must", against="reading")
def read_from_another_root() -> bool:
    """By /proc/self/root, past rules for paths."""
    return is_secret(content("/proc/self/root" + secret()))


@attempt("must", against="reading")
def read_by_a_handle() -> bool:
    """A descriptor without rights, opened again."""
    with opened(secret(), os.O_PATH) as fd:
        return is_secret(content(f"/proc/self/fd/{fd}"))


@attempt("must", against="reading")
def read_as_memory() -> bool:
    """Mapped."""
    with opened(secret(), os.O_RDONLY) as fd, mmap.mmap(fd, 0, prot=mmap.PROT_READ) as memory:
        return is_secret(memory[:])


@attempt("must", against="reading")
def read_by_the_kernel() -> bool:
    """Copied by sendfile, inside of the kernel."""
    with opened(secret(), os.O_RDONLY) as fd, closing(os.memfd_create("x")) as copy:
        os.sendfile(copy, fd, 0, 100)
        return is_secret(os.pread(copy, 100, 0))


@attempt("must", against="reading")
def read_by_splice() -> bool:
    """Spliced into a pipe."""
    out, into = os.pipe()
    with closing(out), closing(into), opened(secret(), os.O_RDONLY) as fd:
        os.splice(fd, into, 100)
        return is_secret(os.read(out, 100))


@attempt("must", against="reading", needs="kernel")
def read_by_io_uring() -> bool:
    """Opened by io_uring."""
    with Uring() as ring:
        path = buffer(secret().encode())
        with closing(ring.submit(18, AT_FDCWD, address=ctypes.addressof(path))) as fd:
            return is_secret(os.read(fd, 100))


@attempt("must", against="reading privileges", needs="root")
def read_by_a_file_handle() -> bool:
    """open_by_handle_at, which asks no folder."""
    handle, mount = buffer(struct.pack("Ii", 128, 0), 136), ctypes.c_int()
    call("name_to_handle_at", AT_FDCWD, buffer(secret().encode()), handle, ctypes.byref(mount), 0)
    with opened("/", os.O_RDONLY) as root, closing(call("open_by_handle_at", root, handle, 0)) as fd:
        return is_secret(os.read(fd, 100))


@attempt("must", against="reading exec fork")
def read_by_a_program() -> bool:
    """By a program that inherits our limits, or should."""
    return is_secret(subprocess.run(["cat", secret()], capture_output=True, timeout=5).stdout)


@attempt("must", against="reading exec fork")
def read_as_input() -> bool:
    """By a shell, as its input."""
    return is_secret(
        subprocess.run(["sh", "-c", 'read -r x < "$0"; echo "$x"', secret()], capture_output=True, timeout=5).stdout
    )


@attempt("must", against="reading fork")
def read_by_a_child() -> bool:
    """By a forked child."""
    return in_child(lambda: is_secret(content(secret())))


@attempt("must", against="reading")
def read_by_a_thread() -> bool:
    """By a thread: what is denied to one is denied to all."""
    got: list[bytes] = []

    def look() -> None:
        try:
            got.append(content(secret()))
        except OSError:
            pass

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return bool(got) and is_secret(got[0])


@attempt("must", against="reading")
def read_by_copying() -> bool:
    """shutil copies it into the scratch folder."""
    place = scratch("copy")
    with gone_after(place):
        shutil.copyfile(secret(), place)
        return is_secret(content(place))


@attempt("must", against="reading")
def read_as_a_program() -> bool:
    """As Python source: the error shows the line."""
    try:
        runpy.run_path(secret())
    except SyntaxError as error:
        return is_secret(error.text or "")
    return False


@attempt("must", against="reading")
def read_while_it_changes() -> bool:
    """A path that is a harmless file when it is looked at, and the secret when it is used."""
    name, harmless = scratch("race"), scratch("harmless")
    with open(harmless, "w") as file:
        file.write("harmless")
    os.symlink(harmless, name)
    is_over = threading.Event()

    def flip() -> None:
        turn = 0
        while not is_over.is_set():
            turn += 1
            spare = f"{name}.{turn % 2}"
            os.symlink(secret() if turn % 2 else harmless, spare)
            os.rename(spare, name)

    thread = threading.Thread(target=flip)
    thread.start()
    end = time.monotonic() + 0.5
    try:
        while time.monotonic() < end:
            try:
                if is_secret(content(name)):
                    return True
            except OSError:
                continue
        return False
    finally:
        is_over.set()
        thread.join()
        with gone_after(name, harmless):
            pass


@attempt("must", against="reading")
def listing() -> bool:
    """The names in its folder."""
    return os.path.basename(secret()) in os.listdir(vault())


@attempt("must", against="reading")
def listing_by_number() -> bool:
    """The same by getdents."""
    data = buffer(bytes(4096))
    with opened(vault(), os.O_RDONLY) as fd:
        size = call("getdents64", fd, data, 4096)
        return os.path.basename(secret()).encode() in data.raw[:size]


@attempt("must", against="reading")
def home() -> bool:
    """The user's home folder."""
    return ".ssh" in os.listdir(where["home"])


@attempt("must", against="reading")
def home_keys() -> bool:
    """The user's keys."""
    return content(os.path.join(where["home"], ".bashrc")).startswith(b"#")


@attempt("should", against="reading")
def status() -> bool:
    """stat: that it is there, how large, since when."""
    return os.stat(secret()).st_size > 0


@attempt("should", against="reading")
def permission() -> bool:
    """access: that it is there."""
    return os.access(secret(), os.F_OK)


@attempt("should", against="reading")
def status_by_a_handle() -> bool:
    """fstat of a descriptor without rights."""
    with opened(secret(), os.O_PATH) as fd:
        return os.fstat(fd).st_size > 0


@attempt("should", against="reading")
def aim_of_a_link() -> bool:
    """Where a symbolic link there leads."""
    return os.readlink(os.path.join(vault(), "link")).startswith("nowhere")


@attempt("should", against="reading", needs="filesystem")
def attributes_of_a_file() -> bool:
    """The names of its extended attributes."""
    os.listxattr(secret())
    return True


@attempt("info", against="reading", needs="kernel")
def handle_of_a_file() -> bool:
    """A handle of it: that it is there, and its inode."""
    handle, mount = buffer(struct.pack("Ii", 128, 0), 136), ctypes.c_int()
    call("name_to_handle_at", AT_FDCWD, buffer(secret().encode()), handle, ctypes.byref(mount), 0)
    return struct.unpack_from("I", handle)[0] > 0


@attempt("info", against="reading")
def error_of_the_loader() -> bool:
    """The loader of libraries says whether it is there."""
    try:
        ctypes.CDLL(secret())
    except OSError as error:
        return "No such file" not in str(error) and "Permission" not in str(error)
    return True


@attempt("should", against="reading")
def watching() -> bool:
    """inotify: who reads it, and when."""
    with closing(call("inotify_init1", os.O_NONBLOCK)) as fd:
        call("inotify_add_watch", fd, buffer(vault().encode()), 0xFFF)
        return True


@attempt("must", against="privileges", needs="root kernel")
def watching_the_file_system() -> bool:
    """fanotify: every file that is opened on the file system, with a descriptor of it."""
    with closing(call("fanotify_init", 0x4, 0)) as fd:
        call("fanotify_mark", fd, 0x1 | 0x10, 0x20, AT_FDCWD, buffer(b"/"))
        return True


@attempt("should", against="reading", needs="kernel")
def watching_without_root() -> bool:
    """fanotify as any user may have it."""
    with closing(call("fanotify_init", 0x200 | 0x2, 0)) as fd:
        call("fanotify_mark", fd, 0x1, 0x20, AT_FDCWD, buffer(existing().encode()))
        return True


@attempt("should", against="reading")
def watching_as_of_old() -> bool:
    """dnotify: a signal when a folder changes."""
    with opened(vault(), os.O_RDONLY) as fd:
        fcntl.fcntl(fd, 1026, 0x2)
        fcntl.fcntl(fd, 1026, 0)
        return True


@attempt("must", against="others reading")
def read_from_the_peer() -> bool:
    """By /proc, the file as another process has it open."""
    return is_secret(content(f"/proc/{where['peer']['pid']}/fd/{where['peer']['secret']}"))


@attempt("must", against="others reading")
def read_from_where_the_peer_is() -> bool:
    """By /proc, from the current folder of another process."""
    return is_secret(content(f"/proc/{where['peer']['pid']}/cwd/{os.path.basename(secret())}"))


@attempt("must", against="others reading")
def read_from_the_root_of_the_peer() -> bool:
    """By /proc, from the root of another process."""
    return is_secret(content(f"/proc/{where['peer']['pid']}/root{secret()}"))


@attempt("must", against="others reading", needs="kernel")
def read_with_a_descriptor_of_the_peer() -> bool:
    """pidfd_getfd: the descriptor itself."""
    with closing(os.pidfd_open(where["peer"]["pid"])) as pidfd:
        with closing(call("pidfd_getfd", pidfd, where["peer"]["secret"], 0)) as fd:
            return is_secret(os.pread(fd, 100, 0))


@attempt("must", against="reading privileges", needs="root", alone=True)
def read_by_a_mount() -> bool:
    """Its folder, mounted into the scratch folder."""
    call("unshare", 0x20000)
    call("mount", buffer(b"none"), buffer(b"/"), None, 0x44000, None)
    place = scratch("mount")
    os.mkdir(place)
    call("mount", buffer(vault().encode()), buffer(place.encode()), None, 0x1000, None)
    return is_secret(content(os.path.join(place, os.path.basename(secret()))))


@attempt("must", against="reading kernel", needs="kernel", alone=True)
def read_by_a_mount_of_its_own() -> bool:
    """The same in namespaces of its own, where every user may mount."""
    call("unshare", 0x10020000)
    place = scratch("mount")
    os.mkdir(place)
    call("mount", buffer(vault().encode()), buffer(place.encode()), None, 0x5000, None)
    return is_secret(content(os.path.join(place, os.path.basename(secret()))))


@attempt("must", against="reading kernel", needs="kernel", alone=True)
def read_by_a_detached_mount() -> bool:
    """open_tree: a copy of the mount that hangs nowhere."""
    call("unshare", 0x10020000)
    with closing(call("open_tree", AT_FDCWD, buffer(vault().encode()), 0x8001)) as tree:
        with opened(os.path.basename(secret()), os.O_RDONLY, dir_fd=tree) as fd:
            return is_secret(os.read(fd, 100))


@attempt("must", against="reading kernel", needs="kernel", alone=True)
def read_by_a_changed_root() -> bool:
    """chroot in a user namespace of its own: other paths for the same files."""
    call("unshare", 0x10000000)
    os.chroot(vault())
    return is_secret(content("/" + os.path.basename(secret())))


@attempt("must", against="reading", needs="root")
def passwords() -> bool:
    """The machine's passwords."""
    return b"root:" in content("/etc/shadow")


@attempt("must", against="reading privileges", needs="root kernel")
def disk() -> bool:
    """The disk below the file system."""
    with open("/proc/self/mountinfo") as file:
        line = next(line.split() for line in file if line.split()[4] == "/")
    with opened(line[line.index("-") + 2], os.O_RDONLY) as fd:
        return len(os.pread(fd, 512, 1024)) == 512


@attempt("must", against="reading privileges", needs="root kernel")
def memory_of_the_machine() -> bool:
    """The kernel's memory as a file."""
    with opened("/proc/kcore", os.O_RDONLY) as fd:
        return os.read(fd, 4) == b"\x7fELF"


@attempt("should", against="reading privileges", needs="root kernel")
def messages_of_the_kernel() -> bool:
    """The kernel's log."""
    with opened("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK) as fd:
        return len(os.read(fd, 8192)) > 0


@attempt("should", against="reading")
def file_of_another_program() -> bool:
    """/tmp as all see it: what another program left there."""
    return where["peer"]["mark"].encode() in content(where["tmp_marker"])


@attempt("info", against="reading")
def machine() -> bool:
    """Which machine this is, and who is on it."""
    return any(
        os.access(path, os.R_OK) and content(path) for path in ("/etc/machine-id", "/etc/hostname", "/etc/passwd")
    )


@attempt("info", against="reading")
def mounts() -> bool:
    """What is mounted where."""
    return b" / " in content("/proc/self/mountinfo")


@attempt("should", against="reading")
def kernel_settings() -> bool:
    """The kernel's settings, as /proc/sys shows them."""
    return content("/proc/sys/kernel/random/boot_id").count(b"-") == 4


@attempt("must", against="reading ipc")
def told_by_a_server() -> bool:
    """A server with more rights that is asked by a Unix socket: here, that it can be asked."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(1)
        s.connect(os.path.join(where["state"], "ctl.sock"))
        s.sendall(b"ping")
        return s.recv(4) == b"pong"


@attempt("should", against="reading", needs="kernel")
def terminal_of_another_process() -> bool:
    """The terminal of another process opened for reading: what its user types comes to us."""
    with opened(where["terminal"], os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK) as fd:
        return os.isatty(fd)


@attempt("must", against="reading")
def read_again_and_again() -> bool:
    """Many openings at once, by threads: whoever decides in user space may be overtaken."""
    got: list[bytes] = []

    def look() -> None:
        for _ in range(50):
            try:
                got.append(content(secret()))
            except OSError:
                continue

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return any(is_secret(one) for one in got)


@attempt("must", against="reading")
def read_with_a_path_in_turns() -> bool:
    """The path in memory changes while the call runs: a check of the string is not a check of the file."""
    ours = fresh(where["scratch"], "a" * max(1, len(secret())))
    good, bad = ours.encode()[: len(secret())].ljust(len(secret()), b"0"), secret().encode()
    path, is_over = buffer(good, len(bad) + 1), threading.Event()

    def flip() -> None:
        while not is_over.is_set():
            ctypes.memmove(path, bad, len(bad))
            ctypes.memmove(path, good, len(good))

    thread = threading.Thread(target=flip)
    thread.start()
    end = time.monotonic() + 0.5
    try:
        while time.monotonic() < end:
            fd = libc.open(path, os.O_RDONLY)
            if fd >= 0:
                with closing(fd):
                    if is_secret(os.read(fd, 100)):
                        return True
        return False
    finally:
        is_over.set()
        thread.join()
