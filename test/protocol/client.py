"""A bunctl client that shares no code with the daemon: speaks the wire as its Rust code does, and misbehaves."""

import json
import os
import socket
import struct
import sys
import time


class Client:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(200)
        self.socket.connect(path)

    def send_bytes(self, payload):
        self.socket.sendall(struct.pack("<I", len(payload)) + payload)

    def receive(self):
        head = self.exactly(4)
        if head is None:
            return None
        return json.loads(self.exactly(struct.unpack("<I", head)[0]))

    def exactly(self, count):
        found = b""
        while len(found) < count:
            try:
                more = self.socket.recv(count - len(found))
            except ConnectionResetError:
                return None
            if not more:
                return None
            found += more
        return found

    def ask(self, message):
        self.send_bytes(json.dumps(message).encode())
        return self.receive()


def check(name, condition, seen=None):
    print(f"{'ok' if condition else 'FAIL'} {name}" + ("" if condition else f": {seen!r}"), flush=True)
    if not condition:
        sys.exit(1)


path, folder = sys.argv[1:3]
script = os.path.join(folder, "served.py")
with open(script, "w") as file:
    file.write(
        "import sys, time\nprint('out', flush=True)\nprint('err', file=sys.stderr, flush=True)\ntime.sleep(600)\n"
    )
config = json.dumps(
    {
        "name": "api",
        "command": "python3",
        "args": [script],
        "cwd": folder,
        "env": {"PORT": "1", "API_KEY": "s"},
        "stop_timeout": {"secs": 5, "nanos": 0},
        "restart_policy": "OnFailure",
    }
)

events = Client(path)
check(
    "subscribe answers before events",
    events.ask({"Subscribe": {"subscription": {"AllEvents": {"app_name": "api"}}}})["Success"]["message"] != "",
)
client = Client(path)
answer = client.ask({"Start": {"name": "api", "config": config}})
check("start", answer["Success"]["message"] == "Started app api", answer)
check("start again changes nothing", "Success" in client.ask({"Start": {"name": "api", "config": config}}))
check("process_started comes first", events.receive()["Event"]["event_type"] == "process_started")
check("then running", events.receive()["Event"]["data"] == {"app": "api", "state": "running"})
lines = [events.receive()["Event"] for _ in range(2)]
check(
    "both streams as log_line",
    sorted((e["data"]["line"], e["data"]["stream"]) for e in lines) == [("err", "stderr"), ("out", "stdout")],
    lines,
)
status = client.ask({"Status": {"name": "api"}})["Data"]["data"]
keys = (
    "name state pid restarts auto_start command args cwd restart_policy last_exit_code uptime_seconds max_memory "
    "max_cpu_percent max_restart_attempts backoff_exhausted env memory_bytes cpu_percent"
).split()
check("all eighteen keys", all(key in status for key in keys), status)
check(
    "state and policy spelt as bunctl does",
    (status["state"], status["restart_policy"]) == ("Running", "OnFailure"),
    status,
)
check("secrets are masked", status["env"]["PORT"] == "1" and status["env"]["API_KEY"] != "s", status["env"])
check("status of all", [one["name"] for one in client.ask({"Status": {"name": None}})["Data"]["data"]] == ["api"])
check("list", client.ask("List")["Data"]["data"] == ["api"])
logs = client.ask({"Logs": {"name": "api", "lines": 20}})["Data"]["data"]
check("logs of one", logs == {"type": "single", "app": "api", "logs": {"errors": ["err"], "output": ["out"]}}, logs)
logs = client.ask({"Logs": {"name": None, "lines": 20}})["Data"]["data"]
check("logs of all", logs == {"type": "all", "apps": [["api", {"errors": ["err"], "output": ["out"]}]]}, logs)
answer = client.ask({"Restart": {"name": "api"}})["Success"]["message"]
check("restart", answer.startswith("Restarted app api with PID "), answer)
check("stop", client.ask({"Stop": {"name": "api"}})["Success"]["message"] == "Stopped app api")
check("stop again", client.ask({"Stop": {"name": "api"}})["Error"]["message"] == "App api is not running")
check("stop of an unknown one", client.ask({"Stop": {"name": "no"}})["Error"]["message"] == "App no not found")
check("delete", client.ask({"Delete": {"name": "api"}})["Success"]["message"] == "Deleted app api")
check("status of a deleted one", "Error" in client.ask({"Status": {"name": "api"}}))


def events_until(subscriber, last):
    found = []
    while not found or found[-1]["data"].get("state") != last:
        found.append(subscriber.receive()["Event"])
    return found


UNION = {
    "status_change": {"state"},
    "process_started": {"pid"},
    "process_exited": {"exit_code"},
    "process_crashed": {"reason", "exit_code", "signal"},
    "process_restarting": {"attempt", "delay_ms"},
    "log_line": {"line", "stream", "timestamp"},
}


def is_of_union(event):
    return set(event) == {"event_type", "data"} and set(event["data"]) == {"app"} | UNION[event["event_type"]]


def words(found):
    kinds = [e for e in found if e["event_type"] != "log_line"]
    return " ".join(e["data"].get("state", e["event_type"].removeprefix("process_")) for e in kinds)


