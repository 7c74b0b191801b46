/* Lets system calls on files of one folder fail: LD_PRELOAD it with

       FAIL_UNDER   the folder
       FAIL_CALL    the name of the call
       FAIL_ERRNO   with which number
       FAIL_EVERY   1 for each call, 3 for every third
       FAIL_WHILE   a file: no call fails any more once it is gone
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_uint calls;

static int is_under(const char *path) {
    const char *folder = getenv("FAIL_UNDER");
    return folder && path && strncmp(path, folder, strlen(folder)) == 0;
}

static int is_due(const char *name) {
    const char *call = getenv("FAIL_CALL"), *until = getenv("FAIL_WHILE");
    if (!call || strcmp(call, name) || !until || faccessat(AT_FDCWD, until, F_OK, 0))
        return 0;
    return (atomic_fetch_add(&calls, 1) + 1) % (unsigned)atoi(getenv("FAIL_EVERY")) == 0;
}

static int fails_at(const char *name, const char *path) {
    if (!is_under(path) || !is_due(name))
        return 0;
    errno = atoi(getenv("FAIL_ERRNO"));
    return 1;
}

static int fails_on(const char *name, int descriptor) {
    char link[64], path[PATH_MAX];
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = before;
    if (length < 0)
        return 0;
    path[length] = 0;
    return fails_at(name, path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                                        \
    int name(const char *path, int flags, ...) {                          \
        va_list rest;                                                     \
        va_start(rest, flags);                                            \
        mode_t mode = va_arg(rest, mode_t);                               \
        va_end(rest);                                                     \
        return fails_at("open", path) ? -1 : REAL(name)(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                             \
    int name(int folder, const char *path, int flags, ...) {                     \
        va_list rest;                                                            \
        va_start(rest, flags);                                                   \
        mode_t mode = va_arg(rest, mode_t);                                      \
        va_end(rest);                                                            \
        return fails_at("open", path) ? -1 : REAL(name)(folder, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

#define ON(type, name, as, parameters, given) \
    type name parameters { return fails_on(as, descriptor) ? -1 : REAL(name) given; }
ON(ssize_t, write, "write", (int descriptor, const void *buffer, size_t size), (descriptor, buffer, size))
ON(ssize_t, pwrite, "write", (int descriptor, const void *buffer, size_t size, off_t at), (descriptor, buffer, size, at))
ON(ssize_t, pwrite64, "write", (int descriptor, const void *buffer, size_t size, off64_t at), (descriptor, buffer, size, at))
ON(ssize_t, read, "read", (int descriptor, void *buffer, size_t size), (descriptor, buffer, size))
ON(ssize_t, pread, "read", (int descriptor, void *buffer, size_t size, off_t at), (descriptor, buffer, size, at))
ON(ssize_t, pread64, "read", (int descriptor, void *buffer, size_t size, off64_t at), (descriptor, buffer, size, at))
ON(int, fsync, "fsync", (int descriptor), (descriptor))
ON(int, fdatasync, "fsync", (int descriptor), (descriptor))
ON(int, ftruncate, "ftruncate", (int descriptor, off_t size), (descriptor, size))
ON(int, ftruncate64, "ftruncate", (int descriptor, off64_t size), (descriptor, size))
ON(int, flock, "flock", (int descriptor, int operation), (descriptor, operation))

ON(off_t, lseek, "seek", (int descriptor, off_t at, int from), (descriptor, at, from))
ON(off64_t, lseek64, "seek", (int descriptor, off64_t at, int from), (descriptor, at, from))
ON(int, fstat, "stat", (int descriptor, struct stat *found), (descriptor, found))
ON(int, fstat64, "stat", (int descriptor, struct stat64 *found), (descriptor, found))

int stat(const char *path, struct stat *found) { return fails_at("stat", path) ? -1 : REAL(stat)(path, found); }
int stat64(const char *path, struct stat64 *found) { return fails_at("stat", path) ? -1 : REAL(stat64)(path, found); }
int lstat(const char *path, struct stat *found) { return fails_at("stat", path) ? -1 : REAL(lstat)(path, found); }
int lstat64(const char *path, struct stat64 *found) { return fails_at("stat", path) ? -1 : REAL(lstat64)(path, found); }

#define FCNTL(name)                                                     \
    int name(int descriptor, int command, ...) {                        \
        va_list rest;                                                   \
        va_start(rest, command);                                        \
        void *argument = va_arg(rest, void *);                          \
        va_end(rest);                                                   \
        int locks = command == F_SETLK || command == F_OFD_SETLK;       \
        if (locks && fails_on("lock", descriptor))                      \
            return -1;                                                  \
        return REAL(name)(descriptor, command, argument);               \
    }
FCNTL(fcntl)
FCNTL(fcntl64)

int rename(const char *from, const char *to) { return fails_at("rename", to) ? -1 : REAL(rename)(from, to); }
int link(const char *from, const char *to) { return fails_at("link", to) ? -1 : REAL(link)(from, to); }
int unlink(const char *path) { return fails_at("unlink", path) ? -1 : REAL(unlink)(path); }
int mkdir(const char *path, mode_t mode) { return fails_at("mkdir", path) ? -1 : REAL(mkdir)(path, mode); }
