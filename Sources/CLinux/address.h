// Between martlet_endpoint and sockaddr. Private to the C files, which have
// defined _GNU_SOURCE before they come here.
#ifndef MARTLET_ADDRESS_H
#define MARTLET_ADDRESS_H

#include "CLinux.h"

#include <arpa/inet.h>
#include <endian.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

static inline int martlet_is_v4(const struct martlet_endpoint *e) {
  return e->high == 0 && e->low >> 32 == 0xffff;
}

static inline void martlet_put_v6(struct in6_addr *out, const struct martlet_endpoint *e) {
  uint64_t words[2] = {htobe64(e->high), htobe64(e->low)};
  memcpy(out, words, 16);
}

static inline void martlet_take_v4(struct martlet_endpoint *e, const struct in_addr *a) {
  e->high = 0;
  e->low = 0xffff00000000ull | ntohl(a->s_addr);
}

static inline void martlet_take_v6(struct martlet_endpoint *e, const struct in6_addr *a) {
  uint64_t words[2];
  memcpy(words, a, 16);
  e->high = be64toh(words[0]);
  e->low = be64toh(words[1]);
}

/// Writes a sockaddr; an IPv4 address becomes a mapped one on an IPv6 socket.
static inline socklen_t martlet_to_sockaddr(
  const struct martlet_endpoint *e, int as_v6, struct sockaddr_storage *out) {
  if (!as_v6 && martlet_is_v4(e)) {
    struct sockaddr_in *in = (struct sockaddr_in *)out;
    memset(in, 0, sizeof *in);
    in->sin_family = AF_INET;
    in->sin_port = htons(e->port);
    in->sin_addr.s_addr = htonl((uint32_t)e->low);
    return sizeof *in;
  }
  struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)out;
  memset(in6, 0, sizeof *in6);
  in6->sin6_family = AF_INET6;
  in6->sin6_port = htons(e->port);
  martlet_put_v6(&in6->sin6_addr, e);
  return sizeof *in6;
}

/// Reads a sockaddr; anything but IPv4 and IPv6 becomes the unspecified address.
static inline void martlet_from_sockaddr(const void *from, struct martlet_endpoint *e) {
  const struct sockaddr *any = from;
  if (any->sa_family == AF_INET) {
    const struct sockaddr_in *in = from;
    martlet_take_v4(e, &in->sin_addr);
    e->port = ntohs(in->sin_port);
  } else if (any->sa_family == AF_INET6) {
    const struct sockaddr_in6 *in6 = from;
    martlet_take_v6(e, &in6->sin6_addr);
    e->port = ntohs(in6->sin6_port);
  } else {
    memset(e, 0, sizeof *e);
  }
}

int martlet_apply_options(int fd, int is_v6, const struct martlet_socket_options *options);

#endif
