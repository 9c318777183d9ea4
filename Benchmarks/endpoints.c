/*
 * The load of the benchmarks: the same source and sink as in limit.c, and small
 * clients and servers, so that nobody else's program is measured along.
 *
 *   source HOST PORT SECONDS BYTES [CONGESTION BUFFER]   sends a known pattern until
 *              SECONDS or BYTES are reached (0 = no limit; both 0: zeros, as limit.c)
 *              or the other side ends
 *   sink PORT SECONDS [CONGESTION BUFFER]   accepts one connection; half a second of
 *              warm-up, then counts for SECONDS and prints `GBIT BYTES` (0 = until the
 *              end of the stream, counted from its first byte, no warm-up)
 *   check PORT SECONDS [CONGESTION BUFFER]   as `sink`, but compares every byte with
 *              the pattern; exit status 1 on the first that differs; counts from the
 *              first byte, or WARM_UP seconds (environment) after it, for SECONDS or (0) to
 *              the end of the stream
 *   answer PORT                 for each connection: sends `!` at once, then after 64
 *              bytes sends them back and closes; until SIGTERM
 *   latency HOST PORT COUNT     one after another: connect, first answer byte; prints
 *              COUNT lines of microseconds
 *   echo PORT                   sends back what comes, on every connection; until SIGTERM
 *   talk HOST PORT SECONDS COUNT GAP   on one connection, sends 64 bytes, waits for them to
 *              come back, then GAP milliseconds; prints `AT MICROSECONDS` for each (AT:
 *              seconds of CLOCK_MONOTONIC when it was sent), until COUNT or SECONDS (0 = no
 *              limit). Exit status 1 when the connection ends before
 *   gaps PORT SECONDS LEAST     as `check`, and prints a line `AT MILLISECONDS` for each pause
 *              of LEAST milliseconds or more between two arrivals; then `GBIT BYTES SHA-256`
 *   digest BYTES                the SHA-256 of so many bytes of the pattern
 *   storm PORT COUNT AT-ONCE    short connections (connect, `!`, 64 bytes there and back,
 *              end); prints `COUNT FAILED SECONDS`, then a line of microseconds for each
 *
 * Everything is on IPv4. `ready` is printed by those who listen. Link with -lcrypto.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 256 * 1024, REQUEST = 64, MOST = 16384 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static void die(const char *what) {
  fprintf(stderr, "endpoints: %s: %s\n", what, strerror(errno));
  exit(1);
}

static void tune(int fd, int argc, char **argv, int at) {
  if (argc > at && setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, argv[at], strlen(argv[at])))
    die(argv[at]);
  if (argc > at + 1) {
    int size = atoi(argv[at + 1]);
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size))
      setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size))
      setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
  }
}

static struct sockaddr_in address(const char *host, const char *port) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
  if (inet_pton(AF_INET, host, &a.sin_addr) != 1) die(host);
  return a;
}

static int listening(const char *port, int argc, char **argv, int at) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
  struct sockaddr_in a = address("0.0.0.0", port);
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  tune(fd, argc, argv, at);
  if (bind(fd, (void *)&a, sizeof a) || listen(fd, 4096)) die("listen");
  puts("ready");
  fflush(stdout);
  return fd;
}

/* Byte n of the pattern: words of a multiplied offset, so that no part of it
 * can stand in for another. */
static void pattern(unsigned char *p, uint64_t offset, size_t n) {
  size_t i = 0;
  if (offset % 8 == 0)
    for (uint64_t k = offset / 8 + 1; i + 8 <= n; i += 8, k++) {
      uint64_t word = k * 0x9E3779B97F4A7C15ULL;
      memcpy(p + i, &word, 8);
    }
  while (i < n) {
    uint64_t word = ((offset + i) / 8 + 1) * 0x9E3779B97F4A7C15ULL;
    size_t skip = (offset + i) % 8, take = n - i < 8 - skip ? n - i : 8 - skip;
    memcpy(p + i, (unsigned char *)&word + skip, take);
    i += take;
  }
}

