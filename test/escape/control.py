"""Runs the attempts and prints which get through: without a sandbox (where all should, or they prove nothing), or
under a policy.

    control.py [--uid N] [--policy NAME] [--family NAME] [--all] [names …]

Without a policy it prints what FAILS, and why; under one what GETS THROUGH, and what was done to the peer. --all prints
every attempt.
"""

import argparse
import atexit
import json
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
PYTHON = "/usr/bin/python3"
TOKEN = "not for the worker"

options = argparse.ArgumentParser()
options.add_argument("--uid", type=int)
options.add_argument("--policy")
options.add_argument("--family")
options.add_argument(
    "--denies", default="", help="tags, with commas: of what gets through, only what is against one of these"
)
options.add_argument("--all", action="store_true")
options.add_argument("names", nargs="*")
asked = options.parse_args()

base = tempfile.mkdtemp(prefix="ipcctl-escape-", dir="/tmp")
os.chmod(base, 0o755)
atexit.register(shutil.rmtree, base, ignore_errors=True)
for name in ("attempts.py", "attempts", "peer.py"):  # where another user can read them
    source = os.path.join(HERE, name)
    shutil.copytree(source, os.path.join(base, name)) if os.path.isdir(source) else shutil.copy(source, base)
target = os.path.join(base, "target")
os.mkdir(target)
home = os.path.join(base, "home")
if asked.uid is not None:
    os.chown(target, asked.uid, asked.uid)
# A parent in between whose environment has the token as well.
PARENT = ["/bin/sh", "-c", '"$@"; exit $?', "sh"]
as_user = [] if asked.uid is None else ["setpriv", f"--reuid={asked.uid}", f"--regid={asked.uid}", "--clear-groups"]
environment = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/",
    "IPCCTL_HOME": home,
    "ESCAPE_SECRET_TOKEN": TOKEN,
    "SSH_AUTH_SOCK": "/run/agent",
    "NO_COLOR": "1",
}
peer = subprocess.Popen(
    [*as_user, PYTHON, os.path.join(base, "peer.py"), target, os.path.join(ROOT, "bin/ipcctl")],
    stdin=-1,
    stdout=-1,
    text=True,
)
where = json.loads(peer.stdout.readline())
if asked.policy:
    where["scratch"] = ""  # the worker's own
else:
    where["is_control"] = True
script = os.path.join(base, "attempts.py")


def command(arguments: list[str]) -> list[str]:
    if not asked.policy:
        return [*as_user, *PARENT, PYTHON, script, *arguments]
    user = [] if asked.uid is None else ["--uid", str(asked.uid), "--gid", str(asked.uid)]
    return [
        os.path.join(ROOT, "bin/ipcctl"),
        "run",
        "--policy",
        asked.policy,
        *user,
        "--interpreter",
        PYTHON,
        script,
        "--",
        *arguments,
    ]


def once(names: list[str]) -> dict[str, dict]:
    """What came of each; of those after one that killed the process: nothing."""
    leaks = [os.open("/", os.O_RDONLY), os.open(where["secret"], os.O_RDONLY)]
    arguments = [json.dumps(where), ",".join(names)]
    try:
        done = subprocess.run(
            command(arguments),
            capture_output=True,
            pass_fds=leaks,
            env=environment,
            cwd=base,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )
        out, err, status = done.stdout, done.stderr, done.returncode
    except subprocess.TimeoutExpired as error:
        out, err, status = error.stdout or b"", b"", "too long"
    finally:
        for fd in leaks:
            os.close(fd)
    found: dict[str, dict] = {}
    for line in out.decode(errors="replace").splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            continue
        name = said.get("begin") or said.get("end")
        found[name] = {"escaped": False, "why": f"died: {status} {err.decode()[-300:]}"} if "begin" in said else said
    if not found:
        raise SystemExit(f"nothing ran: {names} {status} {err.decode()}")
    return found


def run(names: list[str]) -> dict[str, dict]:
    found: dict[str, dict] = {}
    while left := [name for name in names if name not in found]:
        found.update(once(left))
    return found


rows = json.loads(subprocess.run([PYTHON, script, "{}", "--list"], stdout=-1, check=True).stdout)
rows = [
    row for row in rows if (not asked.names or row["name"] in asked.names) and asked.family in (None, row["family"])
]
shared, alone = ([row["name"] for row in rows if row["alone"] is kind] for kind in (False, True))
results = run(shared) if shared else {}
with ThreadPoolExecutor(3) as pool:
    for found in pool.map(run, [[name] for name in alone]):
        results.update(found)

denied = set(asked.denies.split(",")) - {""}
for row in rows:
    if denied and not denied & set(row["against"]):
        continue
    one = results[row["name"]]
    if asked.all or one["escaped"] is bool(asked.policy) or one.get("left"):
        word = "through" if one["escaped"] else "denied "
        print(
            f"{word} {row['level']:6} {row['family']}.{row['name']} against={','.join(row['against'])} needs={','.join(row['needs'])} {one.get('ms', '')} {one.get('why', '')} {one.get('left', '')}"
        )
got = sum(one["escaped"] for one in results.values())
print(f"{asked.policy or 'no sandbox'} as {asked.uid or os.getuid()}: {got} of {len(results)} got through")
peer.stdin.write("state\n")
peer.stdin.flush()
done = peer.stdout.readline()
print("the peer:", done[:4000] or "gone")
peer.stdin.close()
try:
    peer.wait(5)
except subprocess.TimeoutExpired:
    peer.kill()
if asked.policy:
    subprocess.run([os.path.join(ROOT, "bin/ipcctl"), "daemon", "stop"], env=environment, stdout=-1, stderr=-1)
