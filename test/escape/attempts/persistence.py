"""Ways to be run again, later and by somebody who is not confined."""

import errno
import glob
import os
import subprocess
import sys
import sysconfig

from _attempt import attempt, content, fresh, gone_after, in_child, nonce, opened, scratch, where


def planted(*path: str, above: bool = True) -> bool:
    """A new file that somebody will run or believe. Where the user's own folders are not there, one of the same name in
    a /tmp of ours is none.
    """
    full = os.path.join(*path)
    folder = os.path.dirname(full)
    made = []
    while above and not os.path.isdir(folder):
        if folder in (where["home"], where["folder"]):
            raise FileNotFoundError(errno.ENOENT, "not there", folder)
        made.append(folder)
        folder = os.path.dirname(folder)
    for one in reversed(made):
        os.mkdir(one)
    text = nonce()
    was_there = os.path.exists(full)
    try:
        with open(full, "a") as file:
            file.write(f"# {text}\n")
        return text.encode() in content(full)
    finally:
        with gone_after(*([] if was_there else [full]), *made):
            pass


def could_be_planted(folder: str) -> bool:
    """A file that somebody will run, but for its name: what looks into the folder meanwhile finds nothing."""
    with opened(folder, os.O_TMPFILE | os.O_WRONLY, 0o600) as fd:
        return os.write(fd, b"x") == 1


@attempt("must", against="writing")
def shell_start() -> bool:
    """The shell's start file."""
    return planted(where["home"], ".bashrc")


@attempt("must", against="writing")
def login_start() -> bool:
    """The login's start file, which is not there yet."""
    return planted(where["home"], ".profile")


@attempt("must", against="writing")
def shell_start_by_a_link() -> bool:
    """The shell's start file, through a link of ours."""
    link = scratch("rc")
    os.symlink(os.path.join(where["home"], ".bashrc"), link)
    with gone_after(link):
        return planted(link)


@attempt("must", against="writing fork")
def shell_start_by_a_child() -> bool:
    """The same by a child."""
    return in_child(lambda: planted(where["home"], ".bashrc"))


@attempt("must", against="writing exec fork")
def shell_start_by_a_program() -> bool:
    """The same by a program."""
    text, path = nonce(), os.path.join(where["home"], ".bashrc")
    subprocess.run(["sh", "-c", f'echo "# {text}" >> "$0"', path], stderr=subprocess.DEVNULL, timeout=5)
    return text.encode() in content(path)


@attempt("must", against="writing")
def login_key() -> bool:
    """A key that may log in."""
    return planted(where["home"], ".ssh", "authorized_keys")


@attempt("must", against="writing")
def service_of_the_user() -> bool:
    """A unit that systemd starts for the user."""
    return planted(where["home"], ".config", "systemd", "user", "escape.service")


@attempt("must", against="writing")
def start_of_the_desktop() -> bool:
    """A program that the desktop starts."""
    return planted(where["home"], ".config", "autostart", "escape.desktop")


@attempt("must", against="writing")
def settings_of_git() -> bool:
    """An alias or a pager in git's settings."""
    return planted(where["home"], ".gitconfig")


@attempt("must", against="writing")
def hook_of_git() -> bool:
    """A hook that git runs at the next commit."""
    return planted(where["folder"], "repository", ".git", "hooks", "post-commit")


@attempt("must", against="writing")
def index_of_packages() -> bool:
    """Another place for pip to install from."""
    return planted(where["home"], ".config", "pip", "pip.conf")


@attempt("must", against="writing")
def program_of_the_user() -> bool:
    """A program by the name of another, earlier in the search path."""
    return planted(where["home"], ".local", "bin", "python3")


@attempt("must", against="writing")
def line_of_a_package_folder() -> bool:
    """A .pth file: Python runs its lines at every start."""
    return planted(where["folder"], "site-packages", "escape.pth")


@attempt("must", against="writing")
def customization_of_python() -> bool:
    """sitecustomize, which Python imports at every start."""
    return planted(where["folder"], "site-packages", "sitecustomize.py")


@attempt("must", against="writing")
def customization_of_the_user() -> bool:
    """usercustomize, in the user's packages."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return planted(where["home"], ".local", "lib", version, "site-packages", "usercustomize.py")


@attempt("must", against="writing")
def module_changed() -> bool:
    """A module that others import."""
    return planted(where["folder"], "site-packages", "module.py")


@attempt("must", against="writing")
def bytecode_changed() -> bool:
    """Its compiled form, which nobody reads."""
    path = glob.glob(os.path.join(where["folder"], "site-packages", "__pycache__", "module*.pyc"))[0]
    text = nonce().encode()
    with opened(path, os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, text)
    return text in content(path)


@attempt("must", against="writing")
def module_renamed() -> bool:
    """A folder of packages of ours in place of the real one."""
    path = os.path.join(where["folder"], "site-packages")
    os.rename(path, path + ".old")
    try:
        os.mkdir(path)
        os.rmdir(path)
        return True
    finally:
        os.rename(path + ".old", path)


@attempt("must", against="writing", needs="root")
def standard_library() -> bool:
    """A module in Python's own library."""
    return could_be_planted(sysconfig.get_path("stdlib"))


@attempt("must", against="writing", needs="root")
def script_of_this_run() -> bool:
    """The script that is running, for its next start."""
    path = os.path.abspath(sys.argv[0])
    with opened(path, os.O_WRONLY | os.O_APPEND):
        return True


@attempt("must", against="writing", needs="root")
def time_table() -> bool:
    """A line that cron runs."""
    return could_be_planted("/etc/cron.d")


@attempt("must", against="writing", needs="root")
def start_of_all_shells() -> bool:
    """What every login runs."""
    return could_be_planted("/etc/profile.d")


@attempt("must", against="writing", needs="root")
def libraries_of_all() -> bool:
    """A file in the loader's configuration."""
    return could_be_planted("/etc/ld.so.conf.d")


@attempt("must", against="writing", needs="root")
def service_of_the_machine() -> bool:
    """A unit that systemd starts."""
    return could_be_planted("/etc/systemd/system")


@attempt("must", against="writing", needs="root kernel")
def helper_of_the_kernel() -> bool:
    """The name of a program that the kernel starts as user 0, outside of everything. It stays as it is."""
    for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/sys/kernel/uevent_helper"):
        try:
            with opened(path, os.O_WRONLY) as fd:
                return os.write(fd, b"") == 0
        except OSError:
            continue
    return False


@attempt("must", against="writing", needs="service root")
def spool_of_time_tables() -> bool:
    """The user's own table of cron, or of at."""
    folder = next(one for one in ("/var/spool/cron/crontabs", "/var/spool/cron", "/var/spool/at") if os.path.isdir(one))
    return could_be_planted(folder)


@attempt("should", against="writing")
def name_in_tmp() -> bool:
    """A name in /tmp that another program will want."""
    return planted(fresh("/tmp", "ipcctl-escape"), above=False)
