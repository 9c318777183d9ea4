/*
 * A network link in user space between two network namespaces, because kernels
 * without netem exist and because this one is seeded and says what it did.
 *
 *   link NS-A NS-B SECONDS [KEY=VALUE …] [ab: KEY=VALUE …] [ba: KEY=VALUE …]
 *
 * Opens a TUN device `link0` in each named namespace (`-` = the one it runs in)
 * and carries packets between them. Settings before `ab:` hold for both
 * directions, after it for packets from A to B only, after `ba:` the other way.
 *
 *   delay=MS jitter=MS   one-way delay, plus up to `jitter` more (order is kept)
 *   rate=MBIT queue=BYTES  0 = unlimited; a drop-tail queue in front of the rate
 *                        (0 = what the rate moves in 2 × delay, at least 64 KB)
 *   loss=% dup=%         of the packets that left the queue, independently
 *   reorder=PERMILLE extra=MS   so many packets come `extra` (default 5) later
 *   seed=N mtu=BYTES addr-a=IP addr-b=IP    (both directions; a /30, 10.99.0.1/2)
 *
 * Prints `ready` when both ends are up, then at the end (SECONDS are over,
 * SIGTERM or SIGINT) one JSON line per direction. `late_us` is how much later
 * than modelled packets were handed over: above about a millisecond the machine,
 * not the model, was the link. Same packets and seed, same losses.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CELLS = 1 << 17, BURST = 64, TX_QUEUE = 10000 };

struct settings {
  double delay_ms, jitter_ms, rate_mbit, queue_bytes, loss, dup, reorder, extra_ms;
};

/* A packet waiting for its time, in a binary heap ordered by (when, order). */
struct waiting {
  int64_t when;
  uint64_t order;
  uint32_t cell, length;
};

struct direction {
  struct settings set;
  const char *name;
  int from, to;
  uint64_t random, order;
  int64_t free_at, last_when; /* when the rate limiter is free; latest in-order delivery */
  struct waiting *heap;
  uint32_t count;
  unsigned char *cells;
  uint32_t *free_cells, free_count;
  uint64_t packets, bytes, delivered, delivered_bytes, lost, tail_drops, duplicated, reordered;
  uint64_t no_room, refused, late_count;
  int64_t queue_peak, late_sum, late_max;
};

static int cell_size = 2048, mtu = 1500;
static volatile sig_atomic_t ended;
static void end(int signal) { (void)signal, ended = 1; }

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void die(const char *what) {
  fprintf(stderr, "link: %s: %s\n", what, strerror(errno));
  exit(1);
}

/* xorshift64*: good enough for losses, and the same everywhere. */
static double draw(struct direction *d) {
  d->random ^= d->random >> 12, d->random ^= d->random << 25, d->random ^= d->random >> 27;
  return (double)((d->random * 0x2545F4914F6CDD1DULL) >> 11) / 9007199254740992.0;
}

static int before(const struct waiting *a, const struct waiting *b) {
  return a->when != b->when ? a->when < b->when : a->order < b->order;
}

static void push(struct direction *d, struct waiting w) {
  uint32_t i = d->count++;
  while (i && before(&w, &d->heap[(i - 1) / 2])) d->heap[i] = d->heap[(i - 1) / 2], i = (i - 1) / 2;
  d->heap[i] = w;
}

static struct waiting pop(struct direction *d) {
  struct waiting top = d->heap[0], last = d->heap[--d->count];
  uint32_t i = 0;
  for (;;) {
    uint32_t child = 2 * i + 1;
    if (child >= d->count) break;
    if (child + 1 < d->count && before(&d->heap[child + 1], &d->heap[child])) child++;
    if (!before(&d->heap[child], &last)) break;
    d->heap[i] = d->heap[child], i = child;
  }
  d->heap[i] = last;
  return top;
}

static void hand_over(struct direction *d, const unsigned char *packet, uint32_t length) {
  if (write(d->to, packet, length) == (ssize_t)length)
    d->delivered++, d->delivered_bytes += length;
  else
    d->refused++;
}

