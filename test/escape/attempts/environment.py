"""Ways to what the caller's environment holds, and to what is known of who started the worker."""

import ctypes
import os
import struct
import subprocess
import sys

from _attempt import attempt, buffer, call, content, libc, opened, vector, where

# In two parts: no copy of the name in this process's memory may pass for the caller's.
NAME = "ESCAPE_SECRET_" + "TOKEN"


def is_in(environment: bytes) -> bool:
    return any(one.startswith(NAME.encode() + b"=") and len(one) > len(NAME) + 1 for one in environment.split(b"\0"))


def parents() -> list[int]:
    found, pid = [], os.getppid()
    while pid > 0 and len(found) < 8:
        found.append(pid)
        try:
            pid = int(content(f"/proc/{pid}/stat").rsplit(b")", 1)[1].split()[1])
        except OSError:
            break
    return found


@attempt("must", against="env")
def variable() -> bool:
    """The variable."""
    return bool(os.environ.get(NAME))


@attempt("must", against="env")
def variable_of_the_c_library() -> bool:
    """getenv: Python's dictionary may have been cleaned, and this not."""
    libc.getenv.restype = ctypes.c_char_p
    return bool(libc.getenv(NAME.encode()))


@attempt("must", against="env")
def variables_as_started() -> bool:
    """What /proc keeps of the start, cleaned or not."""
    return is_in(content("/proc/self/environ"))


@attempt("must", against="env")
def variables_on_the_stack() -> bool:
    """The same where it lies in memory."""
    start, end = (int(one) for one in content("/proc/self/stat").rsplit(b")", 1)[1].split()[47:49])
    return start > 0 and is_in(ctypes.string_at(start, end - start))


@attempt("must", against="env")
def variables_in_own_memory() -> bool:
    """The same by /proc/self/mem."""
    start, end = (int(one) for one in content("/proc/self/stat").rsplit(b")", 1)[1].split()[47:49])
    with opened("/proc/self/mem", os.O_RDONLY) as fd:
        return is_in(os.pread(fd, end - start, start))


@attempt("must", against="env exec fork")
def variable_of_a_program() -> bool:
    """What a program inherits that we start."""
    code = f"import os; print(bool(os.environ.get({NAME!r})))"
    return subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, timeout=5).stdout == b"True\n"


@attempt("must", against="others env")
def variables_of_the_parents() -> bool:
    """The environment of who started us, and of who started that."""
    for pid in parents():
        try:
            if is_in(content(f"/proc/{pid}/environ")):
                return True
        except OSError:
            continue
    return False


@attempt("must", against="others env")
def variables_of_the_peer() -> bool:
    """The environment of another process of the same user."""
    return where["peer"]["mark"].encode() in content(f"/proc/{where['peer']['pid']}/environ")


@attempt("must", against="others env privileges", needs="root kernel")
def variables_of_the_first() -> bool:
    """The environment of process 1."""
    return b"=" in content("/proc/1/environ")


@attempt("should", against="env")
def secrets_by_their_names() -> bool:
    """Any variable whose name says that it is one."""
    return any(word in name.upper() for name in os.environ for word in ("SECRET", "TOKEN", "PASSWORD", "API_KEY"))


@attempt("should", against="env")
def ways_to_services() -> bool:
    """Variables that lead to agents and services of the user."""
    names = ("SSH_AUTH_SOCK", "DBUS_SESSION_BUS_ADDRESS", "DOCKER_HOST", "GPG_AGENT_INFO", "KUBECONFIG")
    return any(name in os.environ for name in names)


@attempt("should", against="reading")
def command_lines_of_the_parents() -> bool:
    """With what arguments we were started."""
    return any(content(f"/proc/{pid}/cmdline") for pid in parents()[:1])


@attempt("info", against="env")
def home_of_the_user() -> bool:
    """Where the user's home is."""
    return "HOME" in os.environ


@attempt("info", against="env")
def search_path() -> bool:
    """The caller's search path, with what is in it."""
    return len(os.environ.get("PATH", "").split(":")) > 1


@attempt("info", against="kernel")
def name_of_the_machine() -> bool:
    """The machine's name."""
    return os.uname().nodename not in ("", "localhost", "sandbox", "(none)")


@attempt("must", against="others env")
def variables_of_the_supervisor() -> bool:
    """The environment of the supervisor's process."""
    return where["peer"]["mark"].encode() in content(f"/proc/{where['daemon_pid']}/environ")


@attempt("must", against="others env", needs="kernel")
def variables_in_the_memory_of_the_parent() -> bool:
    """The environment of who started us, as it lies in its memory."""

    pid = os.getppid()
    start, end = (int(one) for one in content(f"/proc/{pid}/stat").rsplit(b")", 1)[1].split()[47:49])
    data = buffer(bytes(end - start))
    mine, other = vector((ctypes.addressof(data), len(data))), buffer(struct.pack("QQ", start, end - start))
    call("process_vm_readv", pid, mine, 1, other, 1, 0)
    return is_in(data.raw)
