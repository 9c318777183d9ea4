// Process start, clocks, limits and names of things.
#define _GNU_SOURCE
#include "CLinux.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>
#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

static int saved_argc;
static char **saved_argv;

// Runs before Swift's runtime looks for itself in /proc, which an empty chroot
// does not have; with SWIFT_ROOT set it does not look.
__attribute__((constructor(101))) static void early(int argc, char **argv, char **envp) {
  (void)envp;
  saved_argc = argc;
  saved_argv = argv;
  setenv("SWIFT_ROOT", "/", 0);
}

int martlet_argc(void) { return saved_argc; }

const char *martlet_argv(int index) {
  return index >= 0 && index < saved_argc ? saved_argv[index] : NULL;
}

void martlet_wipe_argument(int index, size_t offset) {
  if (index < 0 || index >= saved_argc || !saved_argv[index]) return;
  size_t count = strlen(saved_argv[index]);
  if (offset >= count) return;
  volatile char *text = saved_argv[index];
  for (size_t i = offset; i < count; i++) text[i] = 'x';
}

const char *martlet_error_name(int error) {
  const char *name = strerrorname_np(error);
  return name ? name : "E?";
}

const char *martlet_error_text(int error) {
  const char *text = strerrordesc_np(error);
  return text ? text : "unknown error";
}

int martlet_random(void *bytes, size_t count) {
  uint8_t *at = bytes;
  while (count > 0) {
    ssize_t n = getrandom(at, count, 0);
    if (n < 0) {
      if (errno == EINTR) continue;
      return -errno;
    }
    at += n;
    count -= (size_t)n;
  }
  return 0;
}

int martlet_raise_file_limit(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) < 0) return -errno;
  if (limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0) return -errno;
  }
  return limit.rlim_cur > 0x7fffffff ? 0x7fffffff : (int)limit.rlim_cur;
}

int martlet_ignore_sigpipe(void) { return signal(SIGPIPE, SIG_IGN) == SIG_ERR ? -errno : 0; }

void martlet_name_thread(const char *name) {
  char text[16] = {0};
  strncpy(text, name, sizeof text - 1);
  pthread_setname_np(pthread_self(), text);
}

int martlet_thread_id(void) {
  static _Thread_local int id;
  if (id == 0) id = gettid();
  return id;
}

int martlet_has_aes(void) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul");
#elif defined(__aarch64__)
  unsigned long features = getauxval(AT_HWCAP);
  return (features & HWCAP_AES) && (features & HWCAP_PMULL);
#else
  return 0;
#endif
}

int martlet_uname(int which, char *text, size_t size) {
  struct utsname names;
  if (size == 0) return -EINVAL;
  if (uname(&names) < 0) return -errno;
  const char *from = which == 0   ? names.sysname
                     : which == 1 ? names.nodename
                     : which == 2 ? names.release
                     : which == 3 ? names.version
                                  : names.machine;
  strncpy(text, from, size - 1);
  text[size - 1] = 0;
  return 0;
}

int martlet_flock(int fd) { return flock(fd, LOCK_EX | LOCK_NB) < 0 ? -errno : 0; }

int64_t martlet_clock(int which) {
  struct timespec time;
  clock_gettime(which == 0 ? CLOCK_REALTIME : which == 1 ? CLOCK_MONOTONIC : CLOCK_BOOTTIME, &time);
  return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}
