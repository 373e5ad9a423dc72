/* Preloaded by tests: a disk that dies. From its n-th use on, all that is done to files below a folder fails with EIO.

   FLOWPREP_TEST_DISK names the folder; FLOWPREP_TEST_DISK_USES a file that all processes share, with two 64-bit
   numbers: the uses so far, and n. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *folder;
static int64_t *uses; /* so far, and from which on they fail */

__attribute__((constructor)) static void prepare(void)
{
    const char *name = getenv("FLOWPREP_TEST_DISK_USES");
    int handle = name ? open(name, O_RDWR | O_CLOEXEC) : -1;
    if (handle < 0)
        return;
    uses = mmap(NULL, 2 * sizeof *uses, PROT_READ | PROT_WRITE, MAP_SHARED, handle, 0);
    close(handle);
    folder = getenv("FLOWPREP_TEST_DISK");
}

static int path_fails(const char *path)
{
    if (!folder || strncmp(path, folder, strlen(folder)))
        return 0;
    if (__atomic_add_fetch(&uses[0], 1, __ATOMIC_SEQ_CST) < uses[1])
        return 0;
    errno = EIO;
    return 1;
}

static int file_fails(int handle)
{
    char link[32], path[PATH_MAX];
    if (!folder)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return path_fails(path);
}

#define FAULTY(type, name, fails, arguments, ...)                   \
    type name(__VA_ARGS__)                                          \
    {                                                               \
        static type (*next)(__VA_ARGS__);                           \
        if (!next)                                                  \
            next = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name);  \
        return fails ? -1 : next arguments;                         \
    }

FAULTY(ssize_t, read, file_fails(handle), (handle, data, size), int handle, void *data, size_t size)
FAULTY(ssize_t, write, file_fails(handle), (handle, data, size), int handle, const void *data, size_t size)
FAULTY(int, fsync, file_fails(handle), (handle), int handle)
FAULTY(int, link, path_fails(to), (from, to), const char *from, const char *to)
FAULTY(int, rename, path_fails(to), (from, to), const char *from, const char *to)
FAULTY(int, unlink, path_fails(path), (path), const char *path)
FAULTY(int, mkdir, path_fails(path), (path, mode), const char *path, mode_t mode)
FAULTY(int, rmdir, path_fails(path), (path), const char *path)

int open64(const char *path, int flags, ...)
{
    static int (*next)(const char *, int, ...);
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    if (!next)
        next = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64");
    return path_fails(path) ? -1 : next(path, flags, mode);
}