static int source(int argc, char **argv) {
  static unsigned char block[BLOCK];
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
  struct sockaddr_in a = address(argv[2], argv[3]);
  double seconds = atof(argv[4]), end;
  uint64_t limit = strtoull(argv[5], NULL, 10), sent = 0;
  int plain = seconds == 0 && limit == 0; /* until closed: no pattern, as in limit.c */
  tune(fd, argc, argv, 6);
  if (connect(fd, (void *)&a, sizeof a)) die("connect");
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  end = now() + seconds;
  while ((seconds == 0 || now() < end) && (limit == 0 || sent < limit)) {
    size_t n = limit && limit - sent < BLOCK ? limit - sent : BLOCK, done = 0;
    if (!plain) pattern(block, sent, n);
    while (done < n) {
      ssize_t w = write(fd, block + done, n - done);
      if (w <= 0) {
        fprintf(stderr, "sent %llu, then: %s\n", (unsigned long long)(sent + done), strerror(errno));
        return 0; /* the far end had enough; whether all came is for it to say */
      }
      done += w;
    }
    sent += n;
  }
  shutdown(fd, SHUT_WR);
  unsigned char last;
  while (read(fd, &last, 1) > 0) { /* until the far end has taken everything */
  }
  fprintf(stderr, "sent %llu\n", (unsigned long long)sent);
  return 0;
}

static void print_digest(EVP_MD_CTX *sums) {
  unsigned char sum[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  if (!EVP_DigestFinal_ex(sums, sum, &length)) die("SHA-256");
  for (unsigned i = 0; i < length; i++) printf("%02x", sum[i]);
}

static EVP_MD_CTX *new_digest(void) {
  EVP_MD_CTX *sums = EVP_MD_CTX_new();
  if (!sums || !EVP_DigestInit_ex(sums, EVP_sha256(), NULL)) die("SHA-256");
  return sums;
}

static int digest(char **argv) {
  static unsigned char block[BLOCK];
  uint64_t bytes = strtoull(argv[2], NULL, 10);
  EVP_MD_CTX *sums = new_digest();
  for (uint64_t at = 0; at < bytes; at += BLOCK) {
    size_t n = bytes - at < BLOCK ? bytes - at : BLOCK;
    pattern(block, at, n);
    EVP_DigestUpdate(sums, block, n);
  }
  print_digest(sums);
  puts("");
  return 0;
}

/* `least`: 0, or the pauses worth a line, in seconds. */
static int sink(int argc, char **argv, int compare, double least) {
  static unsigned char block[BLOCK], wanted[BLOCK];
  double seconds = atof(argv[3]), warm_up = compare || seconds == 0 ? 0 : 0.5, start = 0, t = 0;
  int listener = listening(argv[2], least ? 0 : argc, argv, 4);
  int fd = accept(listener, NULL, NULL);
  uint64_t bytes = 0, offset = 0;
  EVP_MD_CTX *sums = least ? new_digest() : NULL;
  if (compare && getenv("WARM_UP")) warm_up = atof(getenv("WARM_UP"));
  close(listener);
  for (;;) {
    ssize_t n = read(fd, block, sizeof block);
    if (n < 0) die("read");
    if (n == 0) break;
    double last = t;
    t = now();
    if (start == 0) start = t + warm_up;
    if (least && last && t - last >= least) printf("%.6f %.3f\n", last, (t - last) * 1e3), fflush(stdout);
    if (least) EVP_DigestUpdate(sums, block, n);
    if (compare) {
      pattern(wanted, offset, n);
      if (memcmp(wanted, block, n)) {
        printf("different near byte %llu\n", (unsigned long long)offset);
        return 1;
      }
    }
    offset += n;
    if (t >= start) bytes += n;
    if (seconds > 0 && t >= start + seconds) break;
  }
  printf("%.4f %llu", t > start ? bytes * 8 / (t - start) / 1e9 : 0.0, (unsigned long long)bytes);
  if (least) putchar(' '), print_digest(sums);
  puts("");
  return 0;
}

static int dial(const char *host, const char *port) {
  struct sockaddr_in a = address(host, port);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
  if (connect(fd, (void *)&a, sizeof a)) die("connect");
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  return fd;
}

/* Small things only: who does not read his echo holds up everybody. */
static _Noreturn void echo(char **argv) {
  static unsigned char block[BLOCK];
  int listener = listening(argv[2], 0, argv, 0), poll = epoll_create1(EPOLL_CLOEXEC), one = 1;
  struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[64];
  epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
  for (;;) {
    int n = epoll_wait(poll, events, 64, -1);
    for (int i = 0; i < n; i++) {
      int fd = events[i].data.fd;
      if (fd == listener) {
        fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0) continue;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        event.data.fd = fd;
        epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
        continue;
      }
      ssize_t got = read(fd, block, sizeof block);
      if (got <= 0 || send(fd, block, got, MSG_NOSIGNAL) != got) close(fd);
    }
  }
}

