"""``ipcctl.connect()``: the daemon and its workers from any program in Python, by the verbs of docs/protocol.md."""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import stat
import struct
import subprocess
import threading
import time

from ._contract import FRAME_BYTES_MAX, PROTOCOL, SOCKET_PATH_BYTES_MAX, SUBSCRIPTIONS
from ._types import IpcError

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any, List, Literal, overload  # in a class with a method `list` that is no type

    from ._caller import Worker
    from ._provide import ProgramHost
    from ._scheduled import Queue, Sessions, Tasks
    from ._stored import GroupFiles, GroupProject
    from ._verbs import (
        ActResult,
        ApprovalPage,
        ApprovalStatus,
        AuditAnchor,
        CredentialCheck,
        CredentialStatus,
        DaemonStatus,
        GrantStatus,
        LogLines,
        QueueEntry,
        Started,
        WorkerDescription,
        WorkerStatus,
    )

    ActVerb = Literal["start", "stop", "restart", "reload", "delete", "flush", "signal"]
else:

    def overload(function):
        return function


_GREET_SECONDS = 10.0
_START_SECONDS = 60.0
#: How long a reader of events waits for the next daemon.
_REJOIN_SECONDS = 15.0
_REJOIN_PAUSE_SECONDS = 0.05


class Ipcctl:
    """A connection to the daemon, reopened after a restart of the daemon. Threads may share it: their requests are sent
    one after the other. A name means an app with all its instances, or one instance (``web-1``).
    """

    def __init__(self, path: str, autostart: bool) -> None:
        self._path = path
        self._autostart = autostart
        self._lock = threading.Lock()
        self._is_closed = False
        self._wire: _Wire | None = _open_or_start(path, autostart)
        self._host: ProgramHost | None = None

    def __enter__(self) -> Ipcctl:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._is_closed = True
        for one in list(self._host.provided) if self._host is not None else []:
            one.close()
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    def request(self, message: object) -> dict[str, Any]:
        """Sends one request as it stands and gives the answer, ``{"Success": …}`` or ``{"Data": …}``.

        :raises IpcError: with the code that the daemon gave
        """
        payload = _encode(message)
        with self._lock:
            if self._is_closed:
                raise IpcError("CONNECTION_LOST", "the connection to the daemon was closed")
            if self._wire is None or self._wire.is_lost():
                if self._wire is not None:
                    self._wire.close()
                self._wire = None
                self._wire = _open_or_start(self._path, self._autostart)
            wire = self._wire
            try:
                wire.send(payload)
                answer = wire.receive()
            except (
                BaseException
            ):  # also after an interrupt: the late answer would be taken for that of the next request
                self._wire = None
                wire.close()
                raise
        return _checked(answer)

    def _request_running(self, message: object) -> dict[str, Any]:
        """The same to a daemon that is there: whoever has stopped one does not want us to start another."""
        if self._is_closed:
            raise IpcError("FAILED", "the connection to the daemon was closed")
        wire = _Wire(self._path)
        try:
            wire.send(_encode(message))
            return _checked(wire.receive())
        finally:
            wire.close()

    def list(self) -> List[str]:
        """Names of all workers."""
        names: List[str] = self._query("List")
        return names

    @overload
    def status(self) -> List[WorkerStatus]: ...
    @overload
    def status(self, name: str) -> WorkerStatus: ...
    def status(self, name: str | None = None) -> Any:
        """What ``ipcctl status --json`` shows, of all workers or of one."""
        return self._query({"Status": {"name": name}})

    def describe(self, name: str) -> WorkerDescription:
        """Everything known about one worker: definition, ended runs, files of its log, limits, processes."""
        description: WorkerDescription = self._query({"Describe": {"name": name}})
        return description

    def last_lines(self, name: str, lines: int = 20) -> LogLines:
        """The newest lines of one worker, separately for each stream, oldest first."""
        found: LogLines = self._query({"Logs": {"name": name, "lines": lines}})["logs"]
        return found

    def start_app(self, definition: Mapping[str, Any]) -> Started:
        """Starts an app from a definition with the fields of ``ipcctl.json``; changes nothing if it already runs."""
        started: Started = self._ask(
            {"Start": {"name": definition.get("name", ""), "config": json.dumps(dict(definition))}}
        )
        return started

    def stop(self, name: str) -> None:
        self._ask({"Stop": {"name": name}})

    def restart(self, name: str) -> int | None:
        """Starts it if it is not running. Returns the pid; for an app, that of its first instance."""
        pid: int | None = self._ask({"Restart": {"name": name}})["pid"]
        return pid

    def delete(self, name: str) -> None:
        """Stops it and forgets it, with its logs."""
        self._ask({"Delete": {"name": name}})

    def scale(self, name: str, instances: int) -> None:
        self._ask({"Scale": {"name": name, "instances": instances}})

    def wait_ready(self, names: str | Sequence[str], timeout: float = 60.0) -> None:
        """Waits until each is running, and ready if it reports that. The time is in seconds."""
        several = [names] if isinstance(names, str) else list(names)
        self._ask({"WaitReady": {"names": several, "timeout_ms": round(timeout * 1000)}})

    def reload(self, name: str) -> None:
        """Restarts the instances one after the other, each once the new one is ready."""
        self._act_on("reload", name)

    def signal(self, name: str, signal: str | int) -> None:
        """:param signal: by name (``"HUP"``) or number"""
        self._act_on("signal", name, signal=signal)

    def flush(self, name: str) -> None:
        """Empties its logs."""
        self._act_on("flush", name)

    def act(
        self,
        verb: ActVerb,
        names: Sequence[str],
        *,
        apps: Sequence[str] = (),
        grace: float | None = None,
        is_parallel: bool = False,
        wait: float = 0.0,
        signal: str | int = "",
    ) -> List[ActResult]:
        """Applies one verb to several workers in the order of their dependencies, and returns a result for each. Times
        are in seconds.

        :param names: of instances, exactly
        :param apps: those whose instances are all meant
        """
        results: List[ActResult] = self._query(
            {
                "Act": {
                    "verb": verb,
                    "names": list(names),
                    "apps": list(apps),
                    "grace_ms": None if grace is None else round(grace * 1000),
                    "is_parallel": is_parallel,
                    "wait_ms": round(wait * 1000),
                    "signal": str(int(signal)) if isinstance(signal, int) else signal,
                }
            }
        )
        return results

    def credentials(self) -> List[CredentialStatus]:
        """Of each credential when it was set and used, and nothing of its value."""
        found: List[CredentialStatus] = self._query("AuthList")
        return found

    def add_credential(self, name: str, value: str, *, plugin: str | None = None) -> None:
        """Stores a credential of a plugin, or of the host."""
        self._ask({"AuthAdd": {"name": name, "plugin": plugin, "value": value}})

    def verify_credentials(self, names: Sequence[str] = ()) -> List[CredentialCheck]:
        """Tries whether credentials can be used, without names all: each is opened, and a login is renewed."""
        results: List[CredentialCheck] = self._query({"AuthVerify": {"names": list(names)}})
        return results

    def remove_credential(self, name: str) -> None:
        """:param name: PLUGIN/NAME, or the name alone if it is one of the host"""
        self._ask({"AuthRemove": {"name": name}})

    def rotate_credential(self, name: str, value: str) -> None:
        """Replaces its value. The old one is taken out of what plugins say for a day more."""
        self._ask({"AuthRotate": {"name": name, "value": value}})

    def rotate_key(self) -> int:
        """Seals all credentials with a new key. Gives how many."""
        count: int = self._ask("AuthRotateKey")["count"]
        return count

    def approvals(self) -> List[ApprovalStatus]:
        """The calls of high risk that wait for a person, oldest first."""
        found: List[ApprovalStatus] = self._query("ListApprovals")
        return found

    def show_approval(self, id: str) -> List[str]:
        """All that a person must see of one before allowing it, in lines that are harmless to whatever shows them."""
        lines: List[str] = []
        page = 0
        while True:
            shown: ApprovalPage = self._query({"ShowApproval": {"id": id, "page": page}})
            lines += shown["lines"]
            page += 1
            if page >= shown["pages"]:
                return lines

    def allow(self, id: str, sha256: str, *, for_session: bool = False) -> None:
        """Says yes in the place of a person.

        :param sha256: of the call that was shown, or its first digits, 12 at least
        :param for_session: for the rest of its session, with exactly these argument values, instead of once
        """
        choice = "allow_session" if for_session else "allow"
        self._ask({"DecideApproval": {"id": id, "choice": choice, "hash": sha256, "reason": None}})

    def deny(self, id: str, *, reason: str | None = None) -> None:
        """:param reason: for the audit; the worker is not told"""
        self._ask({"DecideApproval": {"id": id, "choice": "deny", "hash": None, "reason": reason}})

    def grants(self) -> List[GrantStatus]:
        """What is allowed for sessions that go on."""
        found: List[GrantStatus] = self._query("ListGrants")
        return found

    def revoke_grant(self, id: str) -> None:
        """Takes one of those back."""
        self._ask({"RevokeGrant": {"id": id}})

    def files(self, group: str) -> GroupFiles:
        """The project files of a group: what workers of that group get by the plugin ``files``."""
        from ._stored import GroupFiles

        return GroupFiles(self, group)

    def project(self, group: str) -> GroupProject:
        """What a group works on, and what was said: what its workers get by the plugin ``project``."""
        from ._stored import GroupProject

        return GroupProject(self, group)

    def publish(self, topic: str, data: object = None, *, key: str | None = None) -> str:
        """Stores an event, which the rules of host.json start sessions for. Gives its id.

        :param key: within a week an event of the same topic and key is the same event, and is not stored again
        """
        id: str = self._query({"Publish": {"topic": topic, "data": data, "key": key}})["id"]
        return id

    def wait_for_event(self, id: str, timeout: float) -> List[QueueEntry]:
        """Waits until nothing of an event waits or runs any more. Gives what became of it, by each rule."""
        entries: List[QueueEntry] = self._query({"WaitEvent": {"id": id, "timeout_ms": round(timeout * 1000)}})
        return entries

    @property
    def tasks(self) -> Tasks:
        """What publishes events by the clock."""
        from ._scheduled import Tasks

        return Tasks(self)

    @property
    def queue(self) -> Queue:
        """Events that wait for sessions, and dead letters."""
        from ._scheduled import Queue

        return Queue(self)

    @property
    def sessions(self) -> Sessions:
        """What rules start for events, and prompts."""
        from ._scheduled import Sessions

        return Sessions(self)

    @property
    def host(self) -> ProgramHost:
        """What workers ask of the host, as far as this program answers it."""
        if self._host is None:
            from ._provide import ProgramHost

            self._host = ProgramHost(self)
        return self._host

    def daemon_status(self) -> DaemonStatus:
        status: DaemonStatus = self._query("DaemonStatus")
        return status

    def audit_anchors(self) -> List[AuditAnchor]:
        """Lines of the chained audit that must be there as they were: the first of each file, and the newest one."""
        anchors: List[AuditAnchor] = self._query("AuditAnchors")
        return anchors

    def shutdown(self, *, keep_workers: bool = False) -> None:
        """Ends the daemon, and its workers unless they are kept."""
        self._ask({"Shutdown": {"keep_workers": keep_workers}})

    def start(
        self,
        script: str | os.PathLike[str],
        *,
        life: Literal["stored", "ephemeral"] = "stored",
        timeout: float = 60.0,
        **fields: Any,
    ) -> Worker:
        """Starts a worker if it does not run yet, and opens a channel to it.

        :param life: ``"ephemeral"``: a new one in any case, under a name of its own. It runs once, leaves no records
            and no log, and ends with this program, however that ends, or when the channel is closed
        :param timeout: seconds that it has to let us in
        :param fields: those of ``ipcctl.json``, such as ``name``, ``args``, ``env``, ``policy``
        :raises IpcError: START_FAILED, BAD_CONFIG, LIMIT, DEADLINE
        """
        from ._caller import open_worker
        from ._end import Ownership, has_ended

        path = os.path.abspath(script)
        definition = {
            "name": os.path.splitext(os.path.basename(path))[0],
            "policy": "auto",
            "default_policy": _chosen_policy(),
            "cwd": os.getcwd(),
            "base_env": {key: value for key, value in os.environ.items() if _is_text(key) and _is_text(value)},
            "base_umask": _umask(),
            "auto_start": True,
            **fields,
            "script": path,
            "life": life,
        }
        started = self.start_app(definition)
        name = started["name"]
        if started.get("is_other_definition"):
            hint = f"another name, or: ipcctl stop {name}"
            raise IpcError("FAILED", f"{name} is running already, with another definition", hint)
        if life == "stored":
            return self.worker(name, timeout)
        try:
            shim = os.path.join(self.status(name)["log_dir"], "..", "sock")
        except IpcError as error:
            raise has_ended(name) if error.code == "NOT_FOUND" else error from None  # well, or it would stay
        owner = Ownership(shim, name, timeout)
        try:
            worker = open_worker(shim, name, timeout)
        except BaseException as error:
            owner.close()
            if isinstance(error, IpcError) and error.code in ("NOT_RUNNING", "CONNECTION_LOST"):
                raise self._why_none_runs(name, error) from None
            raise
        worker.on_close = owner.close
        return worker

    def _why_none_runs(self, name: str, error: IpcError) -> IpcError:
        """The daemon remembers an ephemeral worker that failed for a while."""
        from ._end import has_ended

        try:
            status, said = self.status(name), self.last_lines(name, 5)["errors"]
        except IpcError as unknown:
            return has_ended(name) if unknown.code == "NOT_FOUND" else error
        how = status["last_exit_signal"] or f"exit code {status['last_exit_code']}"
        last = next((line.strip() for line in reversed(said) if line.strip()), "")
        return IpcError("NOT_RUNNING", f"{name} ended with {how}" + (f": {last}" if last else ""), None, said)

    def worker(self, name: str, timeout: float = 10.0) -> Worker:
        """A channel to a running worker, whose functions :meth:`ipcctl.Worker.call` calls. It ends with the worker's
        run.

        :param timeout: seconds that it has to let us in
        :raises IpcError: NOT_FOUND, NOT_RUNNING, DEADLINE, FAILED if it does not run Python, or cannot serve calls
        """
        from ._caller import open_worker

        known = self.status(name)
        return open_worker(os.path.join(known["log_dir"], "..", "sock"), known["name"], timeout)

    def events(
        self,
        *,
        worker: str | None = None,
        topic: Literal["status", "logs", "all", "events"] | str = "status",
        since: int | None = None,
    ) -> Events:
        """Events on a separate connection: dicts with ``type``, ``app``, ``seq``, ``time`` and the fields of the event.
        After a restart of the daemon they continue with the next one.

        :param topic: states and processes, lines, what is published, or all of them and more; any other text is a
        pattern of topics, such as ``mail.*``: of what is published, only that
        :param since: number of the last event seen: begins with the events after it, with 0 at the oldest that the
        daemon has; the default is to begin now
        """
        return Events(_open_or_start(self._path, self._autostart), self._path, topic, worker, since)

    def _ask(self, message: object) -> Any:
        return self.request(message)["Success"]

    def _query(self, message: object) -> Any:
        return self.request(message)["Data"]["data"]

    def _act_on(self, verb: ActVerb, name: str, *, signal: str | int = "") -> None:
        known = self.status(name)
        is_app = known["instance"] == 0
        names = [one["name"] for one in self.status() if one["app"] == known["app"]] if is_app else [known["name"]]
        for result in self.act(verb, names, apps=[known["name"]] if is_app else [], signal=signal):
            if not result["ok"]:
                hint, output = result.get("hint"), result.get("output", [])
                raise IpcError(result.get("code", "FAILED"), f"{result['name']}: {result['message']}", hint, output)


