"""Ways to change what is known about a file outside: modes, owners, times, attributes, flags, locks."""

import ctypes
import fcntl
import os
import socket
import stat
import struct
import subprocess
import time

from _attempt import AT_FDCWD, Uring, attempt, buffer, call, closing, existing, opened, scratch, where


def mode(path: str | None = None) -> int:
    return stat.S_IMODE(os.stat(path or existing()).st_mode)


def changes_mode(change: object, path: str | None = None) -> bool:
    """It gets another mode; gives it back the one it had."""
    before = mode(path)
    wanted = before ^ 0o020
    change(wanted)
    is_changed = mode(path) == wanted
    os.chmod(path or existing(), before)
    return is_changed


def changes_times(change: object, path: str | None = None) -> bool:
    before = os.stat(path or existing()).st_mtime_ns
    time.sleep(0.01)  # the clock of the file system is coarse
    change()
    return os.stat(path or existing()).st_mtime_ns != before


@attempt("must", against="metadata")
def change_mode() -> bool:
    """chmod."""
    return changes_mode(lambda wanted: os.chmod(existing(), wanted))


@attempt("must", against="metadata")
def change_mode_of_what_is_read() -> bool:
    """fchmod on a descriptor for reading."""
    with opened(existing(), os.O_RDONLY) as fd:
        return changes_mode(lambda wanted: os.fchmod(fd, wanted))


@attempt("must", against="metadata", needs="kernel")
def change_mode_by_the_new_call() -> bool:
    """fchmodat2, younger than most filters."""
    path = buffer(existing().encode())
    return changes_mode(lambda wanted: call("fchmodat2", AT_FDCWD, path, wanted, 0))


@attempt("must", against="metadata")
def change_mode_by_proc() -> bool:
    """chmod of a descriptor without rights, by /proc/self/fd."""
    with opened(existing(), os.O_PATH) as fd:
        return changes_mode(lambda wanted: os.chmod(f"/proc/self/fd/{fd}", wanted))


@attempt("must", against="metadata")
def change_mode_by_a_link() -> bool:
    """chmod through a link of ours."""
    path = scratch("link")
    os.symlink(existing(), path)
    try:
        return changes_mode(lambda wanted: os.chmod(path, wanted))
    finally:
        os.unlink(path)


@attempt("must", against="metadata")
def change_mode_of_a_folder() -> bool:
    """A folder that all may write to."""
    return changes_mode(lambda wanted: os.chmod(where["folder"], wanted), where["folder"])


@attempt("must", against="metadata")
def change_mode_of_the_secret() -> bool:
    """A secret that all may read."""
    return changes_mode(lambda wanted: os.chmod(where["secret"], wanted), where["secret"])


@attempt("must", against="metadata exec fork")
def change_mode_by_a_program() -> bool:
    """The program chmod."""
    return changes_mode(
        lambda wanted: subprocess.run(["chmod", f"{wanted:o}", existing()], stderr=subprocess.DEVNULL, timeout=5)
    )


@attempt("must", against="metadata")
def setuid_bit() -> bool:
    """A file with the bit by which others run it as us."""
    path = scratch("setuid")
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o755))
    try:
        os.chmod(path, 0o4755)
        return mode(path) == 0o4755
    finally:
        os.unlink(path)


def changes_owner(change: object) -> bool:
    """To the same owner: the change of the inode's time shows that it was done."""
    before = os.stat(existing()).st_ctime_ns
    time.sleep(0.01)
    change(os.getuid(), os.getgid())
    return os.stat(existing()).st_ctime_ns != before


@attempt("must", against="metadata")
def change_owner() -> bool:
    """chown."""
    return changes_owner(lambda uid, gid: os.chown(existing(), uid, gid))


@attempt("must", against="metadata")
def change_owner_of_what_is_read() -> bool:
    """fchown."""
    with opened(existing(), os.O_RDONLY) as fd:
        return changes_owner(lambda uid, gid: os.fchown(fd, uid, gid))


