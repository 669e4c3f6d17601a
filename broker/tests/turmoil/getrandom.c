// Random numbers of the operating system that are the same in each run of a process, a sequence of
// its own for each thread. Loaded before the C library by the tests of this directory.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/types.h>

static __thread uint64_t drawn;

static void fill(void *into, size_t bytes) {
    const char *seed = getenv("TIDEGATE_TURMOIL_SEED");
    uint64_t base = seed ? strtoull(seed, NULL, 10) * 0x9e3779b97f4a7c15u : 0;
    unsigned char *out = into;
    for (size_t i = 0; i < bytes; i++) {
        uint64_t z = base + ++drawn * 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        out[i] = (unsigned char)(z ^ (z >> 31));
    }
}

ssize_t getrandom(void *into, size_t bytes, unsigned flags) {
    (void)flags;
    fill(into, bytes);
    return (ssize_t)bytes;
}

int getentropy(void *into, size_t bytes) {
    fill(into, bytes);
    return 0;
}

long syscall(long number, ...) {
    static long (*real)(long, ...);
    va_list list;
    va_start(list, number);
    long a[6];
    for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
    va_end(list);
    if (number == SYS_getrandom) {
        fill((void *)a[0], (size_t)a[1]);
        return a[1];
    }
    if (!real) real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