static int talk(char **argv) {
  unsigned char said[REQUEST], heard[REQUEST];
  double seconds = atof(argv[4]), gap = atof(argv[6]) / 1e3, begin = now();
  long count = atol(argv[5]);
  int fd = dial(argv[2], argv[3]);
  for (long i = 0; (!count || i < count) && (seconds == 0 || now() < begin + seconds); i++) {
    double start = now();
    pattern(said, i * REQUEST, REQUEST);
    if (send(fd, said, REQUEST, MSG_NOSIGNAL) != REQUEST) die("send");
    for (int got = 0; got < REQUEST;) {
      ssize_t n = read(fd, heard + got, REQUEST - got);
      if (n < 0) die("read");
      if (n == 0) return fprintf(stderr, "endpoints: the far end closed\n"), 1;
      got += n;
    }
    if (memcmp(said, heard, REQUEST)) return fprintf(stderr, "endpoints: a wrong echo\n"), 1;
    printf("%.6f %.1f\n", start, (now() - start) * 1e6);
    struct timespec pause = {(time_t)gap, (long)((gap - (time_t)gap) * 1e9)};
    if (gap > 0) nanosleep(&pause, NULL);
  }
  return 0;
}

/* One per connection of `answer` and `storm`. */
struct talk {
  int fd, got;
  double started;
  unsigned char bytes[REQUEST + 1];
};

static _Noreturn void answer(char **argv) {
  int listener = listening(argv[2], 0, argv, 0), poll = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[256];
  fcntl(listener, F_SETFL, O_NONBLOCK);
  epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
  for (;;) {
    int n = epoll_wait(poll, events, 256, -1);
    for (int i = 0; i < n; i++) {
      struct talk *c = events[i].data.ptr;
      if (!c) {
        int fd, one = 1;
        while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
          setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
          if (send(fd, "!", 1, MSG_NOSIGNAL) != 1) {
            close(fd);
            continue;
          }
          c = calloc(1, sizeof *c);
          c->fd = fd;
          event.data.ptr = c;
          epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
        }
        continue;
      }
      ssize_t got = read(c->fd, c->bytes + c->got, REQUEST - c->got);
      if (got < 0 && errno == EAGAIN) continue;
      if (got > 0 && (c->got += got) < REQUEST) continue;
      if (got > 0) (void)!send(c->fd, c->bytes, REQUEST, MSG_NOSIGNAL);
      close(c->fd);
      free(c);
    }
  }
}

static int latency(char **argv) {
  for (int i = 0, count = atoi(argv[4]); i < count; i++) {
    char first;
    double start = now();
    int fd = dial(argv[2], argv[3]);
    if (read(fd, &first, 1) != 1) die("latency");
    printf("%.1f\n", (now() - start) * 1e6);
    close(fd);
  }
  return 0;
}

