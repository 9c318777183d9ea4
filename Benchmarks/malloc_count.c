/*
 * Counts a program's calls of the allocator, to show that carrying packets makes
 * none. Load it with LD_PRELOAD into the normal (dynamically linked) build.
 *
 *   MALLOC_COUNT_FILE=PATH  where the counts go (%p = the process id);
 *                           written on SIGUSR2 and at exit, whole or not at all
 *
 * The file: `malloc N calloc N realloc N posix_memalign N aligned_alloc N free N
 * bytes N` (bytes asked for). A realloc counts as one call. Never allocates.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* glibc's own entries: no dlsym, which would itself allocate. */
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t), __libc_free(void *);

enum { MALLOC, CALLOC, REALLOC, POSIX_MEMALIGN, ALIGNED_ALLOC, FREE, BYTES, COUNTERS };
static const char *const names[COUNTERS] = {
    "malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc", "free", "bytes"};
static _Atomic uint64_t counts[COUNTERS];
static char path[512], beside[520];

static void count(int what, size_t bytes) {
  atomic_fetch_add_explicit(&counts[what], 1, memory_order_relaxed);
  atomic_fetch_add_explicit(&counts[BYTES], bytes, memory_order_relaxed);
}

void *malloc(size_t n) { return count(MALLOC, n), __libc_malloc(n); }
void *calloc(size_t n, size_t size) { return count(CALLOC, n * size), __libc_calloc(n, size); }
void *realloc(void *p, size_t n) { return count(REALLOC, n), __libc_realloc(p, n); }

void free(void *p) {
  if (!p) return;
  atomic_fetch_add_explicit(&counts[FREE], 1, memory_order_relaxed);
  __libc_free(p);
}

int posix_memalign(void **out, size_t alignment, size_t n) {
  count(POSIX_MEMALIGN, n);
  if (alignment < sizeof(void *) || (alignment & (alignment - 1))) return EINVAL;
  void *p = __libc_memalign(alignment, n);
  if (!p) return ENOMEM;
  *out = p;
  return 0;
}

void *aligned_alloc(size_t alignment, size_t n) {
  return count(ALIGNED_ALLOC, n), __libc_memalign(alignment, n);
}

void *memalign(size_t alignment, size_t n) {
  return count(ALIGNED_ALLOC, n), __libc_memalign(alignment, n);
}

/* Only what a signal handler may do. */
static void dump(void) {
  char text[512], digits[24];
  size_t at = 0;
  if (!path[0]) return;
  for (int i = 0; i < COUNTERS; i++) {
    uint64_t value = atomic_load(&counts[i]);
    int n = 0;
    size_t length = strlen(names[i]);
    memcpy(text + at, names[i], length), at += length;
    text[at++] = ' ';
    do digits[n++] = '0' + value % 10;
    while (value /= 10);
    while (n) text[at++] = digits[--n];
    text[at++] = i == COUNTERS - 1 ? '\n' : ' ';
  }
  int saved = errno, fd = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd >= 0) {
    if (write(fd, text, at) == (ssize_t)at) rename(beside, path);
    close(fd);
  }
  errno = saved;
}

static void on_signal(int signal) { (void)signal, dump(); }

__attribute__((constructor)) static void prepare(void) {
  const char *wanted = getenv("MALLOC_COUNT_FILE");
  if (!wanted) return;
  size_t at = 0;
  for (; *wanted && at < sizeof path - 16; wanted++) {
    if (wanted[0] == '%' && wanted[1] == 'p') {
      at += (size_t)snprintf(path + at, 16, "%d", (int)getpid()), wanted++;
    } else {
      path[at++] = *wanted;
    }
  }
  path[at] = 0;
  snprintf(beside, sizeof beside, "%s.new", path);
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  sigaction(SIGUSR2, &action, NULL);
}

__attribute__((destructor)) static void at_exit(void) { dump(); }
