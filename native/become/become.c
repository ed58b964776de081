#include "become.h"
#include "../shim/ipc.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct ipc_spec spec;

__attribute__((visibility("default"))) const void *ipcctl_read(const uint8_t *bytes, size_t size)
{
	return ipc_spec_parse(bytes, size, 0, &spec) == 0 ? &spec : NULL;
}

__attribute__((visibility("default"))) size_t ipcctl_words(int kind, char *room, size_t size)
{
	char *cwd[] = { (char *)(uintptr_t)spec.cwd, NULL };
	char **words = kind == 0 ? spec.argv : kind == 1 ? spec.envp : cwd;
	size_t used = 1;
	for (; words != NULL && *words != NULL; words++) {
		size_t length = strlen(*words) + 1;
		if (used + length <= size)
			memcpy(room + used - 1, *words, length);
		used += length;
	}
	if (used <= size)
		room[used - 1] = 0;
	return used;
}

__attribute__((visibility("default"))) int ipcctl_become(const struct become *what)
{
	struct ipc_child_fds fds = { what->in, what->out, what->err, what->control, what->gate, what->report, what->plane, -1 };
	int rc = ipc_child_become(&spec, &fds, what->parent);
	if (rc != 0)
		return rc;
	syscall(SYS_close_range, 3u, IPC_CONTROL_FD - 1u, 0u);
	syscall(SYS_close_range, IPC_PLANE_FD + 1u, ~0u, 0u);
	if (what->control < 0)
		close(IPC_CONTROL_FD);
	if (what->plane < 0)
		close(IPC_PLANE_FD);
	return 0;
}
