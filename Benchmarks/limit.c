/*
 * What this machine can do at most: source -> A -> B -> sink with one cipher
 * call per packet and nothing else (no streams, no acknowledgements, no loss
 * recovery). Martlet's speed is reported as a fraction of it, in the same run.
 *
 *   limit raw  SECONDS            one TCP stream over loopback
 *   limit cipher SECONDS CIPHER   packets of the udp mode sealed by one core, and nothing else
 *   limit tcp  SECONDS CIPHER     source =TCP=> A =TCP, sealed 64 KB records=> B =TCP=> sink
 *   limit udp  SECONDS CIPHER     source =TCP=> A =UDP GSO/GRO, sealed 1452 bytes=> B =TCP=> sink
 *   limit tcp|udp SECONDS CIPHER NS-A NS-B ADDRESS-B   the same, source and A in one named
 *                                 network namespace, B (at ADDRESS-B) and sink in another
 *
 * CIPHER is chacha or aes. Prints one line: `MODE CIPHER GBIT` (goodput at the
 * sink, 10^9 bits a second). Each role is a process of its own, as with the
 * real programs. Over UDP what the receiver has no room for is lost and is not
 * counted. Ends by itself after SECONDS.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <openssl/evp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum { RECORD = 65536, PACKET = 1452, TAG = 16, HEAD = 16, TRAIN = 44 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static void die(const char *what) {
  perror(what);
  exit(1);
}

/* Where A and B are; -1: where we are. */
static int space_a = -1, space_b = -1;
static in_addr_t address_b;

static int named_space(const char *name) {
  char path[256];
  snprintf(path, sizeof path, "/run/netns/%s", name);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) die(path);
  return fd;
}

static void enter(int space) {
  if (space >= 0 && setns(space, CLONE_NEWNET)) die("setns");
}

static int listener(int *port, in_addr_t at) {
  int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = at};
  socklen_t n = sizeof a;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(fd, (void *)&a, sizeof a) || listen(fd, 4)) die("listen");
  getsockname(fd, (void *)&a, &n);
  *port = ntohs(a.sin_port);
  return fd;
}

static int dial(int port, in_addr_t at) {
  int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
  struct sockaddr_in a = {.sin_family = AF_INET,
                          .sin_port = htons(port),
                          .sin_addr.s_addr = at};
  if (connect(fd, (void *)&a, sizeof a)) die("connect");
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  return fd;
}

static EVP_CIPHER_CTX *keyed(const char *name, int seal) {
  static const unsigned char key[32] = {1, 2, 3}, iv[12];
  const EVP_CIPHER *cipher = name[0] == 'a' ? EVP_aes_256_gcm() : EVP_chacha20_poly1305();
  EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
  EVP_CipherInit_ex(c, cipher, NULL, key, iv, seal);
  return c;
}

static void seal(EVP_CIPHER_CTX *c, uint64_t counter, unsigned char *p, int n) {
  unsigned char iv[12] = {0};
  int out;
  memcpy(iv + 4, &counter, 8);
  EVP_EncryptInit_ex(c, NULL, NULL, NULL, iv);
  EVP_EncryptUpdate(c, p, &out, p, n);
  EVP_EncryptFinal_ex(c, p + out, &out);
  EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_GET_TAG, TAG, p + n);
}

static int unseal(EVP_CIPHER_CTX *c, uint64_t counter, unsigned char *p, int n) {
  unsigned char iv[12] = {0};
  int out;
  memcpy(iv + 4, &counter, 8);
  EVP_DecryptInit_ex(c, NULL, NULL, NULL, iv);
  EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_SET_TAG, TAG, p + n);
  EVP_DecryptUpdate(c, p, &out, p, n);
  return EVP_DecryptFinal_ex(c, p + out, &out) > 0;
}

