"""Ways to others by what the kernel keeps under a name: shared memory, queues, semaphores, keys."""

import ctypes
import mmap
import os
import struct

import _posixshmem

from _attempt import (
    attempt,
    buffer,
    call,
    closing,
    content,
    evidence,
    fresh,
    gone_after,
    libc,
    nonce,
    opened,
    reached,
    where,
)

USER_KEYRING, SESSION_KEYRING, PROCESS_KEYRING = -4, -3, -2
CREATE = 0o1000


def ring() -> str:
    return "/dev/shm/" + where["shm"]


@attempt("must", against="reading ipc", needs="shm")
def rings_listed() -> bool:
    """The names of shared memory."""
    return where["shm"] in os.listdir("/dev/shm")


@attempt("must", against="reading ipc", needs="shm")
def ring_read() -> bool:
    """The ring of another worker."""
    return content(ring())[:4] == b"RING"


@attempt("must", against="writing ipc", needs="shm")
def ring_written() -> bool:
    """The same, written to."""
    text = nonce().encode()
    with opened(ring(), os.O_RDWR) as fd:
        os.pwrite(fd, text, 64)
    return text in content(ring())


@attempt("must", against="writing ipc", needs="shm")
def ring_mapped() -> bool:
    """The same as memory."""
    with opened(ring(), os.O_RDWR) as fd, mmap.mmap(fd, 4096) as memory:
        memory[128:132] = b"evil"
        return content(ring())[128:132] == b"evil"


@attempt("must", against="writing ipc", needs="shm")
def ring_shortened() -> bool:
    """The same, shorter than its user believes: SIGBUS."""
    os.truncate(ring(), 0)
    is_short = os.stat(ring()).st_size == 0
    os.truncate(ring(), 4096)
    with opened(ring(), os.O_RDWR) as fd:
        os.pwrite(fd, b"RING", 0)
    return is_short


@attempt("must", against="writing ipc", needs="shm")
def ring_taken_away() -> bool:
    """Its name taken away, and one of ours in its place."""
    os.rename(ring(), ring() + "-away")
    is_gone = not os.path.exists(ring())
    os.rename(ring() + "-away", ring())
    return is_gone


@attempt("must", against="reading ipc", needs="shm")
def ring_by_the_c_library() -> bool:
    """shm_open."""
    with closing(_posixshmem.shm_open("/" + where["shm"], os.O_RDONLY, 0o600)) as fd:
        return os.read(fd, 4) == b"RING"


@attempt("must", against="writing ipc", needs="shm")
def ring_by_the_c_library_mapped() -> bool:
    """shm_open and mmap, as multiprocessing does."""
    with closing(_posixshmem.shm_open("/" + where["shm"], os.O_RDWR, 0o600)) as fd, mmap.mmap(fd, 0) as memory:
        return memory[:4] == b"RING"


@attempt("should", against="writing ipc", needs="shm")
def memory_with_a_name() -> bool:
    """Shared memory of ours, with a name that others may want."""
    path = fresh("/dev/shm", "ipcctl-escape")
    with gone_after(path), opened(path, os.O_CREAT | os.O_RDWR, 0o600) as fd:
        return os.write(fd, b"x") == 1


@attempt("should", against="writing ipc", needs="shm")
def memory_with_a_name_by_the_c_library() -> bool:
    """The same by shm_open."""
    name = f"/ipcctl-escape-{os.getpid()}"
    with closing(_posixshmem.shm_open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)) as fd:
        _posixshmem.shm_unlink(name)
        os.ftruncate(fd, 64)
        return True


@attempt("should", against="writing ipc", needs="shm")
def semaphore_with_a_name() -> bool:
    """A POSIX semaphore, which is a file in /dev/shm."""
    libc.sem_open.restype = ctypes.c_void_p
    name = f"/ipcctl-escape-{os.getpid()}".encode()
    found = libc.sem_open(name, os.O_CREAT, 0o600, 1)
    if not found:
        return False
    libc.sem_close(ctypes.c_void_p(found))
    return libc.sem_unlink(name) == 0


