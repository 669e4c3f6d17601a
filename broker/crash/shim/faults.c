/*
 * A device that fails: preloaded into the broker, it waits for a file and then
 * lets system calls fail as the file says.
 *
 * The filter sits in the kernel (seccomp), so it catches what goes past libc as
 * well, on every thread. The file has one line:
 *
 *     sync ERRNO           fsync, fdatasync, sync_file_range, syncfs, sync fail
 *     write ERRNO FD ...   write, writev, pwrite64, pwritev, pwritev2 to these fail
 *
 * Once the filter is in force the file gets the suffix ".done".
 */
#define _GNU_SOURCE
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define FDS_MAX 32
#define COUNT(list) (int)(sizeof(list) / sizeof((list)[0]))

static char path[4096];

static const int SYNCS[] = {SYS_fsync, SYS_fdatasync, SYS_sync_file_range, SYS_syncfs};
static const int WRITES[] = {SYS_write, SYS_writev, SYS_pwrite64, SYS_pwritev, SYS_pwritev2};

static int install(const int *calls, int count, int error, const int *fds, int fd_count) {
    struct sock_filter code[16 + 2 * (COUNT(WRITES) + FDS_MAX)];
    int n = 0;
    const unsigned nr = offsetof(struct seccomp_data, nr);
    const unsigned fd = offsetof(struct seccomp_data, args[0]);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, nr);
    /* One of the calls: jump over the "allow" behind them. */
    for (int i = 0; i < count; i++)
        code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)calls[i],
                                                 (unsigned char)(count - i), 0);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    if (fd_count > 0) {
        code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, fd);
        for (int i = 0; i < fd_count; i++)
            code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)fds[i],
                                                     (unsigned char)(fd_count - i), 0);
        code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    }
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K,
                                             SECCOMP_RET_ERRNO | (error & SECCOMP_RET_DATA));
    struct sock_fprog program = {.len = (unsigned short)n, .filter = code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -1;
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
}

static void *watch(void *unused) {
    (void)unused;
    const struct timespec pause = {0, 500 * 1000};
    for (;;) {
        FILE *file = fopen(path, "r");
        if (file == NULL) {
            nanosleep(&pause, NULL);
            continue;
        }
        char mode[16] = "";
        int error = 0, fds[FDS_MAX], count = 0;
        if (fscanf(file, "%15s %d", mode, &error) != 2) {
            /* Not written yet. */
            fclose(file);
            nanosleep(&pause, NULL);
            continue;
        }
        while (count < FDS_MAX && fscanf(file, "%d", &fds[count]) == 1) count++;
        fclose(file);
        int failed = strcmp(mode, "sync") == 0
                         ? install(SYNCS, COUNT(SYNCS), error, fds, 0)
                         : install(WRITES, COUNT(WRITES), error, fds, count);
        char done[4104];
        snprintf(done, sizeof done, "%s.%s", path, failed ? "failed" : "done");
        rename(path, done);
        return NULL;
    }
}

__attribute__((constructor)) static void start(void) {
    const char *named = getenv("CRASH_FAULTS");
    pthread_t thread;
    if (named == NULL || strlen(named) >= sizeof path) return;
    strcpy(path, named);
    pthread_create(&thread, NULL, watch, NULL);
    pthread_detach(thread);
}
