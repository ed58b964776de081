"""Starts confined programs from a template as any program could: nothing but the template's JSON, the shim, and what
Python has.

from_template.py TEMPLATE CWD SCRATCH NAME=VALUE... -- ARGUMENTS... ends as the program does.
"""

import base64
import json
import os
import struct
import sys
import tempfile


def first_difference(facts):
    """What the template was made for, and is another now; None where it may be used."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        if file.read().strip() != facts["boot_id"]:
            return "boot_id"
    with open("/proc/self/status") as file:
        status = dict(line.rstrip("\n").split(":", 1) for line in file)
    for name, value in facts["status"].items():
        if status.get(name, "").strip() != value:
            return name
    if (os.getuid(), os.getgid()) != (facts["uid"], facts["gid"]):
        return "uid"
    if os.readlink("/proc/self/ns/user") != facts["user_namespace"]:
        return "user_namespace"
    for file in facts["files"]:
        found = os.stat(file["path"])
        if (found.st_size, found.st_mtime_ns) != (file["bytes"], int(file["mtime_ns"])):
            return file["path"]
    return None


def specification(template, holes, arguments, variables):
    """Bytes of the start specification."""
    out = []

    def frame(kind, payload):
        out.append(struct.pack("<IB", len(payload) + 1, kind) + payload)

    def part(one):
        if "bytes" in one:
            return base64.b64decode(one["bytes"])
        value = os.fsencode(holes[one["hole"]])
        return struct.pack("<H", len(value)) if one.get("as") == "length" else value

    for one in template["frames"]:
        lists = {"argv": arguments, "env": variables}
        hole = one["parts"][0].get("hole") if one["parts"] else None
        if hole in lists:
            for value in lists[hole]:
                frame(one["type"], os.fsencode(value))
        else:
            frame(one["type"], b"".join(part(piece) for piece in one["parts"]))
    return b"".join(out)


def main():
    path, cwd, scratch, *rest = sys.argv[1:]
    variables, arguments = rest[: rest.index("--")], rest[rest.index("--") + 1 :]
    with open(path) as file:
        template = json.load(file)
    different = first_difference(template["facts"])
    if different is not None:
        sys.exit(f"the template is of another machine or version: {different}")
    folder = tempfile.mkdtemp()
    with open(f"{folder}/spec", "wb") as file:
        file.write(specification(template, {"cwd": cwd, "scratch": scratch}, arguments, variables))
    os.execv(template["facts"]["shim"]["path"], ["ipcctl-shim", "--run", f"{folder}/spec"])


main()