class Events:
    """An iterator; ``close()`` or the end of its ``with`` ends the subscription."""

    def __init__(
        self,
        wire: _Wire,
        path: str,
        topic: str,
        worker: str | None,
        since: int | None,
    ) -> None:
        self._wire = wire
        self._path = path
        self._topic = topic
        self._worker = worker
        self._is_closed = False
        newest = self._subscribe(wire, since)
        #: Number of the last event that was returned, or of the newest one before the first.
        self._seen = newest if since is None else since

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._is_closed = True
        self._wire.close()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            try:
                event = _checked(self._wire.receive())["Event"]
            except IpcError as error:
                if error.code != "CONNECTION_LOST":
                    raise
                self._rejoin(error)
                if self._topic in ("logs", "all"):  # lines written in between are in the files
                    yield {"type": "events_dropped", "app": None, "count": None, "seq": None, "time": None}
                continue
            seq = event.get("seq")
            if seq is not None:
                self._seen = seq
            yield {"type": event["event_type"], **event["data"], "seq": seq, "time": event.get("time")}

    def _subscribe(self, wire: _Wire, since: int | None) -> int | None:
        """Returns the number of the newest event; an older daemon has none."""
        subscription: dict[str, dict[str, str | None]]
        if self._topic == "events":
            subscription = {SUBSCRIPTIONS["events"]: {"topic": None}}
        elif self._topic in SUBSCRIPTIONS:
            subscription = {SUBSCRIPTIONS[self._topic]: {"app_name": self._worker}}
        else:
            subscription = {SUBSCRIPTIONS["events"]: {"topic": self._topic}}
        wire.send(_encode({"Subscribe": {"subscription": subscription, "since": "now" if since is None else since}}))
        newest: int | None = _checked(wire.receive())["Success"].get("seq")
        if newest is None and since is not None:
            hint = "ipcctl daemon restart puts one of this version in its place; workers run on"
            raise IpcError(
                "FAILED", f"the daemon is of a version before this one and keeps no events: none after {since}", hint
            )
        return newest

    def _rejoin(self, lost: IpcError) -> None:
        """Waits for the next daemon without starting one; if none comes, raises what ended the connection."""
        deadline = time.monotonic() + _REJOIN_SECONDS
        while self._seen is not None and not self._is_closed and time.monotonic() < deadline:
            wire = None
            try:
                wire = _Wire(self._path)
                self._subscribe(wire, None if self._topic == "logs" else self._seen)
            except BaseException as error:
                if wire is not None:
                    wire.close()
                if not isinstance(error, IpcError) or error.code not in ("CONNECTION_LOST", "NO_DAEMON"):
                    raise
                time.sleep(_REJOIN_PAUSE_SECONDS)
                continue
            self._wire.close()
            self._wire = wire
            return
        raise lost