static int storm(char **argv) {
  static struct talk talks[1024];
  static float took[1 << 20];
  struct sockaddr_in a = address("127.0.0.1", argv[2]);
  int count = atoi(argv[3]), at_once = atoi(argv[4]), started = 0, failed = 0, done = 0, good = 0;
  int poll = epoll_create1(EPOLL_CLOEXEC), idle[1024], idle_count = 0;
  if (at_once < 1 || at_once > 1024 || count > 1 << 20) return 2;
  for (int i = 0; i < at_once; i++) idle[idle_count++] = i;
  double begin = now();
  while (done < count) {
    while (idle_count && started < count) {
      struct talk *c = &talks[idle[--idle_count]];
      struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
      c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
      c->got = 0, c->started = now(), started++;
      if (c->fd < 0 || (connect(c->fd, (void *)&a, sizeof a) && errno != EINPROGRESS)) die("connect");
      epoll_ctl(poll, EPOLL_CTL_ADD, c->fd, &event);
    }
    struct epoll_event events[256];
    int n = epoll_wait(poll, events, 256, 10000);
    if (n == 0) { /* ten seconds of silence: whatever is open has failed */
      failed += started - done + (count - started);
      break;
    }
    for (int i = 0; i < n; i++) {
      struct talk *c = events[i].data.ptr;
      unsigned char text[REQUEST + 2];
      int bad = 0, over = 0;
      for (;;) {
        ssize_t got = read(c->fd, text, sizeof text);
        if (got < 0 && (errno == EAGAIN || errno == ENOTCONN)) break;
        if (got < 0) bad = 1;
        if (got == 0) over = 1, bad = c->got != REQUEST + 1;
        if (got <= 0) break;
        if (c->got == 0) {
          bad |= text[0] != '!';
          memset(c->bytes, 'a' + (c - talks) % 26, REQUEST);
          if (send(c->fd, c->bytes, REQUEST, MSG_NOSIGNAL) != REQUEST) bad = 1;
        }
        for (ssize_t k = c->got == 0; k < got; k++) bad |= text[k] != 'a' + (c - talks) % 26;
        c->got += got;
        if (bad) break;
      }
      if (!bad && !over) continue;
      if (bad) failed++;
      else took[good++] = (now() - c->started) * 1e6;
      close(c->fd);
      idle[idle_count++] = c - talks;
      done++;
    }
  }
  printf("%d %d %.4f\n", count, failed, now() - begin);
  for (int i = 0; i < good; i++) printf("%.1f\n", took[i]);
  return 0;
}

int main(int argc, char **argv) {
  const char *mode = argc > 1 ? argv[1] : "";
  struct rlimit most = {MOST, MOST};
  setrlimit(RLIMIT_NOFILE, &most);
  signal(SIGPIPE, SIG_IGN);
  if (!strcmp(mode, "source") && argc >= 6) return source(argc, argv);
  if (!strcmp(mode, "sink") && argc >= 4) return sink(argc, argv, 0, 0);
  if (!strcmp(mode, "check") && argc >= 4) return sink(argc, argv, 1, 0);
  if (!strcmp(mode, "gaps") && argc == 5) return sink(argc, argv, 1, atof(argv[4]) / 1e3);
  if (!strcmp(mode, "digest") && argc == 3) return digest(argv);
  if (!strcmp(mode, "echo") && argc == 3) echo(argv);
  if (!strcmp(mode, "talk") && argc == 7) return talk(argv);
  if (!strcmp(mode, "answer") && argc == 3) answer(argv);
  if (!strcmp(mode, "latency") && argc == 5) return latency(argv);
  if (!strcmp(mode, "storm") && argc == 5) return storm(argv);
  fprintf(stderr, "usage: endpoints source|sink|check|gaps|digest|answer|echo|latency|talk|storm …, see endpoints.c\n");
  return 2;
}
