"""Ordinary things that Python programs do, one after the other in this process: prints of each whether it works, as a
line of JSON.

python3 ordinary.py [--port N] [--udp N] [--other FILE] [NAME…]: names or none for all; the ports of a host that answers
"pong", and a file of the user that is none of ours. What is made is made in the scratch folder, and gone at the end.
"""

import argparse
import asyncio
import concurrent.futures
import csv
import ctypes
import ctypes.util
import datetime
import dbm.dumb
import fcntl
import getpass
import gzip
import hashlib
import importlib
import inspect
import json
import locale
import logging
import mmap
import multiprocessing
import multiprocessing.shared_memory
import os
import pickle
import platform
import pwd
import random
import re
import resource
import secrets
import select
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import uuid
import venv
import warnings
import zipfile
import zoneinfo

SECONDS_MAX = 120
HOST = "127.0.0.1"
FOLDER = os.path.dirname(os.path.abspath(__file__))
scratch = ""  # made in main()
wanted = argparse.Namespace()


def path(name: str) -> str:
    return os.path.join(scratch, name)


def written(name: str, text: str = "text\n") -> str:
    with open(path(name), "w") as file:
        file.write(text)
    return path(name)


# Files in the scratch folder


def scratch_file() -> None:
    with open(written("plain"), "a") as file:
        file.write("more\n")
    with open(path("plain")) as file:
        assert file.read() == "text\nmore\n"


def scratch_folders() -> None:
    os.makedirs(path("a/b"))
    os.rename(written("moved"), path("a/b/moved"))
    assert os.listdir(path("a/b")) == ["moved"]
    shutil.rmtree(path("a"))


def scratch_links() -> None:
    os.symlink("linked", path("symlink"))
    os.link(written("linked"), path("hardlink"))
    assert os.path.samefile(path("symlink"), path("hardlink"))


def temporary() -> None:
    with tempfile.NamedTemporaryFile() as one, tempfile.TemporaryFile() as two, tempfile.TemporaryDirectory() as folder:
        one.write(b"x")
        two.write(b"x")
        assert os.path.isdir(folder)


def sqlite_file() -> None:
    base = sqlite3.connect(path("base"))
    base.execute("pragma journal_mode=wal")
    base.execute("create table t(x)")
    base.executemany("insert into t values (?)", [(n,) for n in range(10)])
    base.commit()
    assert base.execute("select sum(x) from t").fetchone() == (45,)
    base.close()


def sqlite_memory() -> None:
    assert sqlite3.connect(":memory:").execute("select 6 * 7").fetchone() == (42,)


def key_value_file() -> None:
    with dbm.dumb.open(path("keys"), "c") as base:
        base["a"] = "b"
    with dbm.dumb.open(path("keys"), "r") as base:
        assert base["a"] == b"b"


