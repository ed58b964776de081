"""What an ordinary worker does, and must be able to do under every policy that only takes network and writing away."""

import asyncio
import ctypes
import hashlib
import json
import os
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import threading
import zipfile

assert open(__file__).read()
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "x")
    with open(path, "w") as file:
        file.write("x" * 1000)
    os.rename(path, path + "2")
    with zipfile.ZipFile(os.path.join(folder, "z.zip"), "w") as archive:
        archive.write(path + "2")
    base = sqlite3.connect(os.path.join(folder, "db"))
    base.execute("create table t(x)")
    base.close()
thread = threading.Thread(target=lambda: None)
thread.start()
thread.join()
assert asyncio.run(asyncio.sleep(0, 7)) == 7
ssl.create_default_context()
hashlib.sha256(b"x")
if "alone" not in sys.argv:
    assert subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True).stdout == b"1\n"
assert ctypes.CDLL(None).getpid() == os.getpid()
open(os.devnull, "w").write("x")
print(json.dumps("benign"))
