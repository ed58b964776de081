/* Small files written whole or not at all, and the clocks. */
#include "ipc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RESERVED_BYTES 1024

int ipc_record_reserve(int dirfd, const char *name)
{
	char temporary[32], blanks[RESERVED_BYTES];
	snprintf(temporary, sizeof temporary, "%s.tmp", name);
	memset(blanks, '\n', sizeof blanks);
	int fd = openat(dirfd, temporary, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	ssize_t count = write(fd, blanks, sizeof blanks);
	int rc = count == (ssize_t)sizeof blanks ? 0 : count < 0 ? -errno : -ENOSPC;
	close(fd);
	return rc;
}

int ipc_record_write(int dirfd, const char *name, const char *text, size_t size, bool is_durable)
{
	char temporary[32];
	snprintf(temporary, sizeof temporary, "%s.tmp", name);
	int fd = openat(dirfd, temporary, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	int rc = 0;
	/* Overwrites, and truncates only then: a reserved file keeps its room on a full disk. */
	ssize_t count = write(fd, text, size);
	if (count != (ssize_t)size)
		rc = count < 0 ? -errno : -ENOSPC;
	else if (ftruncate(fd, (off_t)size) != 0)
		rc = -errno;
	else if (is_durable && fsync(fd) != 0)
		rc = -errno;
	close(fd);
	if (rc == 0 && renameat(dirfd, temporary, dirfd, name) != 0)
		rc = -errno;
	if (rc == 0 && is_durable)
		fsync(dirfd);
	return rc;
}

void ipc_boot_id(char out[64])
{
	ipc_read_text(out, 64, "/proc/sys/kernel/random/boot_id");
	out[strcspn(out, "\n")] = 0;
}

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;
	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t ipc_now_ms(void)
{
	return clock_ns(CLOCK_MONOTONIC) / 1000000u;
}
uint64_t ipc_realtime_ns(void)
{
	return clock_ns(CLOCK_REALTIME);
}
uint64_t ipc_boottime_ns(void)
{
	return clock_ns(CLOCK_BOOTTIME);
}
