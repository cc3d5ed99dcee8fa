/* Faults in a process's own writes and syncs, for tests: LD_PRELOAD this, and FAULT_PAGE names a file that says which;
   a forked process may set it later.
   The page holds six longs: the process meant, what to do, after how many calls more, how many calls there were; how
   long a slow sync takes (ms), and when it returned (ns, CLOCK_MONOTONIC). SLOW and
   STOP count syncs alone, STOP_OUTPUT what goes to standard output. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { NOTHING, DIE_BEFORE, DIE_HALFWAY, DIE_AFTER, SYNC_FAILS, STOP_BEFORE, STOP_AFTER, SYNC_SLOW, STOP_OUTPUT };
static volatile long *page;

static void open_page(void) {
    const char *name = getenv("FAULT_PAGE");
    int fd = name ? open(name, O_RDWR) : -1;
    void *at = fd < 0 ? MAP_FAILED : mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at != MAP_FAILED) page = at;
    if (fd >= 0) close(fd);
}

/* What to do in this call: its mode if its turn has come. */
static long turn(int is_sync, int fd) {
    if (!page) open_page();
    if (!page || page[0] != getpid()) return NOTHING;
    __atomic_add_fetch(&page[3], 1, __ATOMIC_SEQ_CST);
    if (page[1] == SYNC_FAILS) return SYNC_FAILS;
    if (page[1] >= STOP_BEFORE && (page[1] == STOP_OUTPUT ? is_sync || fd != 1 : !is_sync)) return NOTHING;
    return page[1] && __atomic_sub_fetch(&page[2], 1, __ATOMIC_SEQ_CST) == 0 ? page[1] : NOTHING;
}

static void stop(void) { kill(getpid(), SIGSTOP); }

static void note_time(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    page[5] = now.tv_sec * 1000000000L + now.tv_nsec;
}

static void die(void) { kill(getpid(), SIGKILL); for (;;) pause(); }

#define WRITE(name, parameters, half, whole)                                  \
    ssize_t name parameters {                                                 \
        static ssize_t(*real) parameters;                                     \
        if (!real) real = (ssize_t(*) parameters)dlsym(RTLD_NEXT, #name);     \
        long now = turn(0, fd);                                               \
        if (now == DIE_BEFORE) die();                                         \
        if (now == DIE_HALFWAY) { half; die(); }                              \
        if (now == STOP_OUTPUT) stop();                                       \
        ssize_t done = whole;                                                 \
        if (now == DIE_AFTER) die();                                          \
        return done;                                                          \
    }
WRITE(write, (int fd, const void *data, size_t size), real(fd, data, size / 2), real(fd, data, size))
WRITE(pwrite, (int fd, const void *data, size_t size, off_t at), real(fd, data, size / 2, at), real(fd, data, size, at))
WRITE(pwrite64, (int fd, const void *data, size_t size, off64_t at), real(fd, data, size / 2, at), real(fd, data, size, at))

#define SYNC(name)                                                            \
    int name(int fd) {                                                        \
        static int (*real)(int);                                              \
        if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, #name);              \
        long now = turn(1, fd);                                               \
        if (now == SYNC_FAILS) { errno = EIO; return -1; }                    \
        if (now == DIE_BEFORE || now == DIE_HALFWAY) die();                   \
        if (now == STOP_BEFORE) stop();                                       \
        if (now == SYNC_SLOW) usleep(page[4] * 1000);                         \
        int done = real(fd);                                                  \
        if (now == DIE_AFTER) die();                                          \
        if (now == STOP_AFTER) stop();                                        \
        if (now == SYNC_SLOW) note_time();                                    \
        return done;                                                          \
    }
SYNC(fsync)
SYNC(fdatasync)