static void deliver(struct direction *d, int64_t t) {
  while (d->count && d->heap[0].when <= t) {
    struct waiting w = pop(d);
    int64_t late = t - w.when;
    d->late_sum += late, d->late_count++;
    if (late > d->late_max) d->late_max = late;
    hand_over(d, d->cells + (size_t)w.cell * cell_size, w.length);
    d->free_cells[d->free_count++] = w.cell;
  }
}

static void put(struct direction *d, const unsigned char *packet, uint32_t length, int64_t when) {
  if (!d->free_count) {
    d->no_room++;
    return;
  }
  uint32_t cell = d->free_cells[--d->free_count];
  memcpy(d->cells + (size_t)cell * cell_size, packet, length);
  push(d, (struct waiting){when, d->order++, cell, length});
}

/* The model: queue and rate, then loss on the wire, then delay. */
static void accept_packet(struct direction *d, const unsigned char *packet, uint32_t length,
                          int64_t t) {
  const struct settings *s = &d->set;
  int64_t when = t;
  d->packets++, d->bytes += length;
  if (s->rate_mbit > 0) {
    int64_t start = d->free_at > t ? d->free_at : t;
    int64_t backlog = (int64_t)((double)(start - t) * s->rate_mbit / 8000.0);
    if (backlog + length > s->queue_bytes) {
      d->tail_drops++;
      return;
    }
    if (backlog + length > d->queue_peak) d->queue_peak = backlog + length;
    d->free_at = start + (int64_t)(length * 8000.0 / s->rate_mbit);
    when = d->free_at;
  }
  /* Always the same number of draws, so that one setting does not shift another's luck. */
  double loss = draw(d), dup = draw(d), reorder = draw(d), jitter = draw(d);
  if (loss * 100 < s->loss) {
    d->lost++;
    return;
  }
  when += (int64_t)((s->delay_ms + jitter * s->jitter_ms) * 1e6);
  if (reorder * 1000 < s->reorder) {
    d->reordered++;
    when += (int64_t)(s->extra_ms * 1e6);
  } else {
    if (when < d->last_when) when = d->last_when;
    d->last_when = when;
  }
  int twice = dup * 100 < s->dup;
  d->duplicated += twice;
  if (when <= t && !d->count) {
    hand_over(d, packet, length);
    if (twice) hand_over(d, packet, length);
    return;
  }
  put(d, packet, length, when);
  if (twice) put(d, packet, length, when);
}

/* Reads what has come, at most a burst; 1 = there may be more. */
static int take(struct direction *d) {
  static unsigned char packet[65536];
  for (int i = 0; i < BURST; i++) {
    ssize_t n = read(d->from, packet, sizeof packet);
    if (n < 0) {
      if (errno == EAGAIN || errno == EINTR || errno == EIO) return 0;
      die("read");
    }
    if (n > cell_size) continue; /* larger than the MTU: cannot happen */
    accept_packet(d, packet, (uint32_t)n, now());
  }
  return 1;
}

static void in_namespace(const char *name) {
  char path[256];
  if (!strcmp(name, "-")) return;
  snprintf(path, sizeof path, "/run/netns/%s", name);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || setns(fd, CLONE_NEWNET)) die(path);
  close(fd);
}