/* What is above every mode that seals. */
static void cipher_alone(double seconds, const char *cipher) {
  const int plain = PACKET - HEAD - TAG;
  static unsigned char p[PACKET];
  EVP_CIPHER_CTX *c = keyed(cipher, 1);
  uint64_t k = 0;
  double start = now(), t;
  do {
    for (int i = 0; i < 4096; i++) seal(c, k++, p, plain);
    t = now();
  } while (t < start + seconds);
  printf("cipher %s %.3f\n", cipher, k * plain * 8.0 / (t - start) / 1e9);
}

static int write_all(int fd, const unsigned char *p, size_t n) {
  while (n) {
    ssize_t w = write(fd, p, n);
    if (w <= 0) return -1;
    p += w, n -= w;
  }
  return 0;
}

static int read_all(int fd, unsigned char *p, size_t n) {
  while (n) {
    ssize_t r = read(fd, p, n);
    if (r <= 0) return -1;
    p += r, n -= r;
  }
  return 0;
}

static void source(int port) {
  static unsigned char block[256 * 1024];
  int fd = dial(port, htonl(INADDR_LOOPBACK));
  while (write_all(fd, block, sizeof block) == 0) {
  }
  exit(0);
}

static void sink(int fd, double seconds, const char *mode, const char *cipher) {
  static unsigned char block[256 * 1024];
  uint64_t bytes = 0;
  double start = 0, t;
  for (;;) {
    ssize_t n = read(fd, block, sizeof block);
    if (n <= 0) break;
    t = now();
    if (start == 0) start = t + 0.5; /* warm-up, not counted */
    if (t >= start) bytes += n;
    if (t >= start + seconds) break;
  }
  printf("%s %s %.3f\n", mode, cipher, bytes * 8 / (now() - start) / 1e9);
  fflush(stdout);
}

static unsigned char *pages(size_t n) {
  return mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
}

static void tcp_a(int in, int port, const char *cipher) {
  int from = accept(in, NULL, NULL), to = dial(port, address_b);
  unsigned char *p = pages(RECORD + 64);
  EVP_CIPHER_CTX *c = keyed(cipher, 1);
  for (uint64_t k = 0;; k++) {
    if (read_all(from, p + HEAD, RECORD)) exit(0);
    seal(c, k, p + HEAD, RECORD);
    if (write_all(to, p, HEAD + RECORD + TAG)) exit(0);
  }
}

static void tcp_b(int in, int port, const char *cipher) {
  int from = accept(in, NULL, NULL), to = dial(port, htonl(INADDR_LOOPBACK));
  unsigned char *p = pages(RECORD + 64);
  EVP_CIPHER_CTX *c = keyed(cipher, 0);
  for (uint64_t k = 0;; k++) {
    if (read_all(from, p, HEAD + RECORD + TAG)) exit(0);
    if (!unseal(c, k, p + HEAD, RECORD)) die("tag");
    if (write_all(to, p + HEAD, RECORD)) exit(0);
  }
}

static int udp_socket(in_addr_t at) {
  int fd = socket(AF_INET, SOCK_DGRAM, 0), big = 8 << 20;
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = at};
  if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &big, sizeof big))
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &big, sizeof big);
  if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof big))
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &big, sizeof big);
  if (bind(fd, (void *)&a, sizeof a)) die("bind");
  return fd;
}

static void udp_a(int in, int fd, const char *cipher) {
  const int plain = PACKET - HEAD - TAG;
  int from = accept(in, NULL, NULL), segment = PACKET;
  unsigned char *raw = pages(TRAIN * PACKET), *train = pages(TRAIN * PACKET);
  EVP_CIPHER_CTX *c = keyed(cipher, 1);
  setsockopt(fd, SOL_UDP, UDP_SEGMENT, &segment, sizeof segment);
  for (uint64_t k = 0;;) {
    if (read_all(from, raw, (size_t)TRAIN * plain)) exit(0);
    for (int i = 0; i < TRAIN; i++, k++) {
      unsigned char *p = train + i * PACKET;
      memcpy(p, &k, 8);
      memcpy(p + HEAD, raw + i * plain, plain);
      seal(c, k, p + HEAD, plain);
    }
    send(fd, train, TRAIN * PACKET, 0);
  }
}

