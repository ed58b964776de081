"""What makes, copies and packs files keeps their modes and times: in the scratch folder and in one that is granted."""

import os
import shutil
import sys
import tarfile
import tempfile

for folder in (tempfile.gettempdir(), sys.argv[1]):
    where = os.path.join(folder, "files")
    os.makedirs(where)
    tool = os.path.join(where, "tool")
    with open(tool, "w") as file:
        file.write("#!/bin/sh\n")
    os.chmod(tool, 0o750)
    os.utime(tool, (1e9, 1e9))
    shutil.copytree(where, where + ".copy")
    with tarfile.open(where + ".tar", "w") as archive:
        archive.add(where, "packed")
    with tarfile.open(where + ".tar") as archive:
        archive.extractall(folder)
    for name in ("files.copy/tool", "packed/tool"):
        status = os.stat(os.path.join(folder, name))
        print(f"{status.st_mode & 0o777:o}", int(status.st_mtime))
