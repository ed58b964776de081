"""Ways to a network that the worker may not have. The peer's servers answer a ping with pong, or write down what came
in.
"""

import asyncio
import ctypes
import errno
import fcntl
import http.client
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import urllib.request

from _attempt import (
    attempt,
    buffer,
    call,
    closing,
    in_child,
    libc,
    loaded,
    native,
    nonce,
    noticed,
    number,
    opened,
    pong,
    raw_address,
    tcp_address,
    Uring,
    vector,
    wait_readable,
    where,
)

FASTOPEN = 0x20000000


def patient() -> socket.socket:
    """Waits in the kernel, a second at most: Python's own timeouts make a socket that does not wait."""
    s = socket.socket()
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        s.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", 1, 0))
    return s


def udp_address() -> tuple[str, int]:
    return where["host"], where["udp"]


@attempt("must", against="network")
def tcp() -> bool:
    """A TCP connection to a server on this machine."""
    return pong(socket.socket(), tcp_address())


@attempt("must", against="network", needs="kernel")
def tcp6() -> bool:
    """The same by IPv6."""
    return pong(socket.socket(socket.AF_INET6), ("::1", where["tcp6"]))


@attempt("must", against="network", needs="kernel")
def tcp_mapped() -> bool:
    """An IPv4 address inside an IPv6 one."""
    return pong(socket.socket(socket.AF_INET6), ("::ffff:" + where["host"], where["tcp"]))


@attempt("must", against="network")
def tcp_without_waiting() -> bool:
    """A connection that is begun, not waited for, and looked at later."""
    with socket.socket() as s:
        s.setblocking(False)
        s.connect_ex(tcp_address())
        select.select([], [s], [], 1)
        s.send(b"ping")
        return wait_readable(s.fileno()) and s.recv(4) == b"pong"


@attempt("must", against="network", needs="kernel")
def tcp_fastopen() -> bool:
    """A connection inside of sendto, with no call of connect."""
    with patient() as s:
        s.sendto(b"ping", FASTOPEN, tcp_address())
        return s.recv(4) == b"pong"


@attempt("must", against="network", needs="kernel")
def tcp_fastopen_message() -> bool:
    """A connection inside of sendmsg, where a filter cannot see the address."""
    with patient() as s:
        s.sendmsg([b"ping"], [], FASTOPEN, tcp_address())
        return s.recv(4) == b"pong"


@attempt("must", against="network", needs="kernel")
def tcp_fastopen_option() -> bool:
    """TCP_FASTOPEN_CONNECT: a connection made by the first write."""
    s = socket.socket()
    s.setsockopt(socket.IPPROTO_TCP, 30, 1)
    return pong(s, tcp_address())


@attempt("must", against="network", needs="kernel")
def mptcp() -> bool:
    """Multipath TCP, another protocol of the same family."""
    return pong(socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262), tcp_address())


@attempt("must", against="network", needs="kernel")
def mptcp6() -> bool:
    """Multipath TCP by IPv6 to an IPv4 server."""
    return pong(socket.socket(socket.AF_INET6, socket.SOCK_STREAM, 262), ("::ffff:" + where["host"], where["tcp"]))


@attempt("must", against="network")
def tcp_from_a_port() -> bool:
    """A connection from a port that was bound before."""
    s = socket.socket()
    s.bind((where["host"], 0))
    return pong(s, tcp_address())


@attempt("must", against="network")
def tcp_again() -> bool:
    """A socket that was connected, dissolved (AF_UNSPEC) and connected again."""
    s = socket.socket()
    s.connect(tcp_address())
    call("connect", s.fileno(), buffer(bytes(16)), 16)
    return pong(s, tcp_address())


@attempt("must", against="network")
def udp() -> bool:
    """A datagram and its answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(1)
        s.sendto(b"ping", udp_address())
        return s.recv(4) == b"pong"


@attempt("must", against="network")
def udp_connected() -> bool:
    """A datagram socket that is connected first."""
    return pong(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), udp_address())


@attempt("must", against="network")
def udp_message() -> bool:
    """A datagram by sendmsg."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(1)
        s.sendmsg([b"pi", b"ng"], [], 0, udp_address())
        return s.recv(4) == b"pong"


