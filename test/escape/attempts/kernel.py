"""Parts of the kernel that a worker has no use for: namespaces, mounts, modules, devices, and calls that had many
mistakes.
"""

import ctypes
import errno
import fcntl
import os
import socket
import struct
import subprocess

from _attempt import (
    AT_FDCWD,
    IS_X86,
    address_of,
    attempt,
    buffer,
    call,
    closing,
    content,
    existing,
    in_child,
    libc,
    loaded,
    number,
    opened,
    reached,
    scratch,
    where,
)

NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, NEWTIME = (
    *(0x20000, 0x2000000, 0x4000000, 0x8000000),
    *(0x10000000, 0x20000000, 0x40000000, 0x80),
)


# Namespaces.
@attempt("must", against="kernel", needs="kernel", alone=True)
def namespace_of_users() -> bool:
    """All capabilities, in a namespace of its own."""
    call("unshare", NEWUSER)
    return b"CapEff:\t0000000000000000" not in content("/proc/self/status")


@attempt("must", against="kernel fork", needs="kernel")
def namespace_of_users_by_clone() -> bool:
    """The same by clone."""
    pid = call("clone", NEWUSER | 17, 0, 0, 0, 0)
    if pid == 0:
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


@attempt("must", against="kernel fork", needs="kernel")
def namespace_of_users_by_clone3() -> bool:
    """The same by clone3, whose flags no filter sees."""
    pid = call("clone3", buffer(struct.pack("8Q", NEWUSER, 0, 0, 0, 17, 0, 0, 0)), 64)
    if pid == 0:
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


@attempt("must", against="kernel exec fork", needs="kernel service")
def namespace_of_users_by_a_program() -> bool:
    """The program unshare."""
    return subprocess.run(["unshare", "-U", "true"], stderr=subprocess.DEVNULL, timeout=5).returncode == 0


def unshares(flag: int, kind: str) -> bool:
    """With a namespace of users around it, so that no capability is needed."""
    before = os.readlink(f"/proc/self/ns/{kind}")
    call("unshare", NEWUSER | flag)
    return os.readlink(f"/proc/self/ns/{kind}") != before


@attempt("must", against="kernel", needs="kernel", alone=True)
def namespace_of_mounts() -> bool:
    """Mounts of its own."""
    return unshares(NEWNS, "mnt")


@attempt("must", against="kernel", needs="kernel", alone=True)
def namespace_of_networks() -> bool:
    """A network of its own."""
    return unshares(NEWNET, "net")


@attempt("must", against="kernel", needs="kernel", alone=True)
def namespace_of_processes() -> bool:
    """Process numbers of its own."""
    before = os.readlink("/proc/self/ns/pid_for_children")
    call("unshare", NEWUSER | NEWPID)
    try:
        return os.readlink("/proc/self/ns/pid_for_children") != before
    except OSError:
        return True


@attempt("must", against="kernel", needs="kernel", alone=True)
def namespace_of_ipc() -> bool:
    """Queues and segments of its own."""
    return unshares(NEWIPC, "ipc")


@attempt("must", against="kernel", needs="kernel", alone=True)
def namespace_of_names() -> bool:
    """A host name of its own."""
    call("unshare", NEWUSER | NEWUTS)
    socket.sethostname("escape")
    return socket.gethostname() == "escape"


@attempt("must", against="kernel", needs="kernel", alone=True)
def namespace_of_groups() -> bool:
    """Control groups of its own."""
    return unshares(NEWCGROUP, "cgroup")


@attempt("must", against="kernel", needs="kernel", alone=True)
def namespace_of_time() -> bool:
    """Clocks of its own."""
    call("unshare", NEWUSER | NEWTIME)
    return os.readlink("/proc/self/ns/time_for_children") != os.readlink("/proc/self/ns/time")


@attempt("must", against="privileges kernel", needs="root", alone=True)
def namespace_without_users() -> bool:
    """Mounts of its own, as user 0 may have them."""
    before = os.readlink("/proc/self/ns/mnt")
    call("unshare", NEWNS)
    return os.readlink("/proc/self/ns/mnt") != before


