/* What a shim does between fork and exec, for a process that was forked from a snapshot and does not exec. A library
 * for the zygote (python/run/zygote.py), built from the shim's own sources. */
#ifndef IPC_BECOME_H
#define IPC_BECOME_H

#include <stdint.h>

/*
 * In a child of the zygote: waits on `listener` until a shim asks for it (or for a connection of that kind that is
 * there already; else -1) and becomes what the specification says. `parent`, a SEQPACKET socket, hears of it: l, with
 * the connection   somebody asks m, u32                   he wants other namespaces than those that were entered ahead
 * of time: another child has to take the connection k, u32                   he gets this one; the namespaces that he
 * wants and the end of it as soon as the worker is locked down. The parent has to answer y if what is imported is still
 * what is installed, and tells him who we are. `namespaces` are entered ahead of time. 1 if there is a control
 * descriptor, else 0; does not return if it fails. Everything but stdio, control and plane is closed afterwards.
 */
int ipcctl_become(int listener, int parent, int connection, uint32_t namespaces);
/* Arguments (0) or variables (1) of what the process has become; NULL before. */
char **ipcctl_words(int kind);

#endif
