/* Records what a process does to the files below TRACE_ROOT, in order, into the file TRACE_OUT.
 * Preloaded. One lock is held over each call and its record, so that the order is the real one.
 *
 * TRACE_DEAF_DB:        fdatasync of a file named "db" is recorded as nothing (a store without it).
 * TRACE_FAIL_DB_AFTER:  the fdatasync of a file named "db" after that many fails with EIO.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int out = -1;
static const char *root;
static char *paths[4096];
static long syncs_left = -1;
static int deaf;

__attribute__((constructor)) static void start(void) {
    root = getenv("TRACE_ROOT");
    const char *to = getenv("TRACE_OUT"), *left = getenv("TRACE_FAIL_DB_AFTER");
    if (to) out = syscall(SYS_openat, AT_FDCWD, to, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
    if (left) syncs_left = atol(left);
    deaf = getenv("TRACE_DEAF_DB") != NULL;
}

static int ours(const char *path) { return root && path && !strncmp(path, root, strlen(root)); }
static int is_db(int fd) {
    size_t len = paths[fd] ? strlen(paths[fd]) : 0;
    return len > 3 && !strcmp(paths[fd] + len - 3, "/db");
}
static char *of(int fd) { return fd >= 0 && fd < 4096 ? paths[fd] : NULL; }

/* kind, offset, two texts or bytes */
static void record(char kind, uint64_t at, const void *a, uint32_t a_len, const void *b, uint32_t b_len) {
    struct __attribute__((packed)) { char kind; uint64_t at; uint32_t a, b; } head = {kind, at, a_len, b_len};
    if (out < 0) return;
    syscall(SYS_write, out, &head, sizeof head);
    if (a_len) syscall(SYS_write, out, a, a_len);
    if (b_len) syscall(SYS_write, out, b, b_len);
}

static int opened(const char *path, int flags, int mode, int dir) {
    pthread_mutex_lock(&lock);

    int there = syscall(SYS_faccessat, dir, path, F_OK) == 0;
    int fd = syscall(SYS_openat, dir, path, flags, mode);
    if (fd >= 0 && fd < 4096) {
        free(paths[fd]);
        paths[fd] = ours(path) ? strdup(path) : NULL;
        if (paths[fd] && !there) record('C', 0, path, strlen(path), NULL, 0);
        if (paths[fd] && (flags & O_TRUNC)) record('T', 0, path, strlen(path), NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return fd;
}
#define OPEN(name, dirarg, dir) int name(dirarg const char *path, int flags, ...) { \
    va_list list; va_start(list, flags); int mode = va_arg(list, int); va_end(list); \
    return opened(path, flags, mode, dir); }
#define NONE
#define DIRFD int dirfd,
OPEN(open, NONE, AT_FDCWD)
OPEN(open64, NONE, AT_FDCWD)
OPEN(openat, DIRFD, dirfd)
OPEN(openat64, DIRFD, dirfd)

static ssize_t written(int fd, const void *bytes, size_t len, off_t at, int positioned) {
    if (!of(fd)) return positioned ? syscall(SYS_pwrite64, fd, bytes, len, at) : syscall(SYS_write, fd, bytes, len);
    pthread_mutex_lock(&lock);
    if (!positioned) at = syscall(SYS_lseek, fd, 0, SEEK_CUR);
    ssize_t done = positioned ? syscall(SYS_pwrite64, fd, bytes, len, at) : syscall(SYS_write, fd, bytes, len);
    if (done > 0) record('W', at, paths[fd], strlen(paths[fd]), bytes, done);
    pthread_mutex_unlock(&lock);
    return done;
}
ssize_t write(int fd, const void *bytes, size_t len) { return written(fd, bytes, len, 0, 0); }
ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at) { return written(fd, bytes, len, at, 1); }
ssize_t pwrite64(int fd, const void *bytes, size_t len, off_t at) { return written(fd, bytes, len, at, 1); }

static int synced(int fd, long call, int data_only) {
    if (!of(fd)) return syscall(call, fd);
    pthread_mutex_lock(&lock);
    if (data_only && is_db(fd) && syncs_left >= 0 && syncs_left-- == 0) {
        syncs_left = 0;
        pthread_mutex_unlock(&lock);
        errno = EIO;
        return -1;
    }
    int done = syscall(call, fd);
    if (done == 0 && !(deaf && data_only && is_db(fd))) record('S', 0, paths[fd], strlen(paths[fd]), NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
int fsync(int fd) { return synced(fd, SYS_fsync, 0); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync, 1); }

static int cut(int fd, off_t len) {
    if (!of(fd)) return syscall(SYS_ftruncate, fd, len);
    pthread_mutex_lock(&lock);
    int done = syscall(SYS_ftruncate, fd, len);
    if (done == 0) record('T', len, paths[fd], strlen(paths[fd]), NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
int ftruncate(int fd, off_t len) { return cut(fd, len); }
int ftruncate64(int fd, off_t len) { return cut(fd, len); }

int rename(const char *from, const char *to) {
    pthread_mutex_lock(&lock);
    int done = syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (done == 0 && ours(to)) {
        record('R', 0, from, strlen(from), to, strlen(to));
        for (int fd = 0; fd < 4096; fd++)
            if (paths[fd] && !strcmp(paths[fd], from)) { free(paths[fd]); paths[fd] = strdup(to); }
    }
    pthread_mutex_unlock(&lock);
    return done;
}
int unlink(const char *path) {
    pthread_mutex_lock(&lock);
    int done = syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (done == 0 && ours(path)) record('U', 0, path, strlen(path), NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
int mkdir(const char *path, mode_t mode) {
    pthread_mutex_lock(&lock);
    int done = syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    if (done == 0 && ours(path)) record('D', 0, path, strlen(path), NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
int close(int fd) {
    pthread_mutex_lock(&lock);
    if (of(fd)) { free(paths[fd]); paths[fd] = NULL; }
    int done = syscall(SYS_close, fd);
    pthread_mutex_unlock(&lock);
    return done;
}
