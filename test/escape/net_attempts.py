"""What a worker does with its network: calls one function by name with arguments in JSON; prints the result as JSON."""

import asyncio
import ctypes
import errno
import http.client
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import threading
import time
import urllib.request

TIMEOUT_S = 20


def outcome(work: object) -> object:
    """What it gives, or the name of the error."""
    try:
        return work()
    except socket.gaierror:
        return "no such name"
    except TimeoutError:
        return "ETIMEDOUT"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))


def talk(host: str, port: int) -> str:
    with socket.create_connection((host, port), timeout=TIMEOUT_S) as s:
        return s.recv(4).decode()


def blocking(host: str, port: int) -> str:
    s = socket.socket()
    s.connect((host, port))
    return s.recv(4).decode()


def connects(*targets: list) -> list:
    return [[outcome(lambda: talk(*t)), outcome(lambda: blocking(*t))] for t in targets]


def literals(*targets: list) -> list:
    """By literal address of either version, without a name service."""

    def one(host: str, port: int) -> str:
        s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        s.settimeout(TIMEOUT_S)
        s.connect((host, port))
        return s.recv(4).decode()

    return [outcome(lambda: one(*t)) for t in targets]


def clients(host: str, port: int) -> list:
    async def stream() -> str:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return answer[-4:].decode()

    def plain() -> str:
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        connection.request("GET", "/")
        return connection.getresponse().read().decode()

    def raw() -> str:
        with socket.create_connection((host, port)) as s:
            s.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return b"".join(iter(lambda: s.recv(4096), b""))[-4:].decode()

    url = f"http://{host}:{port}/"
    return [
        outcome(lambda: urllib.request.urlopen(url, timeout=TIMEOUT_S).read().decode()),
        outcome(plain),
        outcome(raw),
        outcome(lambda: asyncio.run(stream())),
    ]


def nonblocking(host: str, port: int) -> dict:
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 7, 0))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 30000)
    s.setblocking(False)
    inheritable = socket.socket()
    inheritable.set_inheritable(True)
    inheritable.connect((host, port))
    first = s.connect_ex((host, port))
    select.select([], [s], [], TIMEOUT_S)
    return {
        "first": errno.errorcode[first],
        "error": s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR),
        "again": errno.errorcode[s.connect_ex((host, port))],
        "options": [
            s.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            s.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
            struct.unpack("ll", s.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16))[0],
            s.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF),
        ],
        "inheritable": [os.get_inheritable(s.fileno()), os.get_inheritable(inheritable.fileno())],
        "blocking": [os.get_blocking(s.fileno()), os.get_blocking(inheritable.fileno())],
        "peer": list(s.getpeername()),
        "refused": refused_later(host),
    }


def refused_later(host: str) -> list:
    """To a port that nobody listens on: refused, by the event loop's way and by the other."""
    free = socket.socket()
    free.setblocking(False)
    answers = [errno.errorcode[free.connect_ex((host, 1))]]
    if answers[0] == "EINPROGRESS":
        select.select([], [free], [], TIMEOUT_S)
        answers.append(errno.errorcode[free.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)])
    return [*answers, outcome(lambda: blocking(host, 1))]


def parallel(host: str, port: int, count: int) -> list:
    got: list = []
    barrier = threading.Barrier(count)

    def one() -> None:
        barrier.wait()
        got.append(outcome(lambda: blocking(host, port)))

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def all_at_once() -> list:
        async def one() -> str:
            reader, writer = await asyncio.open_connection(host, port)
            answer = await reader.read(4)
            writer.close()
            return answer.decode()

        return await asyncio.gather(*(one() for _ in range(count)), return_exceptions=True)

    return [sorted({str(g) for g in got}), sorted({str(g) for g in asyncio.run(all_at_once())})]


def meanwhile(host: str, port: int, gate: int) -> list:
    """A loop that goes on while a name is looked up: otherwise the gate is never reached and the name never found."""

    async def one(host: str, port: int) -> str:
        reader, writer = await asyncio.open_connection(host, port)
        answer = await reader.read(4)
        writer.close()
        return answer.decode()

    async def main() -> list:
        slow = asyncio.create_task(one(host, port))
        for _ in range(1000):
            await asyncio.sleep(0)
        return [await one("127.0.0.1", gate), await slow, await one(host, port)]

    return asyncio.run(main())


