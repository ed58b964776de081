#include "cores.h"

#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define METER_NS 40000000
/* Seconds between two readings after which their difference is out of date. */
#define SPAN_MAX 10.0
/* Idle time of all cores together, as a fraction of one core. */
#define IDLE_LEAST 0.25
#define BUSY_MOST 0.1

uint32_t ipc_core(void)
{
	int core = sched_getcpu();
	return core < 0 ? 0 : (uint32_t)core + 1;
}

uint32_t ipc_cores(void)
{
	cpu_set_t allowed;
	return sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? (uint32_t)CPU_COUNT(&allowed) : CPU_SETSIZE;
}

/* Reads a small text file of the kernel; returns whether it exists. */
static int read_text(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	ssize_t got = read(fd, text, size - 1);
	close(fd);
	text[got < 0 ? 0 : got] = 0;
	return got > 0;
}

/* "0-3,8" */
static int read_online(cpu_set_t *set)
{
	char text[512], *at = text;
	if (!read_text("/sys/devices/system/cpu/online", text, sizeof text))
		return 0;
	CPU_ZERO(set);
	for (;;) {
		char *end;
		unsigned long first = strtoul(at, &end, 10), last = first;
		if (end == at)
			return 0;
		if (*end == '-')
			last = strtoul(end + 1, &end, 10);
		for (; first <= last && first < CPU_SETSIZE; first++)
			CPU_SET(first, set);
		if (*end != ',')
			return *end == '\n';
		at = end + 1;
	}
}

/* Onto one of these for a moment: the kernel moves the thread at once, and has no reason to move it back. */
static int move(const cpu_set_t *to)
{
	cpu_set_t all;
	if (sched_setaffinity(0, sizeof *to, to) != 0)
		return 0;
	/* More cores than are online: a mask of exactly these would not grow with the thread's cpuset, or with the
	 * machine. */
	memset(&all, 0xff, sizeof all);
	sched_setaffinity(0, sizeof all, &all);
	return 1;
}

static int is_free(cpu_set_t *allowed)
{
	cpu_set_t online;
	return sched_getaffinity(0, sizeof *allowed, allowed) == 0 && CPU_COUNT(allowed) > 1 && read_online(&online)
	       && CPU_EQUAL(allowed, &online);
}

int ipc_core_leave(void)
{
	cpu_set_t set;
	int core = sched_getcpu();
	if (core < 0 || core >= CPU_SETSIZE || !is_free(&set))
		return 0;
	CPU_CLR(core, &set);
	return move(&set);
}

int ipc_core_join(uint32_t core)
{
	cpu_set_t set;
	if (core == 0 || core > CPU_SETSIZE || core == ipc_core() || !is_free(&set) || !CPU_ISSET(core - 1, &set))
		return 0;
	CPU_ZERO(&set);
	CPU_SET(core - 1, &set);
	return move(&set);
}

enum ipc_load ipc_load(struct ipc_load_meter *meter, int64_t now_ns)
{
	char text[64], *at;
	if (meter->read_ns != 0 && now_ns - meter->read_ns < METER_NS)
		return meter->load;
	meter->read_ns = now_ns;
	if (!read_text("/proc/uptime", text, sizeof text))
		return meter->load = IPC_LOAD_UNKNOWN;
	double up = strtod(text, &at), idle = strtod(at, NULL), span = up - meter->up,
	       part = (idle - meter->idle) / span;
	meter->load = !(span > 0 && span < SPAN_MAX) ? IPC_LOAD_UNKNOWN
		      : part > IDLE_LEAST            ? IPC_LOAD_IDLE
		      : part < BUSY_MOST             ? IPC_LOAD_BUSY
						     : IPC_LOAD_UNKNOWN;
	meter->up = up;
	meter->idle = idle;
	return meter->load;
}
