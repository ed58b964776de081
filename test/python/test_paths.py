"""Where the socket of the daemon is, by the cases that test/unit/paths.test.ts reads too."""

from __future__ import annotations

import json
import os
import tempfile
import unittest
from unittest import mock

import support  # noqa: F401
from ipcctl import IpcError
from ipcctl._client import socket_path

VECTORS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "vectors", "paths.json")


class Paths(unittest.TestCase):
    def test_each_environment_leads_to_the_same_socket_as_on_the_command_line(self) -> None:
        with open(VECTORS, encoding="utf-8") as file:
            cases = json.load(file)
        self.assertGreater(len(cases), 30)
        with tempfile.TemporaryDirectory(prefix="ipcctl-paths-") as parent:
            folder = os.path.join(parent, "ipcctl")
            os.mkdir(folder)
            config = os.path.join(folder, "config.json")

            def placed(text: str) -> str:
                return text.replace("$DIR", folder).replace("$PARENT", parent)

            for case in cases:
                with self.subTest(case=case):
                    if os.path.exists(config):
                        os.unlink(config)
                    if "config" in case:
                        with open(config, "w", encoding="utf-8") as file:
                            file.write(case["config"])
                    env = {name: placed(value) for name, value in case["env"].items()}
                    with (
                        mock.patch.dict(os.environ, env, clear=True),
                        mock.patch.object(os, "getuid", lambda uid=case["uid"]: uid),
                    ):
                        try:
                            found = socket_path(None)
                        except IpcError as error:
                            found = f"error {error.code}"
                    self.assertEqual(found, f"error {case['error']}" if "error" in case else placed(case["socket"]))


if __name__ == "__main__":
    unittest.main()