@attempt("must", against="metadata")
def change_owner_without_following() -> bool:
    """lchown."""
    return changes_owner(lambda uid, gid: os.lchown(existing(), uid, gid))


@attempt("must", against="metadata")
def change_owner_from_a_folder() -> bool:
    """fchownat."""
    with opened(where["folder"], os.O_RDONLY) as folder:
        return changes_owner(lambda uid, gid: os.chown("existing", uid, gid, dir_fd=folder))


@attempt("must", against="metadata privileges", needs="root")
def give_away() -> bool:
    """A file of ours that then belongs to another."""
    path = scratch("given")
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    try:
        os.chown(path, 1234, 1234)
        return os.stat(path).st_uid == 1234
    finally:
        os.unlink(path)


@attempt("must", against="metadata")
def change_times() -> bool:
    """Times of our choice: make and Python's cache believe them."""
    return changes_times(lambda: os.utime(existing(), (time.time() % 1000, time.time() % 1000)))


@attempt("must", against="metadata")
def touch() -> bool:
    """The present time."""
    return changes_times(lambda: os.utime(existing()))


@attempt("must", against="metadata")
def change_times_of_what_is_read() -> bool:
    """futimens on a descriptor for reading."""
    with opened(existing(), os.O_RDONLY) as fd:
        return changes_times(lambda: os.utime(fd, (7, time.time() % 1000)))


@attempt("must", against="metadata", needs="x86-64")
def change_times_as_of_old() -> bool:
    """utimes, an older call."""
    times = buffer(struct.pack("qqqq", 5, 0, int(time.time()) % 1000, int(time.time() * 1e6) % 10**6))
    path = buffer(existing().encode())
    return os.uname().machine == "x86_64" and changes_times(lambda: call(235, path, times))


@attempt("must", against="metadata exec fork")
def change_times_by_a_program() -> bool:
    """The program touch."""
    return changes_times(lambda: subprocess.run(["touch", existing()], stderr=subprocess.DEVNULL, timeout=5))


def changes_attribute(change: object, name: str = "user.escape") -> bool:
    value = struct.pack("d", time.time())
    change(name, value)
    try:
        return os.getxattr(existing(), name) == value
    finally:
        os.removexattr(existing(), name)


@attempt("must", against="metadata", needs="filesystem")
def set_attribute() -> bool:
    """setxattr."""
    return changes_attribute(lambda name, value: os.setxattr(existing(), name, value))


@attempt("must", against="metadata", needs="filesystem")
def set_attribute_of_what_is_read() -> bool:
    """fsetxattr."""
    with opened(existing(), os.O_RDONLY) as fd:
        return changes_attribute(lambda name, value: os.setxattr(fd, name, value))


@attempt("must", against="metadata", needs="filesystem")
def set_attribute_without_following() -> bool:
    """lsetxattr."""
    return changes_attribute(lambda name, value: os.setxattr(existing(), name, value, follow_symlinks=False))


@attempt("must", against="metadata", needs="filesystem kernel")
def set_attribute_by_the_new_call() -> bool:
    """setxattrat, younger than most filters."""

    def change(name: str, value: bytes) -> None:
        data = buffer(value)
        arguments = buffer(struct.pack("QII", ctypes.addressof(data), len(value), 0))
        call("setxattrat", AT_FDCWD, buffer(existing().encode()), 0, buffer(name.encode()), arguments, 16)

    return changes_attribute(change)


@attempt("must", against="metadata", needs="filesystem kernel")
def set_attribute_by_io_uring() -> bool:
    """io_uring sets it."""

    def change(name: str, value: bytes) -> None:
        names, data, path = buffer(name.encode()), buffer(value), buffer(existing().encode())
        with Uring() as ring:
            ring.submit(
                42,
                0,
                offset=ctypes.addressof(data),
                address=ctypes.addressof(names),
                length=len(value),
                last=ctypes.addressof(path),
            )

    return changes_attribute(change)


