"""Code of many tenants: each has a runtime with its own state and limits, and none can harm another.

Prints:

    acme: 1, 2, 3
    other: 1
    acme called 3 times, confined: True
    hungry: Runtime terminated: heap limit exceeded: it may have 67108864 bytes
    hungry starts anew: 1
    acme goes on: 4
    2 tenants after acme has left: hungry, other
"""

from __future__ import annotations

from typing import Any

from ipcctl.js import Runtime, RuntimeConfig, RuntimeStats, RuntimeTerminated

CONFIG = RuntimeConfig(max_memory=64 << 20, timeout=2, bootstrap="let visits = 0;")


class Tenants:
    def __init__(self) -> None:
        self._runtimes: dict[str, Runtime] = {}

    def run(self, tenant: str, code: str) -> Any:
        runtime = self._runtimes.get(tenant)
        if runtime is None or runtime.is_closed():  # it is new, or a limit has ended it
            runtime = self._runtimes[tenant] = Runtime(CONFIG)
        return runtime.eval(code)

    def stats(self, tenant: str) -> RuntimeStats:
        return self._runtimes[tenant].get_stats()

    def remove(self, tenant: str) -> None:
        self._runtimes.pop(tenant).close()

    def names(self) -> list[str]:
        return sorted(self._runtimes)


tenants = Tenants()
print("acme:", ", ".join(str(tenants.run("acme", "++visits")) for _ in range(3)))
print("other:", tenants.run("other", "++visits"))
stats = tenants.stats("acme")
print(f"acme called {stats.eval_sync_count} times, confined: {stats.confined}")
try:
    tenants.run("hungry", "const all = []; for (;;) all.push(new Array(1e5).fill(visits))")
except RuntimeTerminated as error:
    print(f"hungry: {error}")
print("hungry starts anew:", tenants.run("hungry", "++visits"))
print("acme goes on:", tenants.run("acme", "++visits"))
tenants.remove("acme")
names = tenants.names()
print(f"{len(names)} tenants after acme has left: {', '.join(names)}")
for name in names:
    tenants.remove(name)
