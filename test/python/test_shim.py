"""Requests to a shim, by the cases that test/unit/shim-messages.test.ts reads too."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
import unittest

import support  # noqa: F401
from ipcctl import _contract
from ipcctl._end import ShimDoor

VECTORS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "vectors", "shim.json")


class Requests(unittest.TestCase):
    def test_a_client_sends_the_same_bytes_and_reads_the_replies(self) -> None:
        with open(VECTORS, encoding="utf-8") as file:
            vectors = json.load(file)
        wanted = {case["ask"][0]: bytes.fromhex(case["bytes"]) for case in vectors["requests"] if "ask" in case}
        state = bytes.fromhex(vectors["replies"][0]["bytes"])
        ok = [bytes((2, 0, 0, 0, _contract.REPLY_OK, number)) for number in (39, 41)]
        with tempfile.TemporaryDirectory(prefix="ipcctl-shim-") as folder:
            path = os.path.join(folder, "sock")
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                listener.listen()
                with ShimDoor(path, "it", time.monotonic() + 30) as door:
                    peer, _ = listener.accept()
                    with peer:
                        peer.sendall(state + ok[0] + ok[1])
                        self.assertEqual(door.hello(), (2, True))
                        self.assertEqual(door.ask(_contract.REQUEST_WAKE), 0)
                        self.assertEqual(door.ask(_contract.REQUEST_OWN), 0)
                        self.assertEqual(peer.recv(100), wanted["hello"] + wanted["wake"] + wanted["own"])


if __name__ == "__main__":
    unittest.main()