class _Wire:
    """Frames over one socket."""

    def __init__(self, path: str) -> None:
        _require_trusted(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            _connect(self._socket, path)
            self._socket.settimeout(_GREET_SECONDS)
            self.send(_encode({"Hello": {"protocol": PROTOCOL, "client": "ipcctl for Python"}}))
            _checked(self.receive())
            self._socket.settimeout(None)
        except TimeoutError:
            self.close()
            hint = "ipcctl daemon restart puts another one in its place"
            raise IpcError(
                "NO_DAEMON", f"the daemon at {path} has not answered within {_GREET_SECONDS:g} s", hint
            ) from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def is_lost(self) -> bool:
        """On a connection without a subscription the daemon sends nothing unasked: if it is readable, it was closed."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def send(self, payload: bytes) -> None:
        try:
            self._socket.sendall(struct.pack("<I", len(payload)) + payload)
        except (BrokenPipeError, ConnectionResetError):
            pass  # an error that the daemon sent before can still be read

    def receive(self) -> dict[str, Any]:
        (length,) = struct.unpack("<I", self._exactly(4))
        if length > FRAME_BYTES_MAX:
            raise IpcError(
                "BAD_FRAME", f"the daemon sent a frame of {length} bytes, at most {FRAME_BYTES_MAX} are allowed"
            )
        answer: dict[str, Any] = json.loads(self._exactly(length))
        return answer

    def _exactly(self, count: int) -> bytes:
        found = bytearray()
        while len(found) < count:
            try:
                more = self._socket.recv(min(count - len(found), 1 << 20))
            except ConnectionResetError:
                more = b""
            if not more:
                raise IpcError("CONNECTION_LOST", "the daemon closed the connection", "see: ipcctl daemon status")
            found += more
        return bytes(found)


def _is_text(value: str) -> bool:
    """Variables may contain any bytes, messages only text."""
    return not any("\ud800" <= char <= "\udfff" for char in value)


def _umask() -> int:
    """Does not change it for other threads."""
    with open("/proc/self/status", encoding="utf8") as file:
        return next((int(line.split()[1], 8) for line in file if line.startswith("Umask:")), 0o022)


def _chosen_policy() -> str | None:
    """The default policy that the user has set."""
    chosen = os.environ.get("POLICY_FILE") or None
    is_path = chosen is not None and ("/" in chosen or chosen.endswith(".json"))
    return os.path.abspath(chosen) if chosen is not None and is_path else chosen


def _encode(message: object) -> bytes:
    payload = json.dumps(message, allow_nan=False).encode()
    if len(payload) > FRAME_BYTES_MAX:
        raise IpcError("LIMIT", f"a request of {len(payload)} bytes is too long, at most {FRAME_BYTES_MAX} are allowed")
    return payload


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    error = answer.get("Error")
    if error is None:
        return answer
    raise IpcError(error.get("code", "FAILED"), error["message"], error.get("hint"), error.get("output", ()))


def _open_or_start(path: str, may_start: bool) -> _Wire:
    try:
        return _Wire(path)
    except IpcError as error:
        if error.code not in ("NO_DAEMON", "CONNECTION_LOST") or not may_start:
            raise
    _start_daemon(path)
    return _Wire(path)


def _start_daemon(path: str) -> None:
    """Uses the command line, which copes with many programs that start a daemon at once, and with a daemon whose socket
    is gone.
    """
    beside = os.path.join(os.path.dirname(__file__), "..", "..", "bin", "ipcctl")
    command = beside if os.path.exists(beside) else shutil.which("ipcctl")
    if command is None:
        raise IpcError(
            "NO_DAEMON",
            f"no daemon answers at {path}, and there is no ipcctl in PATH to start one",
            "npm install -g ipcctl",
        )
    try:
        done = subprocess.run(
            [command, "--socket", path, "--json", "status"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_START_SECONDS,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        raise IpcError(
            "NO_DAEMON", f"the daemon could not be started within {_START_SECONDS:g} s", "see: ipcctl doctor"
        ) from None
    if done.returncode != 0:
        raise IpcError("NO_DAEMON", f"the daemon could not be started: {done.stderr.strip()}", "see: ipcctl doctor")


def _connect(to: socket.socket, path: str) -> None:
    folder = None
    try:
        if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
            to.connect(path)
        else:  # by its folder, because the path is too long for an address
            folder = os.open(os.path.dirname(path), os.O_PATH | os.O_CLOEXEC)
            to.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
    except (FileNotFoundError, ConnectionRefusedError):
        hint = "start one with: ipcctl daemon, or start a worker"
        raise IpcError("NO_DAEMON", f"no daemon answers at {path}", hint) from None
    except PermissionError:
        raise IpcError("NO_PERMISSION", f"may not connect to {path}", "the daemon belongs to another user") from None
    except OSError as error:
        raise IpcError("NO_DAEMON", f"cannot connect to {path}: {error}") from error
    finally:
        if folder is not None:
            os.close(folder)


def _require_trusted(path: str) -> None:
    """The listener receives environments and definitions, so the socket must belong to this user or to root. Root may
    use the socket of any user, if it is in a folder to which nobody else can write.
    """
    try:
        owner = os.stat(path).st_uid
    except OSError:
        return  # connecting reports the reason
    user = os.geteuid()
    if owner in (user, 0):
        return
    if user == 0 and not os.stat(os.path.dirname(path)).st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return
    hint = "choose another place with socket=PATH, or become that user"
    raise IpcError("NO_PERMISSION", f"{path} belongs to user {owner}: nothing is sent there", hint)


def socket_path(chosen: str | None) -> str:
    """The command line looks in the same place (src/base/paths.ts); test/vectors/paths.json has cases for both."""
    if chosen is not None:
        return os.path.abspath(chosen)
    home = _ours("IPCCTL_HOME")
    named = _ours("IPCCTL_SOCKET")
    if named is not None:
        return named
    configured = _configured(_joined(home or _config_folder(), "config.json"))
    if configured is not None:
        return configured
    return _joined(_joined(home, "run") if home else _runtime_folder(), "ipcctl.sock")


def _joined(folder: str, *names: str) -> str:
    """One spelling for each path; POSIX does not define what two leading slashes mean."""
    path = os.path.normpath(os.path.join(folder, *names))
    return path[1:] if path.startswith("//") else path


def _ours(name: str) -> str | None:
    path = os.environ.get(name) or None
    if path is None or os.path.isabs(path):
        return path
    raise IpcError("USAGE", f"{name}: {path!r} is not an absolute path", f"write {name}={os.path.abspath(path)}")


def _absolute(name: str) -> str | None:
    path = os.environ.get(name, "").split(":")[0] if name.endswith("_DIRECTORY") else os.environ.get(name, "")
    return path if os.path.isabs(path) else None


def _configured(config: str) -> str | None:
    if not os.path.exists(config):
        return None
    hint = "fix it, or name the daemon's socket with socket=PATH or IPCCTL_SOCKET"
    try:
        with open(config, encoding="utf-8") as file:
            value = json.load(file, parse_constant=_no_constant)
    except (OSError, ValueError) as error:
        raise IpcError("BAD_CONFIG", f"{config}: {error}", hint) from error
    daemon = value.get("daemon") if isinstance(value, dict) else None
    path = daemon.get("socket_path") if isinstance(daemon, dict) else None
    if path is None:
        return None
    if not isinstance(path, str) or path == "":
        raise IpcError("BAD_CONFIG", f"{config}: daemon.socket_path is not a path", hint)
    return _joined(os.path.dirname(config), path)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _config_folder() -> str:
    if folder := _absolute("CONFIGURATION_DIRECTORY"):
        return folder
    if folder := _absolute("XDG_CONFIG_HOME"):
        return _joined(folder, "ipcctl")
    home = _absolute("HOME")
    return "/etc/ipcctl" if os.getuid() == 0 or home is None else _joined(home, ".config/ipcctl")


def _runtime_folder() -> str:
    if folder := _absolute("RUNTIME_DIRECTORY"):
        return folder
    if folder := _absolute("XDG_RUNTIME_DIR"):
        return _joined(folder, "ipcctl")
    return "/run/ipcctl" if os.getuid() == 0 else _joined(_state_folder(), "run")


def runtime_folder() -> str:
    """Where the socket of a daemon would be, if nothing else says where."""
    home = _ours("IPCCTL_HOME")
    return _joined(home, "run") if home else _runtime_folder()


def cache_folder() -> str:
    home = _ours("IPCCTL_HOME")
    if home:
        return _joined(home, "cache")
    if folder := _absolute("CACHE_DIRECTORY"):
        return folder
    if folder := _absolute("XDG_CACHE_HOME"):
        return _joined(folder, "ipcctl")
    home = _absolute("HOME")
    if os.getuid() == 0:
        return "/var/cache/ipcctl"
    return _joined(home, ".cache/ipcctl") if home else _joined(_state_folder(), "cache")


def _state_folder() -> str:
    if folder := _absolute("STATE_DIRECTORY"):
        return folder
    if folder := _absolute("XDG_STATE_HOME"):
        return _joined(folder, "ipcctl")
    home = _absolute("HOME") or f"/var/tmp/ipcctl-{os.getuid()}"
    return _joined(home, ".local/state/ipcctl")
