// Network namespaces and processes for the lab: entering one, being root in a
// namespace of one's own, starting programs that are recorded before they run.
#define _GNU_SOURCE
#include "CLinux.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int write_file(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return -errno;
  ssize_t n = write(fd, text, strlen(text));
  int result = n < 0 ? -errno : 0;
  close(fd);
  return result;
}

int martlet_netns_enter(const char *path) {
  int before = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
  if (before < 0) return -errno;
  int there = open(path, O_RDONLY | O_CLOEXEC);
  int result = there < 0 ? -errno : 0;
  if (result == 0 && setns(there, CLONE_NEWNET) < 0) result = -errno;
  if (there >= 0) close(there);
  if (result == 0) return before;
  close(before);
  return result;
}

int martlet_netns_return(int before) {
  int result = setns(before, CLONE_NEWNET) < 0 ? -errno : 0;
  close(before);
  return result;
}

int martlet_own_namespaces(void) {
  char text[64];
  uid_t uid = geteuid();
  gid_t gid = getegid();
  if (unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS) < 0) return -errno;
  int result = write_file("/proc/self/setgroups", "deny");
  if (result < 0) return result;
  snprintf(text, sizeof text, "0 %u 1", (unsigned)uid);
  if ((result = write_file("/proc/self/uid_map", text)) < 0) return result;
  snprintf(text, sizeof text, "0 %u 1", (unsigned)gid);
  if ((result = write_file("/proc/self/gid_map", text)) < 0) return result;
  // `ip netns` keeps its names below /run, which is not ours.
  if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) return -errno;
  if (mount("tmpfs", "/run", "tmpfs", 0, "mode=755") < 0) return -errno;
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
  result = ioctl(fd, SIOCSIFFLAGS, &request) < 0 ? -errno : 0;
  close(fd);
  return result;
}

// Between fork and exec: system calls only. Gives the errno to exit with.
static int become(const struct martlet_spawn *what, const char *const *argv, const char *const *env) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  signal(SIGPIPE, SIG_DFL);
  if (setsid() < 0) return errno;
  if (what->death_signal && prctl(PR_SET_PDEATHSIG, what->death_signal) < 0) return errno;
  if (what->death_signal && getppid() != what->parent) return ESRCH;
  if (what->journal >= 0) {
    // The record comes before the program: whoever tears down finds us. The
    // time of writing tells us from a later process of the same number.
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    char line[64];
    int count = snprintf(
      line, sizeof line, "process %d %lld\n", (int)getpid(),
      (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000);
    if (write(what->journal, line, (size_t)count) != count) return EIO;
  }
  if (what->namespace_path) {
    int fd = open(what->namespace_path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return errno;
    if (setns(fd, CLONE_NEWNET) < 0) return errno;
  }
  if (what->directory && chdir(what->directory) < 0) return errno;
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0) return errno;
  if (dup2(what->input >= 0 ? what->input : null, 0) < 0) return errno;
  if (dup2(what->output >= 0 ? what->output : null, 1) < 0) return errno;
  if (dup2(what->error >= 0 ? what->error : null, 2) < 0) return errno;
  execvpe(argv[0], (char *const *)argv, (char *const *)env);
  return errno;
}

int martlet_spawn(
  const struct martlet_spawn *what, const char *const *argv, const char *const *environment) {
  int report[2];
  if (pipe2(report, O_CLOEXEC) < 0) return -errno;
  struct martlet_spawn copy = *what;
  copy.parent = getpid();
  pid_t pid = fork();
  if (pid < 0) {
    int error = errno;
    close(report[0]);
    close(report[1]);
    return -error;
  }
  if (pid == 0) {
    close(report[0]);
    int error = become(&copy, argv, environment);
    ssize_t ignored = write(report[1], &error, sizeof error);
    (void)ignored;
    _exit(127);
  }
  close(report[1]);
  int error = 0;
  ssize_t n;
  do n = read(report[0], &error, sizeof error);
  while (n < 0 && errno == EINTR);
  close(report[0]);
  if (n == sizeof error) {
    waitpid(pid, NULL, 0);
    return -error;
  }
  return pid;
}

int martlet_pidfd(int pid) {
  int fd = (int)syscall(SYS_pidfd_open, pid, 0);
  if (fd < 0) return -errno;
  return fd;
}

int martlet_reap(int pid, int *status) {
  int raw = 0;
  pid_t result = waitpid(pid, &raw, WNOHANG);
  if (result < 0) return -errno;
  if (result == 0) return 0;
  *status = WIFEXITED(raw) ? WEXITSTATUS(raw) : 128 + WTERMSIG(raw);
  return 1;
}

int martlet_signal_process(int pid, int signal) {
  if (pid <= 1) return -EINVAL;
  return kill(pid, signal) < 0 ? -errno : 0;
}

int martlet_signal_group(int pid, int signal) {
  if (pid <= 1) return -EINVAL;
  return kill(-pid, signal) < 0 ? -errno : 0;
}

int martlet_pipe(int *reading, int *writing) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) return -errno;
  *reading = ends[0];
  *writing = ends[1];
  return 0;
}

int martlet_memory_file(const void *bytes, size_t count) {
  int fd = memfd_create("martlet", MFD_CLOEXEC);
  if (fd < 0) return -errno;
  const char *at = bytes;
  while (count > 0) {
    ssize_t n = write(fd, at, count);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      int error = n < 0 ? errno : ENOSPC;
      close(fd);
      return -error;
    }
    at += n;
    count -= (size_t)n;
  }
  lseek(fd, 0, SEEK_SET);
  return fd;
}

int martlet_readable_set(const int *fds, int count, int64_t timeout, uint64_t *ready) {
  enum { LIMIT = 64 };
  struct pollfd polled[LIMIT];
  if (count > LIMIT) return -EINVAL;
  for (int i = 0; i < count; i++) polled[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
  struct timespec time = {timeout / 1000000000, timeout % 1000000000};
  int result = ppoll(polled, (nfds_t)count, timeout < 0 ? NULL : &time, NULL);
  *ready = 0;
  if (result < 0) return errno == EINTR ? 0 : -errno;
  for (int i = 0; i < count; i++) {
    if (polled[i].revents) *ready |= 1ull << i;
  }
  return result;
}
