"""A job that crashes now and then, to watch restarts and backoff."""

import random
import time

for step in range(1, 1000):
    time.sleep(0.5)
    if random.random() < 0.2:
        raise RuntimeError(f"step {step} went wrong")
    print(f"step {step} done", flush=True)
