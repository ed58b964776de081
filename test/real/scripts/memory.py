"""Shared memory, which Python has looked after by another Python."""

import multiprocessing.shared_memory

memory = multiprocessing.shared_memory.SharedMemory(create=True, size=8)
memory.buf[:5] = b"bytes"
same = multiprocessing.shared_memory.SharedMemory(memory.name)
print(bytes(same.buf[:5]))
same.close()
memory.close()
memory.unlink()
