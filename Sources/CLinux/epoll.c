// epoll and the descriptors a loop waits on beside sockets.
#define _GNU_SOURCE
#include "CLinux.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

_Static_assert(MARTLET_IN == EPOLLIN && MARTLET_OUT == EPOLLOUT, "readiness bits");
_Static_assert(MARTLET_ERR == EPOLLERR && MARTLET_HUP == EPOLLHUP, "readiness bits");
_Static_assert(MARTLET_RDHUP == EPOLLRDHUP, "readiness bits");
_Static_assert(MARTLET_ADD == EPOLL_CTL_ADD && MARTLET_DELETE == EPOLL_CTL_DEL, "operations");
_Static_assert(MARTLET_MODIFY == EPOLL_CTL_MOD, "operations");

#define EVENT_LIMIT 256

int martlet_epoll_create(void) {
  int fd = epoll_create1(EPOLL_CLOEXEC);
  return fd < 0 ? -errno : fd;
}

int martlet_epoll_control(int epoll, int operation, int fd, uint32_t events, uint64_t data) {
  struct epoll_event event = {.events = events, .data.u64 = data};
  return epoll_ctl(epoll, operation, fd, &event) < 0 ? -errno : 0;
}

int martlet_epoll_wait(int epoll, struct martlet_event *out, int limit, int64_t timeout) {
  static int has_pwait2 = 1;
  struct epoll_event events[EVENT_LIMIT];
  if (limit > EVENT_LIMIT) limit = EVENT_LIMIT;
  int count = -1;
  if (timeout <= 0) {
    count = epoll_wait(epoll, events, limit, timeout == 0 ? 0 : -1);
  } else {
    if (__atomic_load_n(&has_pwait2, __ATOMIC_RELAXED)) {
      struct timespec time = {timeout / 1000000000, timeout % 1000000000};
      count = epoll_pwait2(epoll, events, limit, &time, NULL);
      if (count < 0 && (errno == ENOSYS || errno == EPERM)) {
        // Before Linux 5.11, or behind an old seccomp filter.
        __atomic_store_n(&has_pwait2, 0, __ATOMIC_RELAXED);
      } else if (count < 0) {
        return -errno;
      }
    }
    if (count < 0) {
      int64_t milliseconds = timeout / 1000000 + (timeout % 1000000 != 0);
      count = epoll_wait(
        epoll, events, limit, milliseconds > 86400000 ? 86400000 : (int)milliseconds);
    }
  }
  if (count < 0) return -errno;
  for (int i = 0; i < count; i++) {
    out[i].data = events[i].data.u64;
    out[i].events = events[i].events;
  }
  return count;
}

int martlet_eventfd(void) {
  int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  return fd < 0 ? -errno : fd;
}

int martlet_eventfd_ring(int fd) {
  uint64_t one = 1;
  return write(fd, &one, sizeof one) < 0 ? -errno : 0;
}

int martlet_eventfd_drain(int fd) {
  uint64_t count;
  return read(fd, &count, sizeof count) < 0 ? -errno : 0;
}

static void fill(sigset_t *set, const int *signals, int count) {
  sigemptyset(set);
  for (int i = 0; i < count; i++) sigaddset(set, signals[i]);
}

int martlet_block_signals(const int *signals, int count) {
  sigset_t set;
  fill(&set, signals, count);
  return -pthread_sigmask(SIG_BLOCK, &set, NULL);
}

int martlet_signalfd(const int *signals, int count) {
  sigset_t set;
  fill(&set, signals, count);
  int error = pthread_sigmask(SIG_BLOCK, &set, NULL);
  if (error != 0) return -error;
  int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  return fd < 0 ? -errno : fd;
}

int martlet_signalfd_read(int fd) {
  struct signalfd_siginfo info;
  ssize_t n = read(fd, &info, sizeof info);
  if (n < 0) return -errno;
  return n == sizeof info ? (int)info.ssi_signo : -EIO;
}

int martlet_clock_watch_rearm(int fd) {
  struct itimerspec never = {.it_value = {.tv_sec = 0x7fffffff}};
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  // Far ahead of whatever the clock says; the expiry itself means nothing.
  if (now.tv_sec > 0 && now.tv_sec < INT64_MAX / 4) never.it_value.tv_sec += now.tv_sec;
  return timerfd_settime(fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &never, NULL) < 0
           ? -errno
           : 0;
}

int martlet_clock_watch(void) {
  int fd = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK);
  if (fd < 0) return -errno;
  int result = martlet_clock_watch_rearm(fd);
  if (result < 0) {
    close(fd);
    return result;
  }
  return fd;
}
