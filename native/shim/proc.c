/* Reads facts about a process from /proc. A process that is gone has none. */
#include "proc.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

size_t ipc_read_text(char *text, size_t size, const char *format, ...)
{
	char path[64];
	va_list args;
	va_start(args, format);
	vsnprintf(path, sizeof path, format, args);
	va_end(args);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t count = fd < 0 ? 0 : read(fd, text, size - 1);
	if (fd >= 0)
		close(fd);
	text[count > 0 ? count : 0] = 0;
	return count > 0 ? (size_t)count : 0;
}

bool ipc_process_read(pid_t pid, struct ipc_process *process)
{
	char text[1024];
	ipc_read_text(text, sizeof text, "/proc/%d/stat", (int)pid);
	const char *at = strrchr(text, ')'); /* behind the name, which may contain anything */
	int parent;
	unsigned long user, kernel;
	unsigned long long start_time;
	char state;
	if (at == NULL
		|| sscanf(at, ") %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %*d %*d %*d %*d %*d %*d %llu",
			   &state, &parent, &user, &kernel, &start_time)
			   != 5)
		return false;
	*process = (struct ipc_process){ state, parent, user + kernel, start_time };
	return true;
}

bool ipc_process_start_time(pid_t pid, uint64_t *start_time)
{
	struct ipc_process process;
	if (!ipc_process_read(pid, &process))
		return false;
	*start_time = process.start_time;
	return true;
}

bool ipc_process_is_shim(pid_t pid)
{
	char path[64], target[4096];
	snprintf(path, sizeof path, "/proc/%d/exe", (int)pid);
	ssize_t size = readlink(path, target, sizeof target - 1);
	if (size < 0)
		return false;
	target[size] = 0;
	const char *name = strrchr(target, '/');
	return name != NULL && (strcmp(name, "/ipcctl-shim") == 0 || strcmp(name, "/ipcctl-shim (deleted)") == 0);
}

/* Line by line: a process may be in more groups than any buffer has room for. */
bool ipc_process_status(pid_t pid, struct ipc_process_status *status)
{
	char path[64], line[1024];
	*status = (struct ipc_process_status){ 0 };
	snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
	FILE *file = fopen(path, "re");
	if (file == NULL)
		return false;
	bool is_there = false;
	while (fgets(line, sizeof line, file) != NULL) {
		unsigned long long switches = 0;
		is_there = true;
		sscanf(line, "NoNewPrivs: %llu", &status->no_new_privs);
		sscanf(line, "Seccomp: %llu", &status->seccomp);
		sscanf(line, "Seccomp_filters: %llu", &status->filters);
		sscanf(line, "SigCgt: %llx", &status->caught);
		if (sscanf(line, "voluntary_ctxt_switches: %llu", &switches) == 1
			|| sscanf(line, "nonvoluntary_ctxt_switches: %llu", &switches) == 1)
			status->switches += switches;
	}
	fclose(file);
	return is_there;
}