def race(allowed: int, forbidden: int, rounds: int) -> dict:
    """One thread turns the address over while another one connects with it."""
    libc = ctypes.CDLL(None, use_errno=True)
    address = bytearray(struct.pack("!HH4s8x", 0, allowed, socket.inet_aton("127.0.0.1")))
    address[0:2] = struct.pack("=H", socket.AF_INET)
    shared = (ctypes.c_char * len(address)).from_buffer(address)
    ports = [struct.pack("!H", allowed), struct.pack("!H", forbidden)]
    is_over = threading.Event()

    def flip() -> None:
        pair = [(ctypes.c_char * 2).from_buffer_copy(p) for p in ports]
        at = ctypes.addressof(shared) + 2
        while not is_over.is_set():
            for _ in range(50):
                ctypes.memmove(at, pair[0], 2)
                ctypes.memmove(at, pair[1], 2)

    flippers = [threading.Thread(target=flip) for _ in range(2)]
    for flipper in flippers:
        flipper.start()
    counts = {"connected": 0, "denied": 0}
    for _ in range(rounds):
        s = socket.socket()
        rc = libc.connect(s.fileno(), shared, len(address))
        counts["connected" if rc == 0 else "denied"] += 1
        s.close()
    is_over.set()
    for flipper in flippers:
        flipper.join()
    return counts


def many(port: int, count: int) -> int:
    for _ in range(count):
        with socket.socket() as s:
            s.connect(("127.0.0.1", port))
    return count


def deny_many(count: int) -> int:
    for i in range(count):
        with socket.socket() as s:
            s.connect_ex(("192.0.2.1", i % 60000 + 100))
    return count


def deny_around(filling: str) -> int:
    deny_many(3)
    os.unlink(filling)
    return deny_many(2)


def query(name: bytes, kind: int = 1, number: int = 7) -> bytes:
    labels = b"".join(bytes([len(label)]) + label for label in name.split(b".")) + b"\0"
    return struct.pack("!HHHHHH", number, 0x100, 1, 0, 0, 0) + labels + struct.pack("!HH", kind, 1)


