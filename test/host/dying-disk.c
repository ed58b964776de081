/*
 * Preloaded into a process that is to be killed at one of its changes to the disk: the one with the number
 * DIE_AT, counted from 1. Of what is written half arrives. Only files below DIE_BELOW count. With DIE_MADE the
 * change is made, and nothing that comes after it. SQLite does not go through node:fs, which dying-fs.ts stands for.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static long changes;

static int below(const char *path) {
  const char *folder = getenv("DIE_BELOW");
  return folder != NULL && strncmp(path, folder, strlen(folder)) == 0;
}

static int of_interest(int fd) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return below(path);
}

static int is_last(void) {
  const char *at = getenv("DIE_AT");
  changes++;
  return at != NULL && changes == atol(at);
}

static int is_made(void) { return getenv("DIE_MADE") != NULL; }

static void die(void) {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define WRITES(name, offset_type)                                                      \
  ssize_t name(int fd, const void *bytes, size_t count, offset_type offset) {          \
    if (!of_interest(fd) || !is_last()) return REAL(name)(fd, bytes, count, offset);   \
    REAL(name)(fd, bytes, is_made() ? count : count / 2, offset);                      \
    die();                                                                             \
    return -1;                                                                         \
  }
WRITES(pwrite, off_t)
WRITES(pwrite64, off64_t)

ssize_t write(int fd, const void *bytes, size_t count) {
  if (!of_interest(fd) || !is_last()) return REAL(write)(fd, bytes, count);
  REAL(write)(fd, bytes, is_made() ? count : count / 2);
  die();
  return -1;
}

#define TRUNCATES(name, offset_type)                             \
  int name(int fd, offset_type length) {                         \
    if (!of_interest(fd) || !is_last()) return REAL(name)(fd, length); \
    if (is_made()) REAL(name)(fd, length);                       \
    die();                                                       \
    return -1;                                                   \
  }
TRUNCATES(ftruncate, off_t)
TRUNCATES(ftruncate64, off64_t)

int unlink(const char *path) {
  if (!below(path) || !is_last()) return REAL(unlink)(path);
  if (is_made()) REAL(unlink)(path);
  die();
  return -1;
}

#define OPENS(name)                                                                  \
  int name(const char *path, int flags, ...) {                                       \
    va_list list;                                                                    \
    va_start(list, flags);                                                           \
    mode_t mode = flags & O_CREAT ? va_arg(list, mode_t) : 0;                        \
    va_end(list);                                                                    \
    int is_new = (flags & O_CREAT) && below(path) && access(path, F_OK) != 0;        \
    if (!is_new || !is_last()) return REAL(name)(path, flags, mode);                 \
    if (is_made()) REAL(name)(path, flags, mode);                                    \
    die();                                                                           \
    return -1;                                                                       \
  }
OPENS(open)
OPENS(open64)
