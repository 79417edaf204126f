/*
 * Makes one call on one journal segment fail, to be loaded by LD_PRELOAD.
 *
 * FAILING_DISK names a directory. As soon as a file `trigger` is in it, holding the name of a
 * call and an error number ("fdatasync 5"), the next such call on a file whose path ends in
 * ".segment" fails with that number. It is the only one that fails: whoever tries again succeeds.
 * The file `calls` in the same directory gets a line for it, and one for each such call after it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static int has_failed;

/* In the directory of FAILING_DISK; a null pointer where there is no such variable. */
static const char *beside(const char *name, char *path, size_t size) {
    const char *directory = getenv("FAILING_DISK");
    if (directory == NULL) return NULL;
    snprintf(path, size, "%s/%s", directory, name);
    return path;
}

static int is_segment(int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path);
    const char ending[] = ".segment";
    const ssize_t tail = sizeof ending - 1;
    return length >= tail && memcmp(path + length - tail, ending, tail) == 0;
}

/* The error number that the trigger names for this call; 0 where there is no trigger for it. */
static int triggered(const char *call) {
    char path[4096], wanted[32];
    int error = 0;
    if (beside("trigger", path, sizeof path) == NULL) return 0;
    FILE *trigger = fopen(path, "r");
    if (trigger == NULL) return 0;
    if (fscanf(trigger, "%31s %d", wanted, &error) != 2 || strcmp(wanted, call) != 0) error = 0;
    fclose(trigger);
    return error;
}

static void note(const char *call, const char *outcome) {
    char path[4096], line[64];
    if (beside("calls", path, sizeof path) == NULL) return;
    int length = snprintf(line, sizeof line, "%s %s\n", call, outcome);
    int calls = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (calls < 0 || write(calls, line, length) != length) abort();
    close(calls);
}

/* Whether this call is to fail; errno is set then. */
static int fails(const char *call, int file) {
    if (!is_segment(file)) return 0;
    pthread_mutex_lock(&turn);
    int error = has_failed ? 0 : triggered(call);
    if (error != 0) {
        has_failed = 1;
        note(call, "failed");
    } else if (has_failed) {
        note(call, "came after it");
    }
    pthread_mutex_unlock(&turn);
    if (error != 0) errno = error;
    return error != 0;
}

int fdatasync(int file) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    return fails("fdatasync", file) ? -1 : real(file);
}

int fsync(int file) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    return fails("fsync", file) ? -1 : real(file);
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t offset) {
    ssize_t (*real)(int, const void *, size_t, off64_t) =
        (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    return fails("pwrite", file) ? -1 : real(file, bytes, count, offset);
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t offset) {
    ssize_t (*real)(int, const void *, size_t, off_t) =
        (ssize_t (*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite");
    return fails("pwrite", file) ? -1 : real(file, bytes, count, offset);
}
