"""What the attempts are aimed at: servers on loopback, a process with a secret, a folder. Says where they are, as a line of JSON."""

import json
import os
import resource
import signal
import socket
import sys
import threading

folder = sys.argv[1]
tcp = socket.create_server(("127.0.0.1", 0))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 0))
abstract = socket.socket(socket.AF_UNIX)
name = f"ipcctl-escape-{os.getpid()}"
abstract.bind("\0" + name)
abstract.listen()
hits = []
signal.signal(signal.SIGUSR1, lambda *_: hits.append("signal"))


def accept(server: socket.socket) -> None:
    while True:
        client, _ = server.accept()
        client.sendall(b"pong")
        client.close()


def echo() -> None:
    while True:
        _, address = udp.recvfrom(100)
        udp.sendto(b"pong", address)


for work in (lambda: accept(tcp), lambda: accept(abstract), echo):
    threading.Thread(target=work, daemon=True).start()
secret = bytearray(b"SECRET" * 1000)
address = (__import__("ctypes").c_char * len(secret)).from_buffer(secret)
where = {
    "tcp": tcp.getsockname()[1],
    "udp": udp.getsockname()[1],
    "abstract": name,
    "pid": os.getpid(),
    "address": __import__("ctypes").addressof(address),
    "folder": folder,
}
print(json.dumps(where), flush=True)
for line in sys.stdin:  # "state": what was done to us
    print(json.dumps({"hits": hits, "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0]}), flush=True)