@attempt("must", against="network")
def udp_messages() -> bool:
    """Datagrams by sendmmsg, which a filter for sendmsg forgets."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        address, data = buffer(raw_address(*udp_address())), buffer(b"ping", 4)
        parts = vector((ctypes.addressof(data), 4))
        header = struct.pack("QIxxxxQQQQi4xI4x", ctypes.addressof(address), 16, ctypes.addressof(parts), 1, 0, 0, 0, 0)
        call("sendmmsg", s.fileno(), buffer(header), 1, 0)
        s.settimeout(1)
        return s.recv(4) == b"pong"


@attempt("must", against="network", needs="kernel")
def udp_mapped() -> bool:
    """A datagram by IPv6 to an IPv4 server."""
    return pong(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM), ("::ffff:" + where["host"], where["udp"]))


@attempt("must", against="network", needs="kernel")
def udplite() -> bool:
    """UDP-Lite, a sister that rules for UDP and TCP do not name."""
    return pong(socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 136), udp_address())


@attempt("must", against="network")
def question_of_a_name() -> bool:
    """Data in a question to a name server."""
    label = nonce()
    question = b"\x13\x37\1\0\0\1\0\0\0\0\0\0" + bytes([len(label)]) + label.encode() + b"\4test\0\0\1\0\1"

    def ask() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.sendto(question, udp_address())

    return noticed(label, ask)


@attempt("must", against="network")
def web() -> bool:
    """urllib, with no proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{where['host']}:{where['tcp']}/", timeout=1) as answer:
        return answer.read() == b"pong"


@attempt("must", against="network")
def web_by_a_proxy() -> bool:
    """The peer named as a proxy for somewhere else."""
    proxy = urllib.request.ProxyHandler({"http": f"http://{where['host']}:{where['tcp']}"})
    with urllib.request.build_opener(proxy).open("http://somewhere.invalid/", timeout=1) as answer:
        return answer.read() == b"pong"


@attempt("must", against="network")
def web_by_hand() -> bool:
    """http.client."""
    connection = http.client.HTTPConnection(*tcp_address(), timeout=1)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read() == b"pong"
    finally:
        connection.close()


@attempt("must", against="network")
def from_an_event_loop() -> bool:
    """asyncio's own connections."""

    async def talk() -> bool:
        reader, writer = await asyncio.open_connection(*tcp_address())
        writer.write(b"ping")
        answer = await asyncio.wait_for(reader.readexactly(4), 1)
        writer.close()
        await writer.wait_closed()
        return answer == b"pong"

    return asyncio.run(talk())


@attempt("must", against="network")
def from_a_thread() -> bool:
    """A thread made for it: a filter that is not for all threads leaves it free."""
    got: list[bool] = []

    def talk() -> None:
        try:
            got.append(pong(socket.socket(), tcp_address()))
        except OSError:
            pass

    thread = threading.Thread(target=talk)
    thread.start()
    thread.join()
    return got == [True]


@attempt("must", against="network")
def listening() -> bool:
    """A server of one's own, that somebody calls."""
    with (
        socket.create_server((where["host"], 0)) as server,
        socket.create_connection(server.getsockname(), 1) as client,
    ):
        server.settimeout(1)
        accepted, _ = server.accept()
        with accepted:
            accepted.sendall(b"x")
        return client.recv(1) == b"x"


@attempt("must", against="network")
def listening_without_bind() -> bool:
    """listen binds by itself."""
    with socket.socket() as server:
        server.listen()
        return pong_of(server)


def pong_of(server: socket.socket) -> bool:
    with socket.create_connection((where["host"], server.getsockname()[1]), 1):
        server.settimeout(1)
        accepted, _ = server.accept()
        accepted.close()
    return True


@attempt("must", against="network")
def listening_to_datagrams() -> bool:
    """A bound datagram socket gets what is sent to it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind((where["host"], 0))
        s.settimeout(1)
        s.sendto(b"me", s.getsockname())
        return s.recv(2) == b"me"


@attempt("must", against="network privileges", needs="root")
def raw_icmp() -> bool:
    """A raw socket: an echo request of one's own."""
    packet = b"\x08\x00" + struct.pack("!H", 0xFFFF - 0x0800 - 0x1234 - 1) + struct.pack("!HH", 0x1234, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as s:
        s.settimeout(1)
        s.sendto(packet, (where["host"], 0))
        return len(s.recv(100)) >= 28


@attempt("must", against="network", needs="kernel")
def ping_socket() -> bool:
    """An ICMP datagram socket, for users whose group may."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as s:
        s.settimeout(1)
        s.sendto(b"\x08\x00\x00\x00\x00\x00\x00\x01", (where["host"], 0))
        return len(s.recv(100)) >= 8


@attempt("must", against="network privileges", needs="root")
def raw_packet_by_hand() -> bool:
    """IPPROTO_RAW: a UDP packet with a header of one's own."""
    text = nonce().encode()
    datagram = struct.pack("!HHHH", 4242, where["udp"], 8 + len(text), 0) + text
    host = socket.inet_aton(where["host"])
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 7, 0, 64, 17, 0) + host + host

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as s:
            s.sendto(header + datagram, (where["host"], 0))

    return noticed(text.decode(), send)


