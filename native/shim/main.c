/* ipcctl-shim: supervises one worker and outlives the daemon. See docs/internals/shim.md. */
#include "ipc.h"

#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "--version") == 0) {
		printf("ipcctl-shim %d\n", IPC_SHIM_VERSION);
		return 0;
	}
	if (argc == 2 && strcmp(argv[1], "--probe") == 0)
		return ipc_probe();
	if (argc == 3 && strcmp(argv[1], "--probe-owner") == 0)
		return ipc_idmap_probe(argv[2]);
	if (argc == 3 && strcmp(argv[1], "--run") == 0)
		return ipc_foreground(argv[2]);
	if (argc == 2 && argv[1][0] != '-')
		return ipc_supervise(argv[1]);
	fprintf(stderr, "usage: ipcctl-shim DIR | --run SPECFILE | --probe | --probe-owner PATH | --version\n");
	return 2;
}
