/* A disk that fails at a chosen operation, whoever writes or reads: loaded before libc, it counts
   what this process does to files below a root, and lets the n-th of these fail. What is read by
   mapping it into memory is not seen. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILES 65536

static char root[PATH_MAX];
static char is_ours[FILES]; /* by descriptor: open below the root, for what is to fail */
static long point;          /* which operation fails, from 1; 0 is none */
static int error, lasts;
static int reads; /* whether what reads fails, and not what writes */
static long met;
static int failed; /* the error number that was given, once it was */
static char where[PATH_MAX + 32];

/* From here on: the `at`-th operation below `folder` that writes, or reads where `reading` is not 0,
   fails with `number`, and where `keeps_on` is not 0 all after it. */
void faults_arm(const char *folder, long at, int number, int keeps_on, int reading) {
  met = 0, failed = 0, where[0] = 0;
  point = at, error = number, lasts = keeps_on, reads = reading;
  strncpy(root, folder, PATH_MAX - 1);
}

long faults_met(void) { return met; }
int faults_failed(void) { return failed; }
const char *faults_where(void) { return where; }

static int below(const char *path) {
  size_t n = strlen(root);
  return n && path && !strncmp(path, root, n);
}

/* Whether opening `path` so is one of the operations; folders are opened to be flushed. */
static int concerns(const char *path, int writes) {
  struct stat found;
  return reads != writes && below(path) && (writes || (!stat(path, &found) && S_ISREG(found.st_mode)));
}

/* Whether this operation fails; then errno says so. */
static int fails(const char *kind, const char *path, int may_be_denied) {
  long n = __atomic_add_fetch(&met, 1, __ATOMIC_SEQ_CST);
  if (!point || n < point || (n > point && !lasts)) return 0;
  /* No system denies what is open. */
  int number = error == EACCES && !may_be_denied ? EIO : error;
  if (!failed) {
    failed = number;
    snprintf(where, sizeof where, "%s %s", kind, path);
  }
  errno = number;
  return 1;
}

/* Writing concerns what was opened for it; a folder that is flushed was opened to be read. */
static int fails_on(const char *kind, int file) {
  int flushes = !strcmp(kind, "fsync");
  if (reads != !strcmp(kind, "read")) return 0;
  if (!flushes && (file < 0 || file >= FILES || !is_ours[file])) return 0;
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t n = readlink(link, path, sizeof path - 1);
  path[n > 0 ? n : 0] = 0;
  return below(path) && fails(kind, path, 0);
}

static int opened(int file, int is_ours_now) {
  if (file >= 0 && file < FILES) is_ours[file] = is_ours_now;
  return file;
}

#define REAL(type, name, ...) \
  static type (*real)(__VA_ARGS__); \
  if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    REAL(int, #name, const char *, int, mode_t); \
    va_list more; \
    va_start(more, flags); \
    mode_t mode = va_arg(more, mode_t); \
    va_end(more); \
    int ours = concerns(path, (flags & O_ACCMODE) != O_RDONLY); \
    if (ours && fails("open", path, 1)) return -1; \
    return opened(real(path, flags, mode), ours); \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
  int name(int folder, const char *path, int flags, ...) { \
    REAL(int, #name, int, const char *, int, mode_t); \
    va_list more; \
    va_start(more, flags); \
    mode_t mode = va_arg(more, mode_t); \
    va_end(more); \
    int ours = concerns(path, (flags & O_ACCMODE) != O_RDONLY); \
    if (ours && fails("open", path, 1)) return -1; \
    return opened(real(folder, path, flags, mode), ours); \
  }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name) \
  FILE *name(const char *path, const char *mode) { \
    REAL(FILE *, #name, const char *, const char *); \
    int ours = concerns(path, strpbrk(mode, "wa+") != NULL); \
    if (ours && fails("open", path, 1)) return NULL; \
    FILE *file = real(path, mode); \
    if (file) opened(fileno(file), ours); \
    return file; \
  }
FOPEN(fopen)
FOPEN(fopen64)

int close(int file) {
  REAL(int, "close", int);
  opened(file, 0);
  return real(file);
}

#define ON_FILE(type, name, kind, parameters, arguments) \
  type name parameters { \
    static type(*real) parameters; \
    if (!real) real = (type(*) parameters)dlsym(RTLD_NEXT, #name); \
    if (fails_on(kind, file)) return -1; \
    return real arguments; \
  }
ON_FILE(ssize_t, write, "write", (int file, const void *from, size_t n), (file, from, n))
ON_FILE(ssize_t, writev, "write", (int file, const struct iovec *from, int n), (file, from, n))
ON_FILE(ssize_t, pwrite, "write", (int file, const void *from, size_t n, off_t at),
        (file, from, n, at))
ON_FILE(ssize_t, pwrite64, "write", (int file, const void *from, size_t n, off64_t at),
        (file, from, n, at))
ON_FILE(ssize_t, sendfile, "write", (int file, int from, off_t *at, size_t n), (file, from, at, n))
ON_FILE(ssize_t, sendfile64, "write", (int file, int from, off64_t *at, size_t n),
        (file, from, at, n))
ON_FILE(ssize_t, read, "read", (int file, void *to, size_t n), (file, to, n))
ON_FILE(ssize_t, readv, "read", (int file, const struct iovec *to, int n), (file, to, n))
ON_FILE(ssize_t, pread, "read", (int file, void *to, size_t n, off_t at), (file, to, n, at))
ON_FILE(ssize_t, pread64, "read", (int file, void *to, size_t n, off64_t at), (file, to, n, at))
ON_FILE(int, fsync, "fsync", (int file), (file))
ON_FILE(int, fdatasync, "fsync", (int file), (file))
ON_FILE(int, ftruncate, "truncate", (int file, off_t n), (file, n))
ON_FILE(int, ftruncate64, "truncate", (int file, off64_t n), (file, n))

int mkdir(const char *path, mode_t mode) {
  REAL(int, "mkdir", const char *, mode_t);
  return concerns(path, 1) && fails("mkdir", path, 1) ? -1 : real(path, mode);
}

int rename(const char *from, const char *to) {
  REAL(int, "rename", const char *, const char *);
  return concerns(to, 1) && fails("rename", to, 1) ? -1 : real(from, to);
}

int renameat2(int here, const char *from, int there, const char *to, unsigned flags) {
  REAL(int, "renameat2", int, const char *, int, const char *, unsigned);
  return concerns(to, 1) && fails("rename", to, 1) ? -1 : real(here, from, there, to, flags);
}

ssize_t copy_file_range(int from, off64_t *at, int file, off64_t *to, size_t n, unsigned flags) {
  REAL(ssize_t, "copy_file_range", int, off64_t *, int, off64_t *, size_t, unsigned);
  return fails_on("write", file) ? -1 : real(from, at, file, to, n, flags);
}
