"""A history by git, and a clone of it, with a hook and a shell in between."""

import os
import subprocess
import sys

who = {f"GIT_{role}_{what}": "it@example.com" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
environment = {**os.environ, **who}
first, second = (os.path.abspath(os.path.join(sys.argv[1], name)) for name in ("first", "second"))


def git(folder: str, *args: str) -> str:
    command = ["git", "-C", folder, *args]
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


git(sys.argv[1], "init", "-q", "-b", "main", first)
for name in ("one", "two"):
    subprocess.run(f"echo {name} > {name}", shell=True, cwd=first, check=True)
    git(first, "add", ".")
    git(first, "commit", "-q", "-m", f"Add {name}")
git(sys.argv[1], "clone", "-q", first, second)
print(git(second, "log", "--format=%s"), git(second, "status", "--short"), sep="", end="")