static void udp_b(int fd, int port, const char *cipher) {
  const int plain = PACKET - HEAD - TAG;
  int to = dial(port, htonl(INADDR_LOOPBACK)), one = 1;
  unsigned char *in = pages(1 << 16), *out = pages(1 << 16);
  EVP_CIPHER_CTX *c = keyed(cipher, 0);
  setsockopt(fd, SOL_UDP, UDP_GRO, &one, sizeof one);
  for (;;) {
    ssize_t n = recv(fd, in, 1 << 16, 0);
    if (n < 0) die("recv");
    int used = 0;
    for (ssize_t at = 0; at + PACKET <= n; at += PACKET) {
      uint64_t k;
      memcpy(&k, in + at, 8);
      if (!unseal(c, k, in + at + HEAD, plain)) continue;
      memcpy(out + used, in + at + HEAD, plain);
      used += plain;
    }
    if (used && write_all(to, out, used)) exit(0);
  }
}

static pid_t children[8];
static int child_count;
static int child(int space) {
  pid_t p = fork();
  if (p < 0) die("fork");
  if (p > 0) children[child_count++] = p;
  if (p == 0) enter(space);
  return p == 0;
}

int main(int argc, char **argv) {
  const char *mode = argc > 1 ? argv[1] : "", *cipher = argc > 3 ? argv[3] : "-";
  double seconds = argc > 2 ? atof(argv[2]) : 0;
  int raw = !strcmp(mode, "raw");
  if (seconds <= 0 || (!raw && strcmp(cipher, "chacha") && strcmp(cipher, "aes")) ||
      (argc != 3 + !raw && (raw || argc != 7))) {
    fprintf(stderr, "usage: limit raw SECONDS | limit cipher SECONDS chacha|aes | limit tcp|udp SECONDS chacha|aes [NS-A NS-B ADDRESS-B]\n");
    return 2;
  }
  if (!strcmp(mode, "cipher")) {
    cipher_alone(seconds, cipher);
    return 0;
  }
  signal(SIGPIPE, SIG_IGN);
  in_addr_t loopback = htonl(INADDR_LOOPBACK);
  address_b = loopback;
  if (argc == 7) {
    space_a = named_space(argv[4]), space_b = named_space(argv[5]);
    if (inet_pton(AF_INET, argv[6], &address_b) != 1) die(argv[6]);
  }
  int sink_port, a_port, b_port, one = 1;
  enter(space_b);
  int sink_fd = listener(&sink_port, loopback), b_fd = listener(&b_port, address_b);
  int ub = udp_socket(address_b);
  enter(space_a);
  int a_fd = listener(&a_port, loopback);
  int ua = udp_socket(argc == 7 ? htonl(INADDR_ANY) : loopback);
  setsockopt(a_fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (raw) {
    if (child(-1)) source(sink_port);
  } else if (!strcmp(mode, "tcp")) {
    if (child(space_b)) tcp_b(b_fd, sink_port, cipher);
    if (child(space_a)) tcp_a(a_fd, b_port, cipher);
    if (child(space_a)) source(a_port);
  } else if (!strcmp(mode, "udp")) {
    struct sockaddr_in a;
    socklen_t n = sizeof a;
    getsockname(ub, (void *)&a, &n);
    if (connect(ua, (void *)&a, n)) die("connect");
    if (child(space_b)) udp_b(ub, sink_port, cipher);
    if (child(space_a)) udp_a(a_fd, ua, cipher);
    if (child(space_a)) source(a_port);
  } else {
    fprintf(stderr, "limit: unknown mode %s\n", mode);
    return 2;
  }
  sink(accept(sink_fd, NULL, NULL), seconds, mode, cipher);
  for (int i = 0; i < child_count; i++) kill(children[i], SIGKILL);
  while (wait(NULL) > 0) {
  }
  return 0;
}