@attempt("must", against="network privileges", needs="root")
def sniffing() -> bool:
    """A packet socket sees what others send."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as s:
        s.bind(("lo", 0))
        if not pong(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), udp_address()):
            return False
        return wait_readable(s.fileno()) and len(s.recv(2000)) > 0


@attempt("must", against="network privileges", needs="root")
def frames() -> bool:
    """A packet socket sends frames of one's own."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as s:
        return s.sendto(b"x" * 40, ("lo", 0x88B5)) == 40


@attempt("should", against="network")
def interfaces_by_netlink() -> bool:
    """The machine's network interfaces, asked of the kernel."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) as s:
        s.settimeout(1)
        s.send(struct.pack("IHHII", 32, 18, 0x301, 1, 0) + bytes(16))
        return struct.unpack_from("IH", s.recv(65536))[1] == 16  # RTM_NEWLINK


@attempt("should", against="network", needs="kernel")
def connections_by_netlink() -> bool:
    """Every connection of the machine, by sock_diag."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as s:
        s.settimeout(1)
        s.send(struct.pack("IHHII", 72, 20, 0x301, 1, 0) + struct.pack("BBBxI", 2, 6, 0, 0xFFF) + bytes(48))
        return struct.unpack_from("IH", s.recv(65536))[1] == 20


@attempt("should", against="network", needs="kernel")
def news_of_devices() -> bool:
    """The kernel's messages about devices."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15) as s:
        s.bind((0, 1))
        return s.getsockname()[1] == 1


@attempt("must", against="network", needs="kernel")
def vsock() -> bool:
    """The socket between a virtual machine and its host, which no network namespace cuts off."""
    loaded("protocols", "AF_VSOCK")
    with socket.socket(40, socket.SOCK_STREAM) as s:
        s.bind((0xFFFFFFFF, 0xFFFFFFFF))
        s.listen()
        return s.getsockname()[1] > 0


@attempt("should", against="network", needs="kernel")
def any_other_family() -> bool:
    """Some family of sockets beyond the usual: old code, and modules loaded for the asking. Of a kind that there is
    not, so that none is loaded.
    """
    usual = {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET, 40}
    for family in range(2, 46):
        if family in usual:
            continue
        try:
            socket.socket(family, 15).close()
        except OSError as error:
            if error.errno != errno.EINVAL:
                continue
        return True
    return False


@attempt("must", against="network", needs="kernel")
def sctp() -> bool:
    """SCTP, which rules for TCP do not cover."""
    loaded("protocols", "SCTP")
    socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132).close()
    return True


@attempt("must", against="network")
def by_number() -> bool:
    """System calls by number instead of Python's socket."""
    with closing(call("socket", 2, 1, 0)) as s:
        call("connect", s, buffer(raw_address(*tcp_address())), 16)
        os.write(s, b"ping")
        return wait_readable(s) and os.read(s, 4) == b"pong"


@attempt("must", against="network")
def by_the_c_library() -> bool:
    """The C library's functions, called from here."""
    s = libc.socket(2, 1, 0)
    if s < 0:
        return False
    with closing(s):
        libc.connect(s, buffer(raw_address(*tcp_address())), 16)
        libc.send(s, b"ping", 4, 0)
        return wait_readable(s) and os.read(s, 4) == b"pong"


@attempt("must", against="network", needs="x86-64", alone=True)
def by_machine_code() -> bool:
    """A system call from machine code of our own: socket(AF_INET, SOCK_STREAM, 0)."""
    code = bytes.fromhex("b829000000bf02000000be0100000031d20f05c3")
    if os.uname().machine != "x86_64":
        return False
    s = native(code)
    return s >= 0 and pong(socket.socket(fileno=s), tcp_address())


@attempt("must", against="network", needs="x86-64 kernel", alone=True)
def by_32_bit_calls() -> bool:
    """int 0x80: other numbers for the same calls, and socketcall, which takes its arguments from memory."""
    if os.uname().machine != "x86_64":
        return False
    # rdi: number, rsi: first, rdx: second argument -> eax, ebx, ecx
    code = bytes.fromhex("5389f889f389d1cd8048985bc3")
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    low = libc.mmap(None, 4096, 3, 0x62, -1, 0)

    def socketcall(which: int, *args: int) -> int:
        data = struct.pack(f"{len(args)}I", *args)
        ctypes.memmove(low, data, len(data))
        return native(code, 102, which, low)

    s = socketcall(1, 2, 1, 0)
    if s < 0:
        return False
    ctypes.memmove(low + 512, raw_address(*tcp_address()), 16)
    if socketcall(3, s, low + 512, 16) != 0:
        return False
    return pong(socket.socket(fileno=s))