@attempt("must", against="kernel", needs="kernel", alone=True)
def user_zero_inside() -> bool:
    """User 0, in a namespace of its own."""
    uid = os.getuid()
    call("unshare", NEWUSER)
    with opened("/proc/self/uid_map", os.O_WRONLY) as fd:
        os.write(fd, f"0 {uid} 1".encode())
    os.setresuid(0, 0, 0)
    return os.getuid() == 0


# Mounts.
def enter(flags: int) -> None:
    """A namespace of users, with our user in it where that can be written down, and what else is wanted."""
    uid, gid = os.getuid(), os.getgid()
    call("unshare", NEWUSER | flags)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        try:
            with opened(f"/proc/self/{name}", os.O_WRONLY) as fd:
                os.write(fd, text.encode())
        except OSError:
            continue


@attempt("must", against="kernel", needs="kernel", alone=True)
def mount_in_a_namespace() -> bool:
    """A file system of its own."""
    enter(NEWNS)
    place = scratch("mount")
    os.mkdir(place)
    call("mount", buffer(b"none"), buffer(place.encode()), buffer(b"tmpfs"), 0, None)
    return os.stat(place).st_dev != os.stat(where["scratch"]).st_dev


@attempt("must", against="privileges kernel", needs="root", alone=True)
def mount() -> bool:
    """A file system over a folder, where all see it: in a namespace of ours, to leave nothing behind."""
    call("unshare", NEWNS)
    call("mount", buffer(b"none"), buffer(b"/"), None, 0x44000, None)
    call("mount", buffer(b"none"), buffer(where["folder"].encode()), buffer(b"tmpfs"), 0, None)
    return not os.path.exists(existing())


@attempt("must", against="kernel", needs="kernel", alone=True)
def mount_in_layers() -> bool:
    """overlayfs: a folder that may only be read, with what we write above it."""
    loaded("filesystems", "overlay")
    enter(NEWNS)
    base = scratch("layers")
    for name in ("", "upper", "work", "all"):
        os.mkdir(os.path.join(base, name))
    options = f"lowerdir={where['folder']},upperdir={base}/upper,workdir={base}/work,userxattr"
    call("mount", buffer(b"none"), buffer(f"{base}/all".encode()), buffer(b"overlay"), 0, buffer(options.encode()))
    os.chmod(f"{base}/work/work", 0o700)  # of the kernel's making, and shut to whoever clears away after us
    return os.path.exists(f"{base}/all/existing")


@attempt("must", against="kernel", needs="kernel", alone=True)
def mount_of_proc() -> bool:
    """Another /proc."""
    enter(NEWNS | NEWPID)
    place = scratch("proc")
    os.mkdir(place)

    def act() -> bool:
        call("mount", buffer(b"none"), buffer(place.encode()), buffer(b"proc"), 0, None)
        return os.path.exists(os.path.join(place, "1"))

    return in_child(act)


@attempt("must", against="kernel", needs="kernel", alone=True)
def mount_the_new_way() -> bool:
    """fsopen, fsconfig, fsmount: calls that filters of mount forget."""
    enter(NEWNS)
    with closing(call("fsopen", buffer(b"tmpfs"), 0)) as context:
        call("fsconfig", context, 6, None, None, 0)
        with closing(call("fsmount", context, 0, 0)) as fd:
            os.mkdir("made", dir_fd=fd)
            return os.stat("made", dir_fd=fd).st_dev != os.stat("/").st_dev


@attempt("must", against="kernel", needs="kernel", alone=True)
def mount_moved() -> bool:
    """A file system of ours, put in place by move_mount."""
    enter(NEWNS)
    place = scratch("mount")
    os.mkdir(place)
    with closing(call("fsopen", buffer(b"tmpfs"), 0)) as context:
        call("fsconfig", context, 6, None, None, 0)
        with closing(call("fsmount", context, 0, 0)) as fd:
            call("move_mount", fd, buffer(b""), AT_FDCWD, buffer(place.encode()), 4)
            return os.stat(place).st_dev != os.stat(where["scratch"]).st_dev


@attempt("must", against="kernel", needs="kernel", alone=True)
def mount_changed() -> bool:
    """mount_setattr."""
    enter(NEWNS)
    call("mount_setattr", AT_FDCWD, buffer(b"/"), 0x8000, buffer(struct.pack("QQQQ", 8, 0, 0, 0)), 32)
    return bool(os.statvfs("/").f_flag & os.ST_NOEXEC)


