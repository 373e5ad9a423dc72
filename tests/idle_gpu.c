/* A driver of a GPU that computes nothing: built as libcuda.so.1, it lets the way from Python to the driver be tested
   where no GPU is. Memory on the device is memory of the process, copies are made, launches are only written down.

   FLOWPREP_TEST_DRIVER names a file that gets a line for each call that matters:

       load                                    code of a kernel comes to the GPU
       take BYTES, give                        memory of the device
       pin BYTES, unpin                        memory of the host
       up BYTES STREAM, down BYTES STREAM      copies; of those that wait, STREAM is "now"
       record EVENT, wait EVENT|STREAM
       launch KERNEL X Y Z x y z STREAM WORD*  blocks, threads, and as many parameters as expect() was told

   Numbers that may be others: FLOWPREP_TEST_CUDA GPUs (1), of compute capability FLOWPREP_TEST_CAPABILITY (90), the
   second one of FLOWPREP_TEST_SECOND; a driver for FLOWPREP_TEST_CUDA_VERSION (13050), which starts with the error
   FLOWPREP_TEST_CUDA_ERROR. Of its memory others have left FLOWPREP_TEST_CUDA_ROOM MiB since it was asked how much there
   is; from launch number FLOWPREP_TEST_CUDA_LAUNCHES on, launches fail.
*/

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef int Result;
typedef uintptr_t Handle;

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_CONTEXT = 201,
       LAUNCH_FAILED = 719, NOT_SUPPORTED = 801 };

static const Handle CONTEXT = 1;
static const size_t MEMORY = 80UL << 30;

static __thread Handle contexts[16]; /* of this thread; the last is current */
static __thread int depth;
static Handle last_handle = 0x1000;
static size_t taken; /* bytes of the device */
static int launches;
static char sizes[256]; /* bytes of each parameter of the next launches, as digits */

static void say(const char *format, ...)
{
    static FILE *log;
    const char *name = getenv("FLOWPREP_TEST_DRIVER");
    if (!name)
        return;
    if (!log)
        log = fopen(name, "a");
    va_list values;
    va_start(values, format);
    vfprintf(log, format, values);
    va_end(values);
    fflush(log);
}

static Result give(Handle *handle)
{
    *handle = __atomic_add_fetch(&last_handle, 0x100, __ATOMIC_SEQ_CST);
    return SUCCESS;
}

void expect(const char *of_each)
{
    snprintf(sizes, sizeof sizes, "%s", of_each);
}

/* Calls that only have to succeed, and calls that answer with one number. */
#define FINE(name, ...) \
    Result name(__VA_ARGS__) { return SUCCESS; }
