"""The rules of a worker's waiting in Python, driven by a script: busy_poll_peer.py PACKAGES. As
native/fuzz/busy_poll_peer.c.
"""

import sys

sys.path.insert(0, sys.argv[1])
from ipcctl._busy_poll import BusyPoll

busy_poll = BusyPoll()
for line in sys.stdin:
    word, *rest = line.split()
    numbers = list(map(int, rest))
    decision = "-"
    if word == "rest":
        decision = ("sleep", "look", "part", "join")[busy_poll.rest(*numbers)]
    elif word == "found":
        busy_poll.find(bool(numbers[0]))
    elif word == "slept":
        busy_poll.wake(numbers[0])
    elif word == "from":
        busy_poll.client, busy_poll.taken = numbers
    else:
        busy_poll.miss()
    print(decision, busy_poll.skip, busy_poll.misses)