@attempt("must", against="metadata privileges", needs="root filesystem")
def capability_of_a_file() -> bool:
    """A program with capabilities, for later."""
    path = scratch("capable")
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o755))
    try:
        os.setxattr(path, "security.capability", struct.pack("<5I", 0x02000001, 1 << 21, 0, 0, 0))
        return True
    finally:
        os.unlink(path)


@attempt("must", against="metadata", needs="filesystem")
def access_list() -> bool:
    """An access list: another user may read and write."""
    value = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, rights, who)
        for tag, rights, who in (
            (1, 6, 0xFFFFFFFF),
            (2, 6, 1234),
            (4, 4, 0xFFFFFFFF),
            (16, 6, 0xFFFFFFFF),
            (32, 4, 0xFFFFFFFF),
        )
    )
    os.setxattr(existing(), "system.posix_acl_access", value)
    is_set = "system.posix_acl_access" in os.listxattr(existing())
    os.removexattr(existing(), "system.posix_acl_access")
    return is_set


@attempt("must", against="metadata", needs="filesystem")
def remove_attribute() -> bool:
    """removexattr of one that is there: any other error than a refusal shows that it was let in."""
    try:
        os.removexattr(existing(), "user.not-there")
    except OSError as error:
        return error.errno == 61  # ENODATA
    return True


FLAGS = 0x80086601, 0x40086602
NODUMP = 0x40


@attempt("must", against="metadata", needs="filesystem")
def change_flags() -> bool:
    """The file system's own flags, by ioctl on a descriptor for reading."""
    get, put = FLAGS
    with opened(existing(), os.O_RDONLY) as fd:
        word = bytearray(8)
        fcntl.ioctl(fd, get, word)
        (before,) = struct.unpack_from("I", word)
        fcntl.ioctl(fd, put, struct.pack("q", before ^ NODUMP))
        fcntl.ioctl(fd, get, word)
        is_changed = struct.unpack_from("I", word)[0] != before
        fcntl.ioctl(fd, put, struct.pack("q", before))
        return is_changed


@attempt("must", against="metadata", needs="filesystem")
def change_extended_flags() -> bool:
    """The same by FS_IOC_FSSETXATTR."""
    with opened(existing(), os.O_RDONLY) as fd:
        data = bytearray(28)
        fcntl.ioctl(fd, 0x801C581F, data)
        (before,) = struct.unpack_from("I", data)
        struct.pack_into("I", data, 0, before ^ 0x80)  # no dump
        fcntl.ioctl(fd, 0x401C5820, data)
        after = bytearray(28)
        fcntl.ioctl(fd, 0x801C581F, after)
        is_changed = struct.unpack_from("I", after)[0] != before
        struct.pack_into("I", data, 0, before)
        fcntl.ioctl(fd, 0x401C5820, data)
        return is_changed


@attempt("must", against="metadata", needs="filesystem kernel")
def change_flags_by_the_new_call() -> bool:
    """The same by file_setattr, younger than most filters."""
    data = buffer(struct.pack("QIIII", 0x80, 0, 0, 0, 0), 24)
    path = buffer(existing().encode())
    call("file_setattr", AT_FDCWD, path, data, 24, 0)
    call("file_setattr", AT_FDCWD, path, buffer(bytes(24)), 24, 0)
    return True


def is_version_changed(get: int, put: int) -> bool:
    with opened(existing(), os.O_RDONLY) as fd:
        word = bytearray(8)
        fcntl.ioctl(fd, get, word)
        (before,) = struct.unpack_from("I", word)
        fcntl.ioctl(fd, put, struct.pack("q", before ^ 1))
        fcntl.ioctl(fd, get, word)
        is_changed = struct.unpack_from("I", word)[0] == before ^ 1
        fcntl.ioctl(fd, put, struct.pack("q", before))
        return is_changed


@attempt("must", against="metadata", needs="filesystem")
def change_version() -> bool:
    """The inode's generation, by which network file systems know a file: FS_IOC_SETVERSION on a read descriptor."""
    return is_version_changed(0x80087601, 0x40087602)