static int tun(const char *address) {
  int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  struct ifreq r = {.ifr_flags = IFF_TUN | IFF_NO_PI};
  struct sockaddr_in *in = (void *)&r.ifr_addr;
  strcpy(r.ifr_name, "link0");
  if (fd < 0 || s < 0 || ioctl(fd, TUNSETIFF, &r)) die("/dev/net/tun");
  r.ifr_mtu = mtu;
  if (ioctl(s, SIOCSIFMTU, &r)) die("mtu");
  r.ifr_qlen = TX_QUEUE; /* the queue of the model is the only one that drops */
  if (ioctl(s, SIOCSIFTXQLEN, &r)) die("txqueuelen");
  memset(&r.ifr_addr, 0, sizeof r.ifr_addr);
  in->sin_family = AF_INET;
  if (inet_pton(AF_INET, address, &in->sin_addr) != 1) die(address);
  if (ioctl(s, SIOCSIFADDR, &r)) die("address");
  in->sin_addr.s_addr = htonl(0xfffffffc);
  if (ioctl(s, SIOCSIFNETMASK, &r)) die("netmask");
  r.ifr_flags = IFF_UP | IFF_RUNNING;
  if (ioctl(s, SIOCSIFFLAGS, &r)) die("up");
  close(s);
  return fd;
}

