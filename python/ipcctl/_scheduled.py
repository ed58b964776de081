"""Tasks that publish events when they come due, and the queue of what waits for sessions."""

from __future__ import annotations

TYPE_CHECKING = False  # as typing has it, which takes long to load
if TYPE_CHECKING:
    from typing import Any, List, Literal  # in a class with a method `list` that is no type

    from ._client import Ipcctl
    from ._verbs import PublishedEvent, QueueEntry, Task, TaskRun


class Tasks:
    """Each of them publishes an event by the clock."""

    def __init__(self, ipcctl: Ipcctl) -> None:
        self._ipcctl = ipcctl

    def add(
        self,
        name: str,
        cron: str,
        publish: str,
        data: object = None,
        *,
        timezone: str | None = None,
        overlap: Literal["skip", "restart", "queue"] = "skip",
        catch_up: bool = False,
    ) -> Task:
        """
        :param cron: ``minute hour day month weekday``, or such as ``@daily``
        :param publish: a topic
        :param timezone: such as ``Europe/Berlin``; the default is the zone of the daemon
        :param catch_up: the newest of the runs that were missed is made up for
        """
        fields = {"name": name, "cron": cron, "publish": publish, "data": data}
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