def dns(name: str) -> dict:
    """Questions by hand, as those of other resolvers, and what is no question."""

    def ask(*pieces: bytes) -> object:
        with socket.create_connection(("8.8.8.8", 53), timeout=TIMEOUT_S) as s:
            file = s.makefile("rb")
            try:
                for piece in pieces:
                    s.sendall(piece)
                head = file.read(2)
            except ConnectionError:  # with something left that nobody has read
                head = b""
            if len(head) < 2:
                return "closed"
            answer = file.read(struct.unpack("!H", head)[0])
            return [answer[3] & 0xF, struct.unpack("!H", answer[6:8])[0], answer[-4:].hex() if answer[7] else ""]

    def frame(message: bytes) -> bytes:
        return struct.pack("!H", len(message)) + message

    good = frame(query(name.encode()))
    held = []
    for _ in range(40):  # more than there are places for: half of a question, never read
        s = socket.create_connection(("1.1.1.1", 53))
        s.sendall(good[:9])
        held.append(s)
    result = {
        "whole": ask(good),
        "upper": ask(frame(query(name.upper().encode()))),
        "bytewise": ask(*[good[i : i + 1] for i in range(len(good))]),
        "aaaa": ask(frame(query(name.encode(), 28))),
        "https": ask(frame(query(name.encode(), 65))),
        "other": ask(frame(query(b"other.example"))),
        "tunnel": ask(frame(query(b'\n"\xff' + b"a" * 50 + b".evil.example"))),
        "long": ask(b"\xff\xff" + b"x" * 1000),
        "short": ask(b"\0\1x"),
        "garbage": ask(frame(b"\x0c\xc0" * 100)),
        "pointer": ask(frame(struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1")),
        "answer": ask(frame(b"\0\7\x81\x80" + good[6:])),
    }
    with socket.create_connection(("9.9.9.9", 53)) as s:  # many, and none is read before the end
        s.setblocking(False)
        sent = 0
        try:
            while sent < 5_000_000:
                sent += s.send(good * 100)
        except BlockingIOError:
            result["is stopped"] = sent < 5_000_000
    for s in held:
        s.close()
    result["after"] = ask(good)
    return result


def own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(("8.8.8.8", 80))
        return s.getsockname()[0]


def datagrams(name: str, port: int, outside: int) -> dict:
    """As a resolver asks that looks whom it asked and who answers; and what else one would do with datagrams."""
    server = ("9.9.9.9", 53)

    def ask(what: str) -> list:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.settimeout(TIMEOUT_S)
            s.connect(server)
            s.send(query(what.encode()))
            answer, sender = s.recvfrom(600)
            return [answer[3] & 15, socket.inet_ntoa(answer[-4:]) if answer[7] else "", sender == server]

    def by_tcp() -> list:
        with socket.socket() as s:
            s.settimeout(TIMEOUT_S)
            s.connect(server)
            asked = query(name.encode())
            s.sendall(struct.pack(">H", len(asked)) + asked)
            return [s.getsockname()[0], s.getpeername() == server, s.recv(600)[5] & 15]

    def send(address: tuple) -> str:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.settimeout(TIMEOUT_S)
            s.connect(address)
            s.send(b"out")
            return s.recv(10).decode()

    def message(address: tuple) -> str:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.bind(("", 0))
            return str(s.sendmsg([b"out"], [], 0, address))

    def flipped() -> int:
        """A socket of another kind in its place when the call is carried out."""
        got = 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s, socket.socket() as other:
            spare, ended = os.dup(s.fileno()), False

            def flip() -> None:
                while not ended:
                    os.dup2(other.fileno(), s.fileno())
                    os.dup2(spare, s.fileno())

            thread = threading.Thread(target=flip)
            thread.start()
            for _ in range(300):
                outcome(lambda: s.connect(("127.0.0.1", outside)))
                got += outcome(other.getpeername) != "ENOTCONN"
            ended = True
            thread.join()
        return got

    known = ask(name)
    return {
        "own": own_address(),
        "known": known,
        "unknown": ask("evil.example"),
        "by_tcp": by_tcp(),
        "talk": outcome(lambda: talk(known[1], port)),
        "send": outcome(lambda: send(("127.0.0.1", outside))),
        "message": outcome(lambda: message(("127.0.0.1", outside))),
        "raw": outcome(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)),
        "flipped": flipped(),
    }


def abandoned(slow: str, good: str, gate: int) -> list:
    """Questions that wait for their answer, more than there are places for, and nobody waits for it."""
    message = query(slow.encode())
    question = struct.pack("!H", len(message)) + message
    left = []
    for count in range(40):
        s = socket.create_connection(("9.9.9.9", 53), timeout=TIMEOUT_S)
        s.sendall(question * (1 + count % 3))
        left.append(s)
        if count % 2 == 0:
            s.close()
    with socket.create_connection(("127.0.0.1", gate), timeout=TIMEOUT_S) as s:
        opened = s.recv(4).decode()
    answered = []
    for s in left[1::2]:
        answered.append(len(s.recv(2)))
        s.close()
    return [opened, sorted(set(answered)), outcome(lambda: len(socket.getaddrinfo(good, 80, type=socket.SOCK_STREAM)))]


def refusals(where: dict) -> dict:
    """Ways round it. With no filter, most of them succeed."""
    libc = ctypes.CDLL(None, use_errno=True)
    port = where["port"]

    def udp() -> str:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.sendto(b"x", ("127.0.0.1", port))
        return "sent"

    def unix() -> str:
        s = socket.socket(socket.AF_UNIX)
        s.connect(where["unix"])
        return "connected"

    def unix_by_tcp() -> str:
        s = socket.socket()
        path = b"\1\0" + where["unix"].encode() + b"\0"
        if libc.connect(s.fileno(), path, len(path)) != 0:
            return errno.errorcode[ctypes.get_errno()]
        return "connected"

    def fastopen() -> str:
        s = socket.socket()
        s.sendto(b"x", 0x20000000, ("127.0.0.1", port))
        return "sent"

    def fastopen_message() -> str:
        s = socket.socket()
        s.sendmsg([b"x"], [], 0x20000000, ("127.0.0.1", port))
        return "sent"

    def listen() -> str:
        socket.socket().listen()
        return "listens"

    def bind() -> str:
        socket.socket().bind(("127.0.0.1", 0))
        return "bound"

    def io_uring() -> str:
        params = ctypes.create_string_buffer(120)
        fd = libc.syscall(425, 4, params)
        return errno.errorcode[ctypes.get_errno()] if fd < 0 else "a ring"

    def datagram_pair() -> str:
        socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        return "a pair"

    def mptcp() -> str:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
        return "a socket"

    def source_route() -> str:
        s = socket.socket()
        s.setsockopt(socket.IPPROTO_IP, 4, b"\x83\x07\x04\x7f\0\0\1\0")
        return "set"

    works = (
        udp,
        unix,
        unix_by_tcp,
        fastopen,
        fastopen_message,
        listen,
        bind,
        io_uring,
        datagram_pair,
        mptcp,
        source_route,
    )
    return {work.__name__: outcome(work) for work in works}


def reconnect(port: int) -> list:
    """With the socket that was put in the place of one's own."""
    s = socket.create_connection(("127.0.0.1", port))
    libc = ctypes.CDLL(None, use_errno=True)
    unspecified = bytes(16)
    rc = libc.connect(s.fileno(), unspecified, 16)
    return [
        "ok" if rc == 0 else errno.errorcode[ctypes.get_errno()],
        errno.errorcode[s.connect_ex(("127.0.0.1", port))],
        errno.errorcode[s.connect_ex(("127.0.0.1", 1))],
        outcome(lambda: s.listen()),
        s.recv(4).decode(),
    ]


def malformed(port: int) -> list:
    """Calls that are wrong in themselves."""
    libc = ctypes.CDLL(None, use_errno=True)
    good = struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton("127.0.0.1") + bytes(8)
    s = socket.socket()
    file = os.open("/dev/null", os.O_RDONLY)
    six = socket.socket(socket.AF_INET6)

    def call(fd: int, address: object, size: int) -> str:
        return "ok" if libc.connect(fd, address, size) == 0 else errno.errorcode[ctypes.get_errno()]

    return [
        call(s.fileno(), good, 2),
        call(s.fileno(), good, 15),
        call(s.fileno(), good, -1),
        call(s.fileno(), good + bytes(200), 200),
        call(s.fileno(), ctypes.c_void_p(8), 16),
        call(s.fileno(), None, 16),
        call(9999, good, 16),
        call(-1, good, 16),
        call(file, good, 16),
        call(six.fileno(), good, 16),
        call(s.fileno(), good, 16),
    ]


def pending(port: int, count: int) -> dict:
    """To a server that takes nobody: more than may wait, one that is interrupted, one that has a time limit; and others
    go on.
    """
    got: list = []

    class Enough(Exception):
        pass

    def enough(*_: object) -> None:
        raise Enough

    def one() -> None:
        got.append(outcome(lambda: blocking("127.0.0.1", port)))

    def limited() -> str:
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 100_000))
        s.connect(("127.0.0.1", port))
        return "connected"

    result: dict = {"limited": outcome(limited)}
    signal.signal(signal.SIGALRM, enough)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        blocking("127.0.0.1", port)
    except Enough:
        result["interrupted"] = True
    # One in the middle of it that runs out of time by itself.
    s = socket.socket()
    s.settimeout(0.1)
    result["timeout"] = outcome(lambda: s.connect(("127.0.0.1", port)))
    for _ in range(count):
        threading.Thread(target=one, daemon=True).start()
    while not got:  # one finds no place
        time.sleep(0.001)
    result["too many"] = got[0]
    result["others"] = outcome(lambda: talk("other.test", 1))
    print(json.dumps(result), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    return result


def interrupted(port: int) -> str:
    """A handler that returns: the call goes on, and ends well as soon as the server takes it."""
    signal.signal(signal.SIGALRM, lambda *_: os.write(1, b"alarm\n"))
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    return blocking("127.0.0.1", port)


def restarted(port: int) -> str:
    """The same where the kernel makes the call again."""
    signal.signal(signal.SIGALRM, lambda *_: None)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.siginterrupt(signal.SIGALRM, 0)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    threading.Timer(0.3, lambda: os.write(1, b"alarm\n")).start()
    s = socket.socket()
    address = struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton("127.0.0.1") + bytes(8)
    rc = libc.connect(s.fileno(), address, 16)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return s.recv(4).decode() if rc == 0 else errno.errorcode[ctypes.get_errno()]


def full_server() -> None:
    """Not a worker: a server that lets nobody in before it reads a line."""
    # With room for one that asks: for more than there is room the kernel keeps nothing of who asks, and may forget him.
    server = socket.create_server(("127.0.0.1", 0), backlog=1)
    mine = []
    while True:
        s = socket.socket()
        s.setblocking(False)
        s.connect_ex(server.getsockname())
        mine.append(s)
        if not select.select([], [s], [], 0.3)[1]:
            break
    print(server.getsockname()[1], flush=True)
    sys.stdin.readline()
    while True:
        client, _ = server.accept()
        client.sendall(b"pong")
        client.close()


hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (1024 if hard == resource.RLIM_INFINITY else min(1024, hard), hard))
if sys.argv[1] == "full_server":
    full_server()
else:
    print(json.dumps(globals()[sys.argv[1]](*json.loads(sys.argv[2]))), flush=True)
