"""A virtual environment in the scratch folder, and a package from an index into it."""

import os
import subprocess
import sys
import tempfile

folder = os.path.join(tempfile.gettempdir(), "environment")
subprocess.run([sys.executable, "-m", "venv", folder], check=True)
pip = os.path.join(folder, "bin/pip")
options = ["--quiet", "--disable-pip-version-check", "--no-cache-dir", "--index-url", sys.argv[1]]
subprocess.run([pip, "install", *options, "ipcctl-tiny"], check=True)
code = "import ipcctl_tiny, sys; print(ipcctl_tiny.answer(), sys.prefix != sys.base_prefix)"
subprocess.run([os.path.join(folder, "bin/python"), "-c", code], check=True)
