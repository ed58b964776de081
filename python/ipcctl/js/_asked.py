"""A runtime in a confined worker, which can start none: the host is asked for it, and the daemon starts it.

The worker owns it by a connection that comes with the channel, so that it ends with the run, whatever becomes of the
daemon.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from concurrent.futures import Future

from .. import _console, _contract
from .._backend import BrokenChannel
from .._end import End, Ownership
from .._serving import serving
from ..host import HostError, call
from ._kept import Owned
from ._process import END_SECONDS, START_SECONDS, Guest, greet, is_readable, settle
from ._template import INTERRUPTS, PASSED, WAY_OUT, Options, needed_by, readable

#: The channel is sent before the answer.
_RELAY_SECONDS = 5.0
#: Whoever used the runtime waits for it.
_EXPLAIN_SECONDS = 2.0


class Asked(Owned):
    """The engine behind an answer of the host."""

    is_seen = False

    def __init__(self, options: Options) -> None:
        """:raises PermissionError, RuntimeError:"""
        super().__init__(options)
        asked = {
            "max_memory": options.max_memory,
            "max_cpu": options.max_cpu,
            "allow_net": list(options.allow_net),
            "allow_read": readable(options),
        }
        one = serving()
        one.attach(os.environ.get("IPCCTL_PLANE") or _console.plane or "")  # whatever way requests go
        with one.relays():
            try:
                answer = call(
                    _contract.START_RUNTIME,
                    deadline=START_SECONDS,
                    engine=options.engine,
                    env={name: os.environ[name] for name in PASSED if name in os.environ},
                    **{name: value for name, value in asked.items() if value},
                )
            except HostError as error:
                if error.code == "UNAUTHORIZED":
                    way_out = "" if error.stage is None else f"; {WAY_OUT}"  # else this process cannot even ask
                    raise PermissionError(f"ipcctl.js: {error}{way_out}") from None
                if error.code == "NOT_GRANTED":
                    raise PermissionError(f"ipcctl.js: {error}") from None
                is_of_engine = error.code == "FAILED" and options.engine != "bun"
                needed = f"; {needed_by(options.engine)} is needed on the daemon's PATH" if is_of_engine else ""
                raise RuntimeError(f"ipcctl.js: the host starts no runtime: {error}{needed}") from None
            relayed = one.take_relay(answer["label"], _RELAY_SECONDS)
        if relayed is None:
            raise RuntimeError("ipcctl.js: the channel to the runtime has not come")
        self._name: str = answer["name"]
        self.pid = int(answer["pid"])
        self._owner = Ownership.over(relayed.fds.pop(), self._name)
        try:
            self.end = End(_contract.SEGMENT_VERSION, relayed)
        except BaseException:
            relayed.close()
            self._owner.begin_end()
            raise

    @property
    def is_running(self) -> bool:
        held = self._owner.fileno()
        return held >= 0 and not is_readable(held, 0)

    def signal(self, number: int) -> None:
        """By the daemon, which nobody waits for."""
        if number in INTERRUPTS.values():
            threading.Thread(target=self._interrupt, name="ipcctl.js interrupt", daemon=True).start()
        else:
            self.kill()

    def _interrupt(self) -> None:
        try:
            call(_contract.INTERRUPT_RUNTIME, name=self._name)
        except HostError:
            pass  # whoever waits for it kills it after a while

    def how_it_ended(self) -> str:
        """The daemon ends one where the sum of a worker's runtimes is too high, and knows why."""
        how = super().how_it_ended()
        if self.record().get("kind") != "signal":
            return how
        try:
            told = call(_contract.EXPLAIN_RUNTIME, deadline=_EXPLAIN_SECONDS, name=self._name)
        except HostError:
            return how  # nobody is there who knows
        return told["why"] or how

    def failed(self, why: str) -> RuntimeError:
        self.kill()
        return RuntimeError(f"ipcctl.js: the runtime did not start: {why}")

    def close(self) -> None:
        self.wait(END_SECONDS)
        self._owner.leave()


def start(options: Options) -> Guest:
    """:raises PermissionError: naming the flag, or what the policy of this worker does not grant itself
    :raises RuntimeError: if it has as many as it may have, or nobody answers
    """
    # One that was disposed of counts until it has ended.
    settle(int(os.environ[_contract.RUNTIMES_VARIABLE]))
    for one in list(_given_up):
        if one.is_alive():
            one.join()  # what it starts counts as well
    future: Future[Guest] = Future()
    thread = threading.Thread(
        target=_carry_out, args=(options._replace(confine=True), future), name="ipcctl.js start", daemon=True
    )
    try:
        thread.start()
        return future.result()
    except BaseException:
        # Ctrl-C, or what a handler of a signal raises: the daemon starts it nevertheless.
        _given_up.add(thread)
        future.add_done_callback(_leave)
        raise


_given_up: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


def _carry_out(options: Options, future: Future[Guest]) -> None:
    """In a thread of its own, which no signal interrupts: what was begun here has an owner, or ends."""
    try:
        shim = Asked(options)
        deadline = time.monotonic() + START_SECONDS
        try:
            future.set_result(greet(options, shim, shim.end, deadline))
        except BrokenChannel as error:
            raise shim.failed(str(error)) from None
    except BaseException as error:
        future.set_exception(error)


def _leave(future: Future[Guest]) -> None:
    if future.exception() is None:
        future.result().dispose()