@attempt("must", against="kernel", needs="kernel", alone=True)
def mount_taken_away() -> bool:
    """umount: what lies below a mount."""
    enter(NEWNS)
    place = scratch("mount")
    os.mkdir(place)
    call("mount", buffer(b"none"), buffer(place.encode()), buffer(b"tmpfs"), 0, None)
    return call("umount2", buffer(place.encode()), 2) == 0


@attempt("must", against="kernel", needs="kernel", alone=True)
def root_changed() -> bool:
    """pivot_root."""
    enter(NEWNS)
    place = scratch("root")
    os.mkdir(place)
    call("mount", buffer(b"none"), buffer(place.encode()), buffer(b"tmpfs"), 0, None)
    os.mkdir(place + "/old")
    call("pivot_root", buffer(place.encode()), buffer((place + "/old").encode()))
    os.chdir("/")
    return os.listdir("/") == ["old"]


@attempt("must", against="privileges kernel", needs="root", alone=True)
def root_changed_for_us() -> bool:
    """chroot."""
    os.chroot(where["scratch"])
    return not os.path.exists("/usr/bin")


@attempt("must", against="privileges kernel", needs="root", alone=True)
def tree_of_mounts() -> bool:
    """open_tree: a copy of the whole tree."""
    with closing(call("open_tree", AT_FDCWD, buffer(b"/"), 0x8001)) as fd:
        return os.stat("usr", dir_fd=fd).st_ino > 0


@attempt("should", against="kernel", needs="kernel")
def mounts_listed() -> bool:
    """listmount."""
    request = buffer(struct.pack("IIQQ", 24, 0, 0xFFFFFFFFFFFFFFFF, 0), 24)
    return call("listmount", request, buffer(bytes(800)), 100, 0) > 0


# What takes a capability: calls made wrong on purpose, or such as change nothing.
@attempt("must", against="privileges kernel", needs="root")
def name_changed() -> bool:
    """sethostname, to a name that is too long."""
    return reached("sethostname", buffer(b"x" * 65), 65)


@attempt("must", against="privileges kernel", needs="root")
def domain_changed() -> bool:
    """setdomainname, to a name that is too long."""
    return reached("setdomainname", buffer(b"x" * 65), 65)


@attempt("must", against="privileges kernel", needs="root")
def clock_changed() -> bool:
    """adjtimex, to a tick without a length."""
    data = buffer(bytes(208))
    struct.pack_into("I", data, 0, 0x4000)  # ADJ_TICK
    return reached("adjtimex", data)


@attempt("must", against="privileges kernel", needs="root")
def restart() -> bool:
    """reboot, with wrong magic numbers."""
    return reached("reboot", 0, 0, 0, None)


@attempt("must", against="privileges kernel", needs="root")
def swap() -> bool:
    """swapon, of nothing."""
    return reached("swapon", buffer(b"/not/there"), 0)


@attempt("must", against="privileges kernel", needs="root")
def accounting() -> bool:
    """acct, of nothing."""
    return reached("acct", buffer(b"/not/there"))


@attempt("must", against="privileges kernel", needs="root kernel")
def module() -> bool:
    """init_module, of nothing."""
    return reached("init_module", buffer(b"x"), 1, buffer(b""))


@attempt("must", against="privileges kernel", needs="root kernel")
def module_from_a_file() -> bool:
    """finit_module, with a flag that there is not."""
    with opened(existing(), os.O_RDONLY) as fd:
        return reached("finit_module", fd, buffer(b""), 0x4000)


@attempt("must", against="privileges kernel", needs="root kernel")
def another_kernel() -> bool:
    """kexec_load, of nothing."""
    return reached("kexec_load", 0, 99, 0, 0)


@attempt("must", against="privileges kernel", needs="root kernel")
def quota() -> bool:
    """quotactl: how long one may be above a quota, with fields that there are not."""
    with open("/proc/self/mountinfo") as file:
        line = next(line.split() for line in file if line.split()[4] == "/")
    return reached("quotactl", 0x800006 << 8, buffer(line[line.index("-") + 2].encode()), 0, buffer(b"\xff" * 64))


@attempt("must", against="privileges kernel", needs="root")
def log() -> bool:
    """syslog: the kernel's messages."""
    return call("syslog", 3, buffer(bytes(4096)), 4096) >= 0