def attached(flags: int) -> tuple[int, int]:
    segment = call("shmget", where["sysv_key"], 4096, 0o600)
    libc.shmat.restype = ctypes.c_void_p
    place = libc.shmat(segment, None, flags)
    if place in (None, 2**64 - 1):
        raise OSError(ctypes.get_errno(), "shmat")
    return segment, place


@attempt("must", against="ipc")
def segment_read() -> bool:
    """System V shared memory of another process."""
    _, place = attached(0o10000)
    found = ctypes.string_at(place, 4) == b"RING"
    libc.shmdt(ctypes.c_void_p(place))
    return found


@attempt("must", against="ipc")
def segment_written() -> bool:
    """The same, written to."""
    _, place = attached(0)
    ctypes.memmove(place + 4, b"evil", 4)
    found = ctypes.string_at(place, 8) == b"RINGevil"
    ctypes.memmove(place + 4, bytes(4), 4)
    libc.shmdt(ctypes.c_void_p(place))
    return found


@attempt("must", against="ipc")
def segments_listed() -> bool:
    """Every segment of the machine."""
    return str(where["sysv_key"]) in content("/proc/sysvipc/shm").decode()


@attempt("must", against="ipc")
def segment_opened_to_all() -> bool:
    """Its mode changed."""
    segment = call("shmget", where["sysv_key"], 0, 0)
    data = buffer(bytes(112))
    call("shmctl", segment, 2, data)  # IPC_STAT
    struct.pack_into("I", data, 20, 0o606)
    call("shmctl", segment, 1, data)  # IPC_SET
    call("shmctl", segment, 2, data)
    is_open = struct.unpack_from("I", data, 20)[0] & 0o777 == 0o606
    struct.pack_into("I", data, 20, 0o600)
    call("shmctl", segment, 1, data)
    return is_open


@attempt("must", against="ipc")
def segment_of_ours() -> bool:
    """System V shared memory that outlives us."""
    segment = call("shmget", 0, 4096, CREATE | 0o600)
    return call("shmctl", segment, 0, None) == 0


@attempt("must", against="ipc")
def semaphores_of_ours() -> bool:
    """System V semaphores."""
    found = call("semget", 0, 1, CREATE | 0o600)
    return call("semctl", found, 0, 0, 0) == 0


@attempt("must", against="ipc")
def queue_of_ours() -> bool:
    """A System V queue, and a message in it."""
    found = call("msgget", 0, CREATE | 0o600)
    try:
        call("msgsnd", found, buffer(struct.pack("q", 1) + b"x" * 8), 8, 0)
        data = buffer(bytes(16))
        return call("msgrcv", found, data, 8, 0, 0o4000) == 8
    finally:
        call("msgctl", found, 0, None)


def queued(flags: int, name: str | None = None) -> int:
    attributes = buffer(struct.pack("8l", 0, 4, 64, 0, 0, 0, 0, 0))
    return call("mq_open", buffer((name or where["mqueue"]).encode()), flags | os.O_NONBLOCK, 0o600, attributes)


@attempt("must", against="ipc", needs="kernel")
def queue_read() -> bool:
    """A POSIX queue of another process: a message taken out of it."""
    with closing(queued(os.O_RDWR)) as fd:
        call("mq_timedsend", fd, buffer(b"message"), 7, 0, None)
        data = buffer(bytes(64))
        return call("mq_timedreceive", fd, data, 64, None, None) == 7 and data.raw[:7] == b"message"


@attempt("must", against="ipc", needs="kernel")
def queue_watched() -> bool:
    """A signal for every message to another process: only one may have that."""
    with closing(queued(os.O_RDONLY)) as fd:
        call("mq_notify", fd, buffer(struct.pack("qii", 0, 0, 1), 64))  # SIGEV_NONE
        call("mq_notify", fd, None)
        return True