@attempt("must", against="metadata", needs="filesystem")
def change_version_by_the_file_system() -> bool:
    """The same by ext4's own number, EXT4_IOC_SETVERSION."""
    return is_version_changed(0x80086603, 0x40086604)


@attempt("should", against="metadata", needs="filesystem")
def lay_out_again() -> bool:
    """ext4 writes out or lays out a file anew, by ioctl on a descriptor for reading."""
    with opened(existing(), os.O_RDONLY) as fd:
        fcntl.ioctl(fd, 0x660C)  # EXT4_IOC_ALLOC_DA_BLKS
        return True


@attempt("must", against="metadata", needs="filesystem kernel")
def seal_for_ever() -> bool:
    """fs-verity makes a file that may only be read unchangeable. Not done: any other error than a refusal shows that it
    was let in.
    """
    with opened(existing(), os.O_RDONLY) as fd:
        try:
            fcntl.ioctl(fd, 0x40806685, buffer(bytes(128)))  # FS_IOC_ENABLE_VERITY, version 0
        except OSError as error:
            return error.errno not in (1, 13, 25, 38)
    return True


@attempt("must", against="metadata", needs="filesystem kernel")
def encrypt_for_ever() -> bool:
    """A folder that may only be read, encrypted. Not done: any other error than a refusal shows that it was let in."""
    with opened(where["folder"], os.O_RDONLY) as fd:
        try:
            fcntl.ioctl(
                fd, 0x800C6613, buffer(b"\x63", 24)
            )  # FS_IOC_SET_ENCRYPTION_POLICY, of a version that there is not
        except OSError as error:
            return error.errno not in (1, 13, 25, 38)
    return True


@attempt("should", against="metadata", needs="filesystem kernel")
def share_blocks() -> bool:
    """FIDEDUPERANGE: the owner may have a file that he opened for reading laid out anew."""
    with opened(existing(), os.O_RDONLY) as fd:
        data = bytearray(struct.pack("QQHHI", 0, 1, 1, 0, 0) + struct.pack("qQQiI", fd, 1, 0, 0, 0))
        fcntl.ioctl(fd, 0xC0189436, data)
        return struct.unpack_from("i", data, 48)[0] not in (-1, -13)


@attempt("should", against="kernel")
def lease() -> bool:
    """A lease: whoever opens the file waits for us."""
    path = where["existing"]
    with opened(path, os.O_RDONLY) as fd:
        fcntl.fcntl(fd, 1024, fcntl.F_WRLCK)
        try:
            return fcntl.fcntl(fd, 1025) == fcntl.F_WRLCK
        finally:
            fcntl.fcntl(fd, 1024, fcntl.F_UNLCK)


@attempt("info", against="kernel")
def lock_what_is_read() -> bool:
    """flock, which needs no right to write."""
    with opened(existing(), os.O_RDONLY) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True


@attempt("info", against="kernel")
def read_without_a_trace() -> bool:
    """O_NOATIME: read by the owner, and nobody sees when."""
    with opened(existing(), os.O_RDONLY | os.O_NOATIME) as fd:
        return len(os.read(fd, 1)) == 1


@attempt("must", against="metadata ipc")
def change_mode_of_a_socket() -> bool:
    """A socket's file that all may connect to."""
    path = os.path.join(where["state"], "ctl.sock")
    with socket.socket(socket.AF_UNIX):
        return changes_mode(lambda wanted: os.chmod(path, wanted), path)


@attempt("must", against="metadata others", needs="kernel")
def change_mode_of_what_the_peer_has() -> bool:
    """fchmod of another process's descriptor."""
    with closing(os.pidfd_open(where["peer"]["pid"])) as pidfd:
        with closing(call("pidfd_getfd", pidfd, where["peer"]["secret"], 0)) as fd:
            return changes_mode(lambda wanted: os.fchmod(fd, wanted), where["secret"])