@attempt("must", against="privileges kernel", needs="root x86-64 kernel", alone=True)
def ports() -> bool:
    """iopl and ioperm: the machine's ports."""
    return IS_X86 and call("ioperm", 0x80, 1, 1) == 0


@attempt("must", against="privileges kernel", needs="root")
def program_of_the_kernel() -> bool:
    """bpf: a program that runs in the kernel."""
    code = struct.pack("<BBhi", 0xB7, 0, 0, 0) + struct.pack("<BBhi", 0x95, 0, 0, 0)
    text, name = buffer(code), buffer(b"GPL")
    attributes = buffer(struct.pack("IIQQ", 1, 2, address_of(text), address_of(name)), 120)
    with closing(call("bpf", 5, attributes, 120)):
        return True


@attempt("must", against="privileges kernel", needs="root")
def table_of_the_kernel() -> bool:
    """bpf: a table in the kernel's memory."""
    with closing(call("bpf", 0, buffer(struct.pack("IIIII", 2, 4, 4, 1, 0), 72), 72)):
        return True


@attempt("must", against="privileges", needs="root", alone=True)
def capability_won_back() -> bool:
    """capset: all that are there."""
    head = buffer(struct.pack("Ii", 0x20080522, 0))
    call("capset", head, buffer(struct.pack("6I", *[0x1FF] * 2, 0, 0, 0, 0)))
    return b"CapEff:\t00000000000001ff" in content("/proc/self/status")


# Devices.
def opens(path: str, flags: int = os.O_RDWR) -> bool:
    with opened(path, flags | os.O_NONBLOCK | os.O_NOCTTY):
        return True


@attempt("must", against="writing kernel", needs="root kernel")
def virtual_machines() -> bool:
    """/dev/kvm, and its version."""
    loaded("drivers", "kvm")
    with opened("/dev/kvm", os.O_RDWR) as fd:
        return fcntl.ioctl(fd, 0xAE00) == 12


@attempt("must", against="kernel", needs="root kernel")
def virtual_machines_while_reading() -> bool:
    """The same opened for reading only: a device is driven by ioctl, and that asks for no right to write."""
    loaded("drivers", "kvm")
    with opened("/dev/kvm", os.O_RDONLY) as fd, closing(fcntl.ioctl(fd, 0xAE01, 0)):
        return True


@attempt("must", against="writing kernel", needs="root kernel")
def file_systems_of_ours() -> bool:
    """/dev/fuse."""
    loaded("drivers", "fuse")
    return opens("/dev/fuse")


@attempt("must", against="kernel", needs="root kernel")
def host_of_the_machine() -> bool:
    """/dev/vsock: the number of this virtual machine."""
    loaded("drivers", "vsock")
    with opened("/dev/vsock", os.O_RDONLY) as fd:
        fcntl.ioctl(fd, 0x7B9, bytearray(4))
        return True


@attempt("must", against="kernel", needs="root kernel")
def loop_devices_while_reading() -> bool:
    """/dev/loop-control: a device is taken away that cannot be there."""
    loaded("drivers", "loop-control")
    with opened("/dev/loop-control", os.O_RDONLY) as fd:
        try:
            fcntl.ioctl(fd, 0x4C81, 0x7FFFFFFF)
        except OSError as error:
            return error.errno == errno.ENODEV
    return True


@attempt("must", against="privileges", needs="root kernel")
def memory_of_the_hardware() -> bool:
    """/dev/mem."""
    return opens("/dev/mem", os.O_RDONLY)


@attempt("must", against="privileges", needs="root kernel")
def ports_as_a_file() -> bool:
    """/dev/port."""
    return opens("/dev/port", os.O_RDONLY)


@attempt("must", against="reading kernel", needs="root kernel")
def screens() -> bool:
    """The text on the console."""
    return opens("/dev/vcs1", os.O_RDONLY)


@attempt("must", against="writing kernel", needs="root kernel")
def consoles() -> bool:
    """The console, written to."""
    return opens("/dev/tty0", os.O_WRONLY)


@attempt("must", against="kernel", needs="root kernel")
def faults_by_a_device() -> bool:
    """/dev/userfaultfd, opened for reading: the call's twin."""
    with opened("/dev/userfaultfd", os.O_RDONLY) as fd, closing(fcntl.ioctl(fd, 0xAA00, 0)):
        return True