def zip_archive() -> None:
    with zipfile.ZipFile(path("x.zip"), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(written("zipped"), "zipped")
    with zipfile.ZipFile(path("x.zip")) as archive:
        archive.extractall(path("unzipped"))
    assert os.listdir(path("unzipped")) == ["zipped"]


def tar_archive() -> None:
    with tarfile.open(path("x.tar.gz"), "w:gz") as archive:
        archive.add(written("tarred"), "tarred")
    with tarfile.open(path("x.tar.gz")) as archive:
        archive.extractall(path("untarred"))
    assert os.listdir(path("untarred")) == ["tarred"]


def tar_modes() -> None:
    with tarfile.open(path("modes.tar"), "w") as archive:
        member = tarfile.TarInfo("program")
        member.mode = 0o755
        archive.addfile(member)
    with tarfile.open(path("modes.tar")) as archive:
        archive.extractall(path("modes"))
    if not os.stat(path("modes/program")).st_mode & 0o100:
        raise PermissionError(1, "mode not kept", path("modes/program"))  # tarfile itself is silent about it


def gzip_file() -> None:
    with gzip.open(path("x.gz"), "wt") as file:
        file.write("text")
    with gzip.open(path("x.gz"), "rt") as file:
        assert file.read() == "text"


def csv_file() -> None:
    with open(path("x.csv"), "w", newline="") as file:
        csv.writer(file).writerows([[1, "a"], [2, "b"]])
    with open(path("x.csv"), newline="") as file:
        assert list(csv.reader(file)) == [["1", "a"], ["2", "b"]]


def json_and_pickle() -> None:
    with open(path("x.json"), "w") as file:
        json.dump({"a": [1, 2]}, file)
    with open(path("x.json")) as file:
        assert pickle.loads(pickle.dumps(json.load(file))) == {"a": [1, 2]}


def log_to_file() -> None:
    logger = logging.getLogger("ordinary")
    handler = logging.FileHandler(path("log"))
    logger.addHandler(handler)
    logger.warning("hello")
    handler.close()
    logger.removeHandler(handler)
    with open(path("log")) as file:
        assert file.read() == "hello\n"


def lock_file() -> None:
    with open(written("lock"), "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def memory_map_file() -> None:
    with open(written("mapped", "x" * 4096), "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[:4] = b"text"
        view.flush()
    with open(path("mapped")) as file:
        assert file.read(5) == "textx"


def copy_contents() -> None:
    shutil.copyfile(written("source"), path("contents"))


def copy_file() -> None:
    shutil.copy(written("source"), path("copy"))


def copy_folder() -> None:
    os.mkdir(path("from"))
    written("from/one")
    shutil.copytree(path("from"), path("to"))


def change_mode() -> None:
    os.chmod(written("mode"), 0o600)


def change_times() -> None:
    os.utime(written("times"), (1, 1))


def virtual_environment() -> None:
    venv.create(path("venv"), symlinks=True)
    assert os.path.exists(path("venv/bin/python"))


def bytecode_in_scratch() -> None:
    sys.pycache_prefix = path("pycache")
    try:
        import_beside()
    finally:
        sys.pycache_prefix = None
    assert any("beside." in name for _, _, names in os.walk(path("pycache")) for name in names)


# Files elsewhere


def list_own_folder() -> None:
    if "beside.py" not in os.listdir(FOLDER):
        raise FileNotFoundError(2, "only what is granted is there", FOLDER)


def import_beside() -> None:
    sys.modules.pop("beside", None)
    importlib.invalidate_caches()
    assert importlib.import_module("beside").VALUE == 42


def read_own_source() -> None:
    assert "read_own_source" in inspect.getsource(read_own_source)


def read_passwd() -> None:
    with open("/etc/passwd") as file:
        assert "root" in file.read()


def read_other_file() -> None:
    with open(wanted.other) as file:
        assert file.read() != ""


def read_proc_self() -> None:
    with open("/proc/self/status") as file:
        assert f"Pid:\t{os.getpid()}\n" in file.read()


def write_devnull() -> None:
    with open(os.devnull, "w") as file:
        file.write("x")


def write_beside() -> None:
    with open(os.path.join(FOLDER, "written"), "w") as file:
        file.write("x")
    os.unlink(file.name)


def write_home() -> None:
    with tempfile.NamedTemporaryFile(dir=os.path.expanduser("~")) as file:
        file.write(b"x")


def bytecode_beside() -> None:
    cache = os.path.join(FOLDER, "__pycache__")
    shutil.rmtree(cache, ignore_errors=True)
    import_beside()
    if not any(name.startswith("beside.") for name in os.listdir(cache)):
        raise FileNotFoundError(2, "not written", cache)  # Python itself is silent about it
    shutil.rmtree(cache)


# Threads and processes


def threads() -> None:
    found = []
    thread = threading.Thread(target=found.append, args=(1,))
    thread.start()
    thread.join()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert found + list(pool.map(abs, [-2, -3])) == [1, 2, 3]


def event_loop() -> None:
    async def main() -> list:
        queue: asyncio.Queue = asyncio.Queue()
        await queue.put(await asyncio.to_thread(lambda: 1))
        await asyncio.sleep(0.001)
        return await asyncio.gather(queue.get(), asyncio.sleep(0, 2))

    assert asyncio.run(main()) == [1, 2]


def event_loop_child() -> None:
    async def main() -> bytes:
        child = await asyncio.create_subprocess_exec("echo", "x", stdout=subprocess.PIPE)
        return (await child.communicate())[0]

    assert asyncio.run(main()) == b"x\n"


def child_program() -> None:
    assert subprocess.run(["echo", "x"], capture_output=True, check=True).stdout == b"x\n"


def child_python() -> None:
    command = [sys.executable, "-I", "-c", "print(1)"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"1\n"


def fork() -> None:
    child = os.fork()
    if child == 0:
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def multiprocessing_process() -> None:
    child = multiprocessing.get_context("fork").Process(target=abs, args=(-1,))
    child.start()
    child.join()
    assert child.exitcode == 0


def multiprocessing_spawn() -> None:
    child = multiprocessing.get_context("spawn").Process(target=abs, args=(-1,))
    child.start()
    child.join()
    assert child.exitcode == 0


def multiprocessing_pool() -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(abs, [-1, -2]).get(SECONDS_MAX) == [1, 2]


def multiprocessing_queue() -> None:
    queue = multiprocessing.get_context("fork").Queue()
    queue.put("x")
    assert queue.get(timeout=SECONDS_MAX) == "x"
    queue.close()
    queue.join_thread()


def multiprocessing_memory() -> None:
    memory = multiprocessing.shared_memory.SharedMemory(create=True, size=4096)
    try:
        memory.buf[0] = 1
    finally:
        memory.close()
        memory.unlink()


def memory_map() -> None:
    with mmap.mmap(-1, 8192) as shared, mmap.mmap(-1, 8192, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as private:
        shared[:1] = private[:1]


def signals() -> None:
    got: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: got.append(number))
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)
    assert got == [signal.SIGUSR1]


def alarm() -> None:
    got: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: got.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    while not got:
        time.sleep(0.01)
    signal.signal(signal.SIGALRM, before)


def usage() -> None:
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0


def own_limits() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))


def cpu_count() -> None:
    assert os.cpu_count() > 0 and len(os.sched_getaffinity(0)) > 0


def sleep() -> None:
    time.sleep(0.001)


def pseudo_terminal() -> None:
    for fd in os.openpty():
        os.close(fd)


# Sockets


def socket_pair() -> None:
    one, two = socket.socketpair()
    with one, two:
        one.sendall(b"x")
        assert two.recv(1) == b"x"


def polling() -> None:
    reading, writing = os.pipe()
    poll = select.epoll()
    poll.register(reading, select.EPOLLIN)
    os.write(writing, b"x")
    assert poll.poll(SECONDS_MAX) == [(reading, select.EPOLLIN)]
    assert select.select([reading], [], [], SECONDS_MAX)[0] == [reading]
    poll.close()
    os.close(reading)
    os.close(writing)


def tcp_connect() -> None:
    with socket.create_connection((HOST, wanted.port), SECONDS_MAX) as connection:
        assert connection.recv(4) == b"pong"


def udp_exchange() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(SECONDS_MAX)
        one.connect((HOST, wanted.udp))  # who does not hears of no refusal
        one.send(b"ping")
        assert one.recv(4) == b"pong"


def tcp_listen() -> None:
    with socket.create_server((HOST, 0)) as listener, socket.create_connection(listener.getsockname(), SECONDS_MAX):
        listener.accept()[0].close()


def unix_listen() -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(path("socket"))
        listener.listen()
        client.connect(path("socket"))
        listener.accept()[0].close()


def resolve_localhost() -> None:
    assert socket.getaddrinfo("localhost", 80)


# The machine and the user


def user_name() -> None:
    assert pwd.getpwuid(os.getuid()).pw_name and getpass.getuser()


def platform_text() -> None:
    assert platform.platform() and platform.machine() and platform.node() is not None


def time_zones() -> None:
    when = datetime.datetime(2026, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
    assert when.utcoffset() == datetime.timedelta(hours=2)
    assert datetime.datetime.now().astimezone().tzinfo is not None


def locales() -> None:
    before = locale.setlocale(locale.LC_ALL)
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    locale.setlocale(locale.LC_ALL, before)


def foreign_functions() -> None:
    assert ctypes.CDLL(None).getpid() == os.getpid()


def find_library() -> None:
    if ctypes.util.find_library("c") is None:
        raise FileNotFoundError(2, "not found", "libc")


# Computing


def regular_expressions() -> None:
    assert re.sub(r"(\w+) (\w+)", r"\2 \1", "a b") == "b a"


def tls_context() -> None:
    assert ssl.create_default_context().verify_mode == ssl.CERT_REQUIRED


def hashes() -> None:
    assert len(hashlib.scrypt(b"x", salt=b"y", n=2, r=1, p=1)) == 64 and len(hashlib.sha256(b"x").digest()) == 32


def randomness() -> None:
    assert (
        len(secrets.token_bytes(16)) == 16
        and 0 <= random.random() < 1
        and os.urandom(1)
        and random.SystemRandom().random() < 1
    )
    assert uuid.uuid4().version == 4


# Packages


def numpy() -> None:
    import numpy as np

    a = np.random.default_rng(1).random((300, 300))
    np.save(path("a.npy"), a @ a)
    assert np.allclose(np.load(path("a.npy"), mmap_mode="r"), a @ a)
    assert np.linalg.inv(a).shape == (300, 300)


def pandas() -> None:
    import pandas as pd

    pd.DataFrame({"key": ["a", "b", "a"], "value": [1, 2, 3]}).to_csv(path("frame.csv"), index=False)
    assert pd.read_csv(path("frame.csv")).groupby("key")["value"].sum().to_dict() == {"a": 4, "b": 2}
    assert pd.Timestamp("2026-07-01", tz="Europe/Berlin").utcoffset() == datetime.timedelta(hours=2)


def pyarrow() -> None:
    import pyarrow as pa
    import pyarrow.parquet

    pyarrow.parquet.write_table(pa.table({"x": [1, 2, 3]}), path("x.parquet"))
    assert pyarrow.parquet.read_table(path("x.parquet"))["x"].to_pylist() == [1, 2, 3]


def scikit_learn() -> None:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    rows, labels = [[n, n % 3] for n in range(30)], [int(n > 15) for n in range(30)]
    assert LogisticRegression().fit(rows, labels).score(rows, labels) > 0.9
    assert RandomForestClassifier(4, n_jobs=2, random_state=1).fit(rows, labels).score(rows, labels) > 0.9


def joblib_processes() -> None:
    from joblib import Parallel, delayed

    if os.getpid() in Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(2)):
        raise PermissionError(13, "serial")  # joblib itself only warns
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown()


def matplotlib() -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.plot([1, 2, 3])
    pyplot.title("título")
    pyplot.savefig(path("x.png"))
    pyplot.close("all")
    assert os.path.getsize(path("x.png")) > 1000


def requests() -> None:
    import requests

    assert requests.Session().headers


THINGS = [one for one in list(vars().values()) if inspect.isfunction(one) and one.__name__ not in ("path", "written")]


def too_late(*_: object) -> None:
    raise TimeoutError(f"not within {SECONDS_MAX} s")


def outcome(thing) -> dict:
    signal.signal(signal.SIGALRM, too_late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS_MAX)
    try:
        thing()
    except BaseException as error:
        inner = re.search(r"\[Errno (\d+)\]", str(error))  # of shutil.Error, a list of those of the files
        errno = getattr(error, "errno", None) or (int(inner[1]) if inner else None)
        return {"works": False, "error": {"class": type(error).__name__, "errno": errno, "text": str(error)}}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return {"works": True, "error": None}


def main() -> None:
    global scratch
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--udp", type=int, default=0)
    parser.add_argument("--other", default="/etc/hostname")
    parser.add_argument("names", nargs="*")
    parser.parse_args(namespace=wanted)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        for thing in THINGS:
            if not wanted.names or thing.__name__ in wanted.names:
                print(json.dumps({"name": thing.__name__, **outcome(thing)}), flush=True)


if __name__ == "__main__":
    main()