@attempt("must", against="ipc", needs="kernel")
def queue_made() -> bool:
    """A POSIX queue that outlives us."""
    name = f"ipcctl-escape-{os.getpid()}"
    os.close(queued(os.O_CREAT | os.O_RDWR, name))
    return call("mq_unlink", buffer(name.encode())) == 0


@attempt("must", against="ipc", needs="kernel")
def queue_taken_away() -> bool:
    """A POSIX queue of another process taken away, and one of ours in its place."""
    call("mq_unlink", buffer(where["mqueue"].encode()))
    os.close(queued(os.O_CREAT | os.O_RDWR))
    return True


@attempt("must", against="ipc", needs="kernel")
def key_read() -> bool:
    """A key that another process left in the user's keyring."""
    key = call("keyctl", 10, USER_KEYRING, buffer(b"user"), buffer(where["key"].encode()), 0)
    call("keyctl", 8, key, PROCESS_KEYRING)  # possessed, it may be read
    data = buffer(bytes(100))
    call("keyctl", 11, key, data, 100)
    call("keyctl", 9, key, PROCESS_KEYRING)
    return where["peer"]["mark"].encode() in data.raw


@attempt("must", against="ipc", needs="kernel")
def key_found() -> bool:
    """The same by request_key."""
    return call("request_key", buffer(b"user"), buffer(where["key"].encode()), None, 0) > 0


@attempt("should", against="ipc", needs="kernel")
def keys_listed() -> bool:
    """Every key that the user may see."""
    return where["key"].encode() in content("/proc/keys")


@attempt("must", against="ipc", needs="kernel")
def key_of_ours() -> bool:
    """Something left in the kernel that outlives us."""
    key = call(
        "add_key", buffer(b"user"), buffer(f"ipcctl-escape-{os.getpid()}".encode()), buffer(b"data"), 4, USER_KEYRING
    )
    return call("keyctl", 9, key, USER_KEYRING) == 0


@attempt("must", against="ipc", needs="kernel")
def key_changed() -> bool:
    """The key of another process, with another value of the same."""
    key = call("keyctl", 10, USER_KEYRING, buffer(b"user"), buffer(where["key"].encode()), 0)
    call("keyctl", 8, key, PROCESS_KEYRING)
    mark = where["peer"]["mark"].encode()
    call("keyctl", 2, key, buffer(mark), len(mark))
    call("keyctl", 9, key, PROCESS_KEYRING)
    return True


@attempt("should", against="ipc", needs="kernel")
def keyring_for_days() -> bool:
    """The user's persistent keyring, to be put nowhere: else it would be there for days."""
    return reached("keyctl", 22, -1, 0, denied=(1, 13, 38, 95))


@attempt("must", against="others ipc", needs="kernel")
def ring_of_the_peer_shortened() -> bool:
    """The memory that the peer shares: shorter than its user believes."""
    with closing(os.pidfd_open(where["peer"]["pid"])) as pidfd:
        with closing(call("pidfd_getfd", pidfd, where["peer"]["memfd"], 0)) as fd:
            os.ftruncate(fd, 0)
            is_short = os.fstat(fd).st_size == 0
            os.ftruncate(fd, 4096)
            os.pwrite(fd, b"RING", 0)
            return is_short


@attempt("must", against="others ipc")
def ring_of_the_peer_by_proc() -> bool:
    """The same by /proc, to read."""
    path = f"/proc/{where['peer']['pid']}/fd/{where['peer']['memfd']}"
    return content(path)[:4] == b"RING"


@attempt("info", against="ipc")
def memory_without_a_name() -> bool:
    """memfd_create: memory that can be handed on."""
    with closing(os.memfd_create("x")) as fd:
        return os.write(fd, b"x") == 1


@attempt("should", against="reading")
def evidence_read() -> bool:
    """What another process writes down."""
    return evidence() is not None