# Calls with a past.
@attempt("must", against="kernel", needs="kernel")
def faults() -> bool:
    """userfaultfd: the kernel waits for us in the midst of a copy."""
    with closing(call("userfaultfd", 1)):
        return True


@attempt("must", against="kernel", needs="kernel")
def counters() -> bool:
    """perf_event_open of ourselves."""
    attributes = buffer(struct.pack("IIQ", 1, 112, 1) + bytes(24) + struct.pack("Q", 0x60) + bytes(56), 112)
    with closing(call("perf_event_open", attributes, 0, -1, -1, 0)):
        return True


@attempt("must", against="kernel network", needs="kernel")
def rings_of_calls() -> bool:
    """io_uring: system calls that no filter sees."""
    with closing(call("io_uring_setup", 1, buffer(bytes(120)))):
        return True


@attempt("should", against="kernel", needs="x86-64 kernel")
def segments_of_the_processor() -> bool:
    """modify_ldt."""
    return IS_X86 and call("modify_ldt", 0, buffer(bytes(64)), 64) >= 0


@attempt("should", against="kernel fork")
def tracing_of_a_child() -> bool:
    """ptrace of a child of ours."""
    pid = os.fork()
    if pid == 0:
        libc.ptrace(0, 0, None, None)
        os.kill(os.getpid(), 19)
        os._exit(0)
    _, status = os.waitpid(pid, 0x2)
    if not os.WIFSTOPPED(status):
        return False
    call("ptrace", 7, pid, 0, 0)
    os.waitpid(pid, 0)
    return True


@attempt("should", against="kernel", alone=True)
def older_behaviour() -> bool:
    """personality: programs that we start lie at fixed addresses."""
    call("personality", 0x0440000)
    return call("personality", 0xFFFFFFFF) & 0x0440000 == 0x0440000


@attempt("should", against="kernel", needs="kernel")
def keys_of_memory() -> bool:
    """pkey_alloc."""
    key = call("pkey_alloc", 0, 0)
    return libc.pkey_free(key) == 0


@attempt("should", against="kernel", needs="kernel")
def secret_memory() -> bool:
    """memfd_secret: memory that nobody can look into."""
    with closing(call("memfd_secret", 0)):
        return True


@attempt("info", against="kernel", alone=True)
def filter_of_ours() -> bool:
    """seccomp: a filter of ours, with a listener, in the supervisor's place."""
    libc.prctl(38, 1, 0, 0, 0)
    code = buffer(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000))
    return call("seccomp", 1, 8, buffer(struct.pack("HxxxxxxQ", 1, address_of(code)))) >= 0


@attempt("info", against="kernel", needs="kernel")
def rules_of_ours() -> bool:
    """Landlock: a ruleset of ours."""
    with closing(call("landlock_create_ruleset", buffer(struct.pack("Q", 1)), 8, 0)):
        return True


@attempt("should", against="kernel", alone=True)
def memory_laid_out_anew() -> bool:
    """prctl PR_SET_MM: another program than it is, for /proc."""
    return libc.prctl(35, 14, 0, 0, 0) == 0 or ctypes.get_errno() not in (1, 13, 38)


@attempt("should", against="kernel", alone=True)
def name_of_ours() -> bool:
    """prctl: the name of another program."""
    libc.prctl(15, b"ipcctl-shim", 0, 0, 0)
    return content("/proc/self/comm") == b"ipcctl-shim\n"


@attempt("should", against="kernel", needs="kernel")
def calls_in_the_background() -> bool:
    """io_setup: the older way to have the kernel work for us."""
    context = ctypes.c_ulong()
    call("io_setup", 1, ctypes.byref(context))
    return libc.syscall(ctypes.c_long(207 if IS_X86 else 1), context) == 0


@attempt("must", against="kernel", needs="kernel")
def helper_started() -> bool:
    """request_key with something to say: the kernel starts a program as user 0 to find the key. Here there is too much
    to say.
    """
    return reached("request_key", buffer(b"user"), buffer(b"ipcctl-escape-none"), buffer(b"x" * 70000), -2)


@attempt("info", against="kernel")
def calls_unknown() -> bool:
    """A number that no kernel has yet answers as by the kernel itself."""
    try:
        call(number("openat2") + 400)
    except OSError as error:
        return error.errno == 38
    return True
