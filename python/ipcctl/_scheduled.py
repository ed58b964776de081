"""Tasks that publish events when they come due, the queue of what waits for sessions, and these."""

from __future__ import annotations

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from typing import Any, List, Literal  # in a class with a method `list` that is no type

    from ._client import Ipcctl
    from ._verbs import PublishedEvent, QueueEntry, Session, SessionDescription, Task, TaskRun


class Tasks:
    """Each of them publishes an event by the clock."""

    def __init__(self, ipcctl: Ipcctl) -> None:
        self._ipcctl = ipcctl

    def add(
        self,
        name: str,
        cron: str,
        publish: str | None = None,
        data: object = None,
        *,
        prompt: str | None = None,
        timezone: str | None = None,
        overlap: Literal["skip", "restart", "queue"] = "skip",
        catch_up: bool = False,
    ) -> Task:
        """
        :param cron: ``minute hour day month weekday``, or such as ``@daily``
        :param publish: a topic; or ``prompt``
        :param prompt: what is asked of the rule that host.json names for prompts
        :param timezone: such as ``Europe/Berlin``; the default is the zone of the daemon
        :param catch_up: the newest of the runs that were missed is made up for
        """
        fields = {"name": name, "cron": cron, "publish": publish, "data": data, "prompt": prompt}
        more = {"timezone": timezone, "overlap": overlap, "catch_up": catch_up}
        task: Task = self._query("AddTask", **fields, **more)
        return task

    def list(self) -> List[Task]:
        """By name."""
        tasks: List[Task] = self._ipcctl.request("ListTasks")["Data"]["data"]
        return tasks

    def history(self, name: str, count: int | None = None) -> List[TaskRun]:
        """Newest first, also those that were missed or skipped."""
        runs: List[TaskRun] = self._query("ReadTaskRuns", name=name, **({} if count is None else {"count": count}))
        return runs

    def run(self, name: str) -> TaskRun:
        """Begins a run now, paused or not."""
        run: TaskRun = self._query("RunTask", name=name)
        return run

    def pause(self, name: str) -> Task:
        task: Task = self._query("PauseTask", name=name)
        return task

    def resume(self, name: str) -> Task:
        """Nothing counts as missed meanwhile."""
        task: Task = self._query("ResumeTask", name=name)
        return task

    def remove(self, name: str) -> None:
        """With the record of its runs; what runs of it is ended."""
        self._ipcctl.request({"RemoveTask": {"name": name}})

    def _query(self, verb: str, **fields: object) -> Any:
        return self._ipcctl.request({verb: fields})["Data"]["data"]


class Queue:
    """Events that wait for sessions, and those that nobody could deal with."""

    def __init__(self, ipcctl: Ipcctl) -> None:
        self._ipcctl = ipcctl

    def list(self, *, dead: bool = False, group: str | None = None) -> List[QueueEntry]:
        """What waits or runs, or the dead letters, oldest first."""
        found: list[QueueEntry] = []
        after = None
        while True:
            fields = {"dead": dead, "group": group, "after": after}
            page = self._ipcctl.request({"ListQueue": fields})["Data"]["data"]
            found += page["entries"]
            after = page["next"]
            if after is None:
                return found

    def show(self, id: str) -> tuple[QueueEntry, PublishedEvent]:
        shown = self._ipcctl.request({"ReadQueue": {"id": id}})["Data"]["data"]
        return shown["entry"], shown["event"]

    def retry(self, id: str, *more: str) -> None:
        """Tries again what is dead or has failed."""
        self._ipcctl.request({"RetryQueue": {"ids": [id, *more]}})

    def retry_dead(self) -> int:
        """Tries all dead letters again. Gives how many."""
        count: int = self._ipcctl.request({"RetryQueue": {"ids": []}})["Success"]["count"]
        return count

    def drop(self, id: str, *more: str) -> None:
        """Forgets what does not run."""
        self._ipcctl.request({"DropQueue": {"ids": [id, *more]}})


class Sessions:
    """What rules of host.json start for events; a prompt is such an event."""

    def __init__(self, ipcctl: Ipcctl) -> None:
        self._ipcctl = ipcctl

    def prompt(self, text: str, *, rule: str | None = None, session: str | None = None) -> str:
        """Publishes what somebody asks. Its session is started once. Gives the entry of the queue, for ``wait``.

        :param rule: instead of the one that host.json names for prompts
        :param session: an earlier one of its group, whose workspace it gets
        """
        fields = {"text": text, "rule": rule, "session": session}
        entry: str = self._query("Prompt", **fields)["entry"]
        return entry

    def wait(
        self, entry: str, timeout: float, until: Literal["started", "ended"] = "ended"
    ) -> tuple[QueueEntry, Session | None]:
        """What becomes of an entry of the queue: once its session has started or ended, or the time is over."""
        found = self._query("WaitSession", entry=entry, until=until, timeout_ms=round(timeout * 1000))
        return found["entry"], found["session"]

    def list(self, *, group: str | None = None) -> List[Session]:
        """Those that run and those that have ended, newest first."""
        found: list[Session] = []
        after = None
        while True:
            page = self._query("ListSessions", group=group, after=after)
            found += page["sessions"]
            after = page["next"]
            if after is None:
                return found

    def describe(self, id: str) -> SessionDescription:
        """Also what was said in it."""
        found: SessionDescription = self._query("ReadSession", id=id)
        return found

    def stop(self, id: str, *more: str) -> None:
        """Ends them, or drops what waits for its session, by its entry of the queue."""
        self._ipcctl.request({"StopSessions": {"ids": [id, *more]}})

    def _query(self, verb: str, **fields: object) -> Any:
        return self._ipcctl.request({verb: fields})["Data"]["data"]
