/*
 * What a shim does between fork and exec, for a process that was forked from a snapshot and does not exec. A library for the zygote
 * (python/run/zygote.py), made of the shim's own sources.
 */
#ifndef IPC_BECOME_H
#define IPC_BECOME_H

#include <stddef.h>
#include <stdint.h>

/* Descriptors, -1 where there is none, and the pid of the shim. */
struct become { int in, out, err, report, gate, control, plane, parent; };

/* Not NULL if the bytes are a specification; it is kept. */
const void *ipcctl_read(const uint8_t *bytes, size_t size);
/* Arguments (0), variables (1) or the working directory (2), each with an ending NUL, and one more. Returns how much room they need. */
size_t ipcctl_words(int kind, char *room, size_t size);
/* 0, or an errno that the shim has been told. Everything but stdio, control and plane is closed afterwards. */
int ipcctl_become(const struct become *what);

#endif