@attempt("must", against="network", needs="x86-64 kernel", alone=True)
def by_x32_calls() -> bool:
    """The x32 convention: the number has a bit more."""
    if os.uname().machine != "x86_64":
        return False
    return pong(socket.socket(fileno=call(0x40000000 | number("socket"), 2, 1, 0)), tcp_address())


@attempt("must", against="network", needs="kernel")
def by_io_uring() -> bool:
    """io_uring makes the socket and connects it."""
    with Uring() as ring:
        s = ring.submit(45, 2, offset=1)
        with closing(s):
            address = buffer(raw_address(*tcp_address()))
            ring.submit(16, s, offset=16, address=ctypes.addressof(address))
            os.write(s, b"ping")
            return wait_readable(s) and os.read(s, 4) == b"pong"


@attempt("must", against="network exec fork")
def by_another_python() -> bool:
    """A program that we start: what is denied must be inherited."""
    code = f"import socket; s = socket.create_connection({tcp_address()!r}, 1); s.sendall(b'ping'); print(s.recv(4))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=5).stdout == b"b'pong'\n"


@attempt("must", against="network fork")
def by_a_child() -> bool:
    """A forked child."""
    return in_child(lambda: pong(socket.socket(), tcp_address()))


@attempt("must", against="network exec fork", needs="service")
def by_a_shell() -> bool:
    """bash opens connections by itself."""
    code = f"exec 3<>/dev/tcp/{where['host']}/{where['tcp']}; printf ping >&3; head -c 4 <&3"
    return subprocess.run(["bash", "-c", code], capture_output=True, timeout=5).stdout == b"pong"


@attempt("must", against="network exec fork", needs="service")
def by_perl() -> bool:
    """Another language's sockets."""
    code = f"use Socket; socket(S,2,1,0)||die; connect(S,pack_sockaddr_in({where['tcp']},inet_aton('{where['host']}')))||die; syswrite(S,'ping'); sysread(S,$x,4); print $x"
    return subprocess.run(["perl", "-e", code], capture_output=True, timeout=5).stdout == b"pong"


@attempt("must", against="network others", needs="kernel")
def with_a_socket_of_the_peer() -> bool:
    """pidfd_getfd: a socket that another process has open."""
    with closing(os.pidfd_open(where["peer"]["pid"])) as pidfd:
        s = socket.socket(fileno=call("pidfd_getfd", pidfd, where["peer"]["socket"], 0))
    text = nonce()
    with s:
        return noticed(text, lambda: s.sendto(text.encode(), udp_address()))


@attempt("must", against="ipc")
def with_a_socket_that_was_handed_over() -> bool:
    """A server on a Unix socket hands over a network socket."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(1)
        s.connect(where["unix"])
        s.sendall(b"descriptor")
        _, fds, _, _ = socket.recv_fds(s, 10, 1)
    with socket.socket(fileno=fds[0]) as handed:
        text = nonce()
        return noticed(text, lambda: handed.sendto(text.encode(), udp_address()))


@attempt("must", against="network", needs="kernel", alone=True)
def in_a_namespace_of_its_own() -> bool:
    """A new network with all capabilities in it: raw sockets, packets, old code of the kernel."""
    call("unshare", 0x50000000)  # NEWUSER, NEWNET
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3):
        return True


@attempt("must", against="network privileges writing", needs="root kernel", alone=True)
def tunnel() -> bool:
    """A network interface whose packets we write: one of no kind, that is not made."""
    loaded("drivers", "tun")
    with opened("/dev/net/tun", os.O_RDWR) as fd:
        try:
            fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"escape%d", 0))
        except OSError as error:
            return error.errno == errno.EINVAL
        return True


@attempt("should", against="reading", needs="kernel")
def connections_by_proc() -> bool:
    """The machine's connections, as /proc lists them."""
    with open("/proc/net/tcp") as file:
        return f":{where['tcp']:04X} " in file.read()


@attempt("must", against="network")
def broadcast() -> bool:
    """A datagram to all on this machine's network."""
    text = nonce()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            s.sendto(text.encode(), ("0.0.0.0", where["udp"]))

    return noticed(text, send)


@attempt("must", against="network")
def file_by_sendfile() -> bool:
    """A file goes out without a read or a send."""
    text = nonce()
    path = os.memfd_create(text)
    with closing(path), socket.socket() as s:
        os.write(path, text.encode())
        s.connect(tcp_address())
        return noticed(text, lambda: os.sendfile(s.fileno(), path, 0, len(text)))
