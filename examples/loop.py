"""A plain loop that was never written for a process manager: counts, prints, sleeps."""

import itertools
import time

for count in itertools.count():
    print(f"tick {count}", flush=True)
    time.sleep(1)