found = events_until(events, "removed")
check("events are those of the union, with their fields alone", all(map(is_of_union, found)), found)
check("a restart is told", words(found) == "exited restarting started running exited stopped removed", found)
crashing = {
    "name": "crashing",
    "command": "python3 -c 'raise SystemExit(7)'",
    "cwd": folder,
    "backoff": {"base_delay_ms": 1, "max_attempts": 1},
}
events = Client(path)
events.ask({"Subscribe": {"subscription": {"StatusEvents": {"app_name": "crashing"}}}})
client.ask({"Start": {"name": "crashing", "config": json.dumps(crashing)}})
found = events_until(events, "backoff_exhausted")
check("events of a crash likewise", all(map(is_of_union, found)), found)
crash = "started running exited crashed crashed"
check("each crash is told", words(found) == f"{crash} restarting starting {crash} backoff_exhausted", found)
crash = next(e["data"] for e in found if e["event_type"] == "process_crashed")
check("with reason, exit code and signal", (crash["exit_code"], crash["signal"]) == (7, None), crash)
client.ask({"Delete": {"name": "crashing"}})
events.send_bytes(b'"Unsubscribe"')
check("unsubscribe", any("Success" in events.receive() for _ in range(20)))
answer = client.ask({"Start": {"name": "bad", "config": "{}"}})["Error"]["message"]
check("invalid config", answer.startswith("Invalid config: "), answer)
answer = client.ask({"Start": {"name": "bad", "config": json.dumps({"name": "bad", "command": "/no/such"})}})["Error"][
    "message"
]
check("failed start", answer.startswith("Failed to start app bad: "), answer)
check("a failed start leaves nothing", client.ask("List")["Data"]["data"] == [])

for garbage in (
    b"",
    b"{",
    b"nonsense",
    b"\xff\xfe",
    b'{"Stop":{"name":"a","name":"b"}}',
    b'"Nope"',
    b"[]",
    b"null",
    b'"List" 1',
):
    client.send_bytes(garbage)
    check(f"garbage {garbage!r} gives an Error and the connection stays", "Error" in client.receive())
check("it still serves", client.ask("List")["Data"]["data"] == [])

huge = Client(path)
huge.socket.sendall(struct.pack("<I", 0xFFFFFFFF))
check("a length of four gibibytes gives one Error", "Error" in huge.receive())
check("and the end of the connection", huge.receive() is None)
limit = Client(path)
limit.socket.sendall(struct.pack("<I", 10_485_761))
refused = limit.receive()
check(
    "one byte over the limit is refused, with both numbers",
    all(n in refused["Error"]["message"] for n in ("10485761", "10485760")),
    refused,
)
check("and the end of that connection", limit.receive() is None)
exact = Client(path)
exact.send_bytes(b'"List"' + b" " * (10_485_760 - 6))
check("a frame of exactly the limit is served", exact.receive()["Data"]["data"] == [])

piped = Client(path)
piped.socket.sendall(b"".join(struct.pack("<I", 6) + b'"List"' for _ in range(500)))
check("five hundred pipelined requests are answered in order", all("Data" in piped.receive() for _ in range(500)))
slow = Client(path)
for byte in struct.pack("<I", 6) + b'"List"':
    slow.socket.sendall(bytes([byte]))
check("a frame that comes byte by byte is served", "Data" in slow.receive())


def resident():
    return client.ask("DaemonStatus")["Data"]["data"]["memory_bytes"]


def drop(count):
    for _ in range(count):
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        one.connect(path)
        one.close()
    check("still serving", "Data" in client.ask("List"))


drop(2000)
before = resident()
drop(8000)
# Its memory is collected when the engine gets to it, which a busy machine puts off.
until = time.monotonic() + 30
while resident() - before >= 16 * 1024 * 1024 and time.monotonic() < until:
    client.ask("List")
check(
    "ten thousand connections opened and dropped do not make it grow",
    resident() - before < 16 * 1024 * 1024,
    resident() - before,
)

mute = Client(path)
mute.socket.setblocking(False)
sent = 0
try:
    for _ in range(200_000):
        sent += mute.socket.send(struct.pack("<I", 15) + b'{"Status":{ } }')
except BlockingIOError:
    pass
check("a client that never reads is stopped by a full socket", sent < 32 * 1024 * 1024, sent)
check("and nobody else notices", client.ask("List")["Data"]["data"] == [])

with open(os.path.join(folder, "flood.py"), "w") as file:
    file.write("import time\nfor i in range(400000): print(f'{i:080d}', flush=i == 399999)\ntime.sleep(600)\n")
quick, lazy = Client(path), Client(path)
for subscriber in (quick, lazy):
    subscriber.ask({"Subscribe": {"subscription": {"LogEvents": {"app_name": "flood"}}}})
client.ask(
    {
        "Start": {
            "name": "flood",
            "config": json.dumps({"name": "flood", "command": "python3", "args": ["flood.py"], "cwd": folder}),
        }
    }
)


def drain(subscriber):
    """Until the last line or, where it is dropped, the count of all: (lines, dropped, in order)."""
    lines, dropped, last, ordered = 0, 0, -1, True
    while lines + dropped < 400000:
        event = subscriber.receive()["Event"]
        if event["event_type"] == "events_dropped":
            dropped += event["data"]["count"]
        else:
            number = int(event["data"]["line"])
            ordered, last, lines = ordered and number > last, number, lines + 1
    return lines, dropped, ordered


def worker_is_done():
    return client.ask({"Logs": {"name": "flood", "lines": 1}})["Data"]["data"]["logs"]["output"] == [f"{399999:080d}"]


while not worker_is_done():
    pass
seen = drain(quick)
check(
    "a subscriber gets each line or is told how many it missed, in order", seen[0] + seen[1] == 400000 and seen[2], seen
)
seen = drain(lazy)
check("one that did not read meanwhile is told how many were dropped", 4096 <= seen[0] < 20000 and seen[2], seen)
check("delete", "Success" in client.ask({"Delete": {"name": "flood"}}))
print("all ok")