static void prepare(struct direction *d, const char *name, int from, int to, uint64_t seed) {
  d->name = name, d->from = from, d->to = to;
  d->random = (seed + 1) * 0x9E3779B97F4A7C15ULL + 1;
  for (int i = 0; i < 8; i++) draw(d);
  d->cells = mmap(NULL, (size_t)CELLS * cell_size, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  d->heap = malloc(CELLS * sizeof *d->heap);
  d->free_cells = malloc(CELLS * sizeof *d->free_cells);
  if (d->cells == MAP_FAILED || !d->heap || !d->free_cells) die("memory");
  for (uint32_t i = 0; i < CELLS; i++) d->free_cells[i] = CELLS - 1 - i;
  d->free_count = CELLS;
  if (d->set.queue_bytes == 0) {
    d->set.queue_bytes = d->set.rate_mbit * 125.0 * 2 * d->set.delay_ms;
    if (d->set.queue_bytes < 65536) d->set.queue_bytes = 65536;
  }
}

static void report(const struct direction *d, double seconds) {
  printf("{\"direction\":\"%s\",\"seconds\":%.3f,\"packets\":%llu,\"bytes\":%llu,"
         "\"delivered\":%llu,\"delivered_bytes\":%llu,\"lost\":%llu,\"tail_drops\":%llu,"
         "\"duplicated\":%llu,\"reordered\":%llu,\"no_room\":%llu,\"refused\":%llu,"
         "\"queue_bytes\":%.0f,\"queue_peak\":%lld,\"late_us_mean\":%.1f,\"late_us_max\":%.1f}\n",
         d->name, seconds, (unsigned long long)d->packets, (unsigned long long)d->bytes,
         (unsigned long long)d->delivered, (unsigned long long)d->delivered_bytes,
         (unsigned long long)d->lost, (unsigned long long)d->tail_drops,
         (unsigned long long)d->duplicated, (unsigned long long)d->reordered,
         (unsigned long long)d->no_room, (unsigned long long)d->refused, d->set.queue_bytes,
         (long long)d->queue_peak,
         d->late_count ? d->late_sum / 1e3 / (double)d->late_count : 0.0, d->late_max / 1e3);
}

static double number(const char *text, const char *whole) {
  char *rest;
  double value = strtod(text, &rest);
  if (*rest || rest == text || !(value >= 0)) {
    fprintf(stderr, "link: %s: not a number of 0 or more\n", whole);
    exit(2);
  }
  return value;
}

int main(int argc, char **argv) {
  static struct direction ab = {.set.extra_ms = 5}, ba = {.set.extra_ms = 5};
  const char *address_a = "10.99.0.1", *address_b = "10.99.0.2";
  uint64_t seed = 1;
  int which = 3;
  if (argc < 4) {
    fprintf(stderr, "usage: link NS-A NS-B SECONDS [KEY=VALUE …] [ab: …] [ba: …]\n"
                    "keys: delay jitter rate queue loss dup reorder extra seed mtu addr-a addr-b\n");
    return 2;
  }
  double seconds = number(argv[3], argv[3]);
  for (int i = 4; i < argc; i++) {
    char key[16], *equals = strchr(argv[i], '=');
    if (!strcmp(argv[i], "ab:") || !strcmp(argv[i], "ba:")) {
      which = argv[i][0] == 'a' ? 1 : 2;
      continue;
    }
    if (!equals || (size_t)(equals - argv[i]) >= sizeof key) goto unknown;
    memcpy(key, argv[i], equals - argv[i]), key[equals - argv[i]] = 0;
    const char *value = equals + 1;
    if (!strcmp(key, "addr-a")) address_a = value;
    else if (!strcmp(key, "addr-b")) address_b = value;
    else if (!strcmp(key, "seed")) seed = (uint64_t)number(value, argv[i]);
    else if (!strcmp(key, "mtu")) mtu = (int)number(value, argv[i]);
    else {
      static const struct { const char *key; size_t at; } table[] = {
          {"delay", offsetof(struct settings, delay_ms)}, {"jitter", offsetof(struct settings, jitter_ms)},
          {"rate", offsetof(struct settings, rate_mbit)}, {"queue", offsetof(struct settings, queue_bytes)},
          {"loss", offsetof(struct settings, loss)}, {"dup", offsetof(struct settings, dup)},
          {"reorder", offsetof(struct settings, reorder)}, {"extra", offsetof(struct settings, extra_ms)}};
      size_t k = 0;
      while (k < sizeof table / sizeof *table && strcmp(key, table[k].key)) k++;
      if (k == sizeof table / sizeof *table) goto unknown;
      if (which & 1) *(double *)((char *)&ab.set + table[k].at) = number(value, argv[i]);
      if (which & 2) *(double *)((char *)&ba.set + table[k].at) = number(value, argv[i]);
    }
    continue;
  unknown:
    fprintf(stderr, "link: unknown setting %s\n", argv[i]);
    return 2;
  }
  if (mtu < 576 || mtu > 65535) {
    fprintf(stderr, "link: mtu must be 576 to 65535\n");
    return 2;
  }
  cell_size = (mtu + 127) / 64 * 64;

  struct sigaction action = {.sa_handler = end};
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGINT, &action, NULL);
  prctl(PR_SET_TIMERSLACK, 1);
  /* A wire waits for nobody. Without the right to this it runs as it is. */
  struct sched_param real_time = {.sched_priority = 1};
  if (sched_setscheduler(0, SCHED_RR, &real_time)) setpriority(PRIO_PROCESS, 0, -20);

  int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  in_namespace(argv[1]);
  int a = tun(address_a);
  if (home >= 0 && setns(home, CLONE_NEWNET)) die("setns back");
  in_namespace(argv[2]);
  int b = tun(address_b);
  prepare(&ab, "ab", a, b, seed);
  prepare(&ba, "ba", b, a, seed ^ 0xB0A);

  int poll = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN};
  if (epoll_ctl(poll, EPOLL_CTL_ADD, a, &event) || epoll_ctl(poll, EPOLL_CTL_ADD, b, &event)) die("epoll");
  puts("ready");
  fflush(stdout);

  int64_t start = now(), last = start + (int64_t)(seconds * 1e9), t;
  while (!ended && (t = now()) < last) {
    deliver(&ab, t);
    deliver(&ba, t);
    int more = take(&ab) | take(&ba);
    if (more) continue;
    int64_t next = last;
    if (ab.count && ab.heap[0].when < next) next = ab.heap[0].when;
    if (ba.count && ba.heap[0].when < next) next = ba.heap[0].when;
    t = now();
    if (next <= t) continue;
    struct timespec wait = {(next - t) / 1000000000, (next - t) % 1000000000};
    struct epoll_event events[2];
    if (epoll_pwait2(poll, events, 2, &wait, NULL) < 0 && errno != EINTR) {
      if (errno != ENOSYS) die("epoll_pwait2");
      epoll_wait(poll, events, 2, (int)((next - t) / 1000000)); /* before Linux 5.11: milliseconds */
    }
  }
  double took = (now() - start) / 1e9;
  report(&ab, took);
  report(&ba, took);
  return 0;
}
