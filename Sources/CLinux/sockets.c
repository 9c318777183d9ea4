// What all sockets share.
#define _GNU_SOURCE
#include "address.h"

#include <errno.h>
#include <unistd.h>

int martlet_close(int fd) { return close(fd) < 0 ? -errno : 0; }

int martlet_close_reset(int fd) {
  struct linger linger = {.l_onoff = 1, .l_linger = 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
  return martlet_close(fd);
}

int martlet_local_endpoint(int fd, struct martlet_endpoint *out) {
  struct sockaddr_storage address;
  socklen_t size = sizeof address;
  if (getsockname(fd, (struct sockaddr *)&address, &size) < 0) return -errno;
  martlet_from_sockaddr(&address, out);
  return 0;
}

int martlet_remote_endpoint(int fd, struct martlet_endpoint *out) {
  struct sockaddr_storage address;
  socklen_t size = sizeof address;
  if (getpeername(fd, (struct sockaddr *)&address, &size) < 0) return -errno;
  martlet_from_sockaddr(&address, out);
  return 0;
}

int martlet_socket_error(int fd) {
  int error = 0;
  socklen_t size = sizeof error;
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0) return -errno;
  return error;
}

int martlet_get_buffer(int fd, int send) {
  int value = 0;
  socklen_t size = sizeof value;
  if (getsockopt(fd, SOL_SOCKET, send ? SO_SNDBUF : SO_RCVBUF, &value, &size) < 0) return -errno;
  return value;
}

static void set_buffer(int fd, int forced, int plain, int bytes) {
  // The forced form passes net.core.*mem_max but needs CAP_NET_ADMIN.
  if (setsockopt(fd, SOL_SOCKET, forced, &bytes, sizeof bytes) < 0)
    setsockopt(fd, SOL_SOCKET, plain, &bytes, sizeof bytes);
}

/// Returns 1 when everything held, 0 when only the mark was refused.
int martlet_apply_options(int fd, int is_v6, const struct martlet_socket_options *options) {
  int on = 1;
  int marked = 1;
  if (is_v6) {
    int only = !options->dual_stack;
    if (setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only) < 0) return -errno;
  }
  if (options->reuse_address &&
      setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
    return -errno;
  if (options->reuse_port && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) < 0)
    return -errno;
  if (options->receive_buffer > 0)
    set_buffer(fd, SO_RCVBUFFORCE, SO_RCVBUF, options->receive_buffer);
  if (options->send_buffer > 0) set_buffer(fd, SO_SNDBUFFORCE, SO_SNDBUF, options->send_buffer);
  if (options->mark != 0 &&
      setsockopt(fd, SOL_SOCKET, SO_MARK, &options->mark, sizeof options->mark) < 0)
    marked = 0;
  if (options->interface[0] != 0) {
    char name[17] = {0};
    memcpy(name, options->interface, 16);
    if (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, (socklen_t)strlen(name)) < 0)
      return -errno;
  }
  return marked;
}
