"""The rules of a worker's waiting in Python, driven by a script: outlook_peer.py PACKAGES. As native/fuzz/outlook_peer.c."""

import sys

sys.path.insert(0, sys.argv[1])
from ipcctl._outlook import Outlook  # noqa: E402

outlook = Outlook()
for line in sys.stdin:
    word, *rest = line.split()
    numbers = list(map(int, rest))
    decision = "-"
    if word == "rest":
        decision = ("sleep", "look", "part", "join")[outlook.rest(*numbers)]
    elif word == "found":
        outlook.find(bool(numbers[0]))
    elif word == "slept":
        outlook.wake(numbers[0])
    elif word == "from":
        outlook.client, outlook.taken = numbers
    else:
        outlook.miss()
    print(decision, outlook.skip, outlook.misses)