#define ANSWER(name, type, value, ...) \
    Result name(type *answer, ##__VA_ARGS__) { *answer = (value); return SUCCESS; }

static int number(const char *name, int otherwise)
{
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

Result cuInit(unsigned flags)
{
    int error = number("FLOWPREP_TEST_CUDA_ERROR", SUCCESS);
    return error ? error : number("FLOWPREP_TEST_CUDA", 1) ? SUCCESS : NO_DEVICE;
}

ANSWER(cuDriverGetVersion, int, number("FLOWPREP_TEST_CUDA_VERSION", 13050))
ANSWER(cuDeviceGetCount, int, number("FLOWPREP_TEST_CUDA", 1))
ANSWER(cuDeviceGet, int, ordinal, int ordinal)
ANSWER(cuDeviceTotalMem_v2, size_t, MEMORY, int device)

Result cuDeviceGetName(char *name, int length, int device)
{
    snprintf(name, length, "a GPU that computes nothing");
    return SUCCESS;
}

Result cuDeviceGetUuid_v2(char *uuid, int device)
{
    memset(uuid, 7, 16);
    return SUCCESS;
}

Result cuDeviceGetAttribute(int *value, int attribute, int device)
{
    int capability = number("FLOWPREP_TEST_CAPABILITY", 90);
    if (device == 1)
        capability = number("FLOWPREP_TEST_SECOND", capability);
    switch (attribute) {
    case 75: *value = capability / 10; break;
    case 76: *value = capability % 10; break;
    case 16: *value = 132; break; /* multiprocessors */
    case 8: *value = 49152; break; /* bytes of shared memory of a block */
    case 1: *value = 1024; break; /* threads of a block */
    default: *value = 1;
    }
    return SUCCESS;
}

/* Contexts */

Result cuCtxGetCurrent(Handle *context)
{
    *context = depth ? contexts[depth - 1] : 0;
    return SUCCESS;
}

Result cuCtxSetCurrent(Handle context)
{
    depth = depth ? depth : 1;
    contexts[depth - 1] = context;
    return SUCCESS;
}

Result cuCtxPushCurrent_v2(Handle context)
{
    contexts[depth++] = context;
    return SUCCESS;
}

Result cuCtxPopCurrent_v2(Handle *context)
{
    if (!depth)
        return INVALID_CONTEXT;
    *context = contexts[--depth];
    return SUCCESS;
}

ANSWER(cuCtxGetDevice, int, 0)
ANSWER(cuCtxGetDevice_v2, int, 0, Handle context)
ANSWER(cuDevicePrimaryCtxRetain, Handle, CONTEXT, int device)
FINE(cuDevicePrimaryCtxRelease_v2, int device)
FINE(cuCtxSynchronize, void)

/* Memory */

Result cuMemGetInfo_v2(size_t *unused, size_t *all)
{
    *unused = *all = MEMORY;
    return depth ? SUCCESS : INVALID_CONTEXT;
}

static Result take(Handle *place, size_t size)
{
    size_t *memory = mmap(NULL, size + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!depth)
        return INVALID_CONTEXT;
    if (memory == MAP_FAILED)
        return OUT_OF_MEMORY;
    *memory = size;
    *place = (Handle)memory + 4096;
    return SUCCESS;
}

static Result give_back(Handle place)
{
    size_t *memory = (size_t *)(place - 4096);
    munmap(memory, *memory + 4096);
    return depth ? SUCCESS : INVALID_CONTEXT;
}

Result cuMemAlloc_v2(Handle *place, size_t size)
{
    if (taken + size > (size_t)number("FLOWPREP_TEST_CUDA_ROOM", MEMORY >> 20) << 20)
        return OUT_OF_MEMORY;
    say("take %zu\n", size);
    taken += size;
    return take(place, size);
}

Result cuMemFree_v2(Handle place)
{
    say("give\n");
    taken -= *(size_t *)(place - 4096);
    return give_back(place);
}

Result cuMemHostAlloc(Handle *place, size_t size, unsigned flags)
{
    say("pin %zu\n", size);
    return take(place, size);
}

Result cuMemFreeHost(Handle place)
{
    say("unpin\n");
    return give_back(place);
}

static Result copied(const char *which, Handle target, Handle source, size_t size, Handle stream)
{
    memcpy((void *)target, (void *)source, size);
    say(stream ? "%s %zu %lx\n" : "%s %zu now\n", which, size, stream);
    return depth ? SUCCESS : INVALID_CONTEXT;
}

#define COPY(name, which) \
    Result name(Handle target, Handle source, size_t size) { return copied(which, target, source, size, 0); }
#define COPY_LATER(name, which)                                              \
    Result name(Handle target, Handle source, size_t size, Handle stream)    \
    {                                                                        \
        return copied(which, target, source, size, stream);                  \
    }

COPY(cuMemcpyHtoD_v2, "up")
COPY(cuMemcpyDtoH_v2, "down")
COPY_LATER(cuMemcpyHtoDAsync_v2, "up")
COPY_LATER(cuMemcpyDtoHAsync_v2, "down")

/* Streams and events */

Result cuStreamCreate(Handle *stream, unsigned flags) { return give(stream); }
Result cuStreamCreateWithPriority(Handle *stream, unsigned flags, int priority) { return give(stream); }
FINE(cuStreamDestroy_v2, Handle stream)
Result cuStreamGetCtx(Handle stream, Handle *context) { *context = CONTEXT; return SUCCESS; }
Result cuStreamGetFlags(Handle stream, unsigned *flags) { *flags = 0; return SUCCESS; }
Result cuStreamGetPriority(Handle stream, int *priority) { *priority = 0; return SUCCESS; }
Result cuStreamGetDevice(Handle stream, int *device) { *device = 0; return SUCCESS; }
Result cuStreamIsCapturing(Handle stream, int *capturing) { *capturing = 0; return SUCCESS; }

Result cuStreamSynchronize(Handle stream)
{
    say("wait %lx\n", stream);
    return depth ? SUCCESS : INVALID_CONTEXT;
}

Result cuEventCreate(Handle *event, unsigned flags) { return give(event); }
FINE(cuEventDestroy_v2, Handle event)
FINE(cuEventQuery, Handle event)
ANSWER(cuEventElapsedTime_v2, float, 1, Handle start, Handle end)

Result cuEventRecord(Handle event, Handle stream)
{
    say("record %lx\n", event);
    return SUCCESS;
}

Result cuEventSynchronize(Handle event)
{
    say("wait %lx\n", event);
    return depth ? SUCCESS : INVALID_CONTEXT;
}

/* Kernels: a handle is the name. */

Result cuLibraryLoadData(Handle *library, const void *code, void *a, void *b, unsigned n, void *c, void *d, unsigned m)
{
    say("load\n");
    return give(library);
}

Result cuLibraryGetKernel(Handle *kernel, Handle library, const char *name)
{
    *kernel = (Handle)strdup(name);
    return SUCCESS;
}

FINE(cuLibraryUnload, Handle library)
ANSWER(cuKernelGetFunction, Handle, kernel, Handle kernel)
ANSWER(cuFuncGetModule, Handle, kernel, Handle kernel)
ANSWER(cuKernelGetLibrary, Handle, kernel, Handle kernel)
ANSWER(cuKernelGetAttribute, int, 32, int attribute, Handle kernel, int device)
ANSWER(cuFuncGetAttribute, int, 32, int attribute, Handle kernel)

Result cuLaunchKernel(Handle kernel, unsigned X, unsigned Y, unsigned Z, unsigned x, unsigned y, unsigned z,
                      unsigned shared, Handle stream, void **parameters, void **extra)
{
    char words[4096] = "", *end = words;
    for (int i = 0; sizes[i]; i++) {
        uint64_t word = 0;
        memcpy(&word, parameters[i], sizes[i] - '0');
        end += sprintf(end, " %lx", word);
    }
    say("launch %s %u %u %u %u %u %u %lx%s\n", (char *)kernel, X, Y, Z, x, y, z, stream, words);
    if (!depth)
        return INVALID_CONTEXT;
    if (__atomic_add_fetch(&launches, 1, __ATOMIC_SEQ_CST) >= number("FLOWPREP_TEST_CUDA_LAUNCHES", 1 << 30))
        return LAUNCH_FAILED;
    return X && Y && Z && Y < 65536 && Z < 65536 && x * y * z > 0 && x * y * z <= 1024 ? SUCCESS : INVALID_VALUE;
}

struct Launch {
    unsigned X, Y, Z, x, y, z, shared;
    Handle stream;
    void *attributes;
    unsigned count;
};

Result cuLaunchKernelEx(const struct Launch *l, Handle kernel, void **parameters, void **extra)
{
    return cuLaunchKernel(kernel, l->X, l->Y, l->Z, l->x, l->y, l->z, l->shared, l->stream, parameters, extra);
}

/* How calls are found. */

Result cuGetErrorName(int error, const char **name)
{
    *name = error == 803 ? "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH" : "NAME";
    return SUCCESS;
}

Result cuGetErrorString(int error, const char **text) { *text = "an error"; return SUCCESS; }

static Result missing(void) { return NOT_SUPPORTED; }

Result cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status)
{
    const char *suffixes[] = {"_v2", "_v3", ""};
    Dl_info here;
    dladdr((void *)missing, &here);
    void *library = dlopen(here.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    *function = NULL;
    for (int i = 0; i < 3 && !*function; i++) {
        char whole[128];
        snprintf(whole, sizeof whole, "%s%s", name, suffixes[i]);
        *function = dlsym(library, whole);
    }
    if (!*function)
        *function = (void *)missing;
    if (status)
        *status = 0;
    return SUCCESS;
}

Result cuGetProcAddress(const char *name, void **function, int version, uint64_t flags)
{
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
