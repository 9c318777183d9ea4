// Stream sockets: TCP and Unix.
#define _GNU_SOURCE
#include "address.h"

#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

int martlet_listen(
  const struct martlet_endpoint *local, const struct martlet_socket_options *options,
  int backlog) {
  int is_v6 = !martlet_is_v4(local);
  int fd = socket(is_v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  int result = martlet_apply_options(fd, is_v6, options);
  struct sockaddr_storage address;
  socklen_t length = martlet_to_sockaddr(local, is_v6, &address);
  if (result >= 0 &&
      (bind(fd, (struct sockaddr *)&address, length) < 0 || listen(fd, backlog) < 0))
    result = -errno;
  if (result < 0) {
    close(fd);
    return result;
  }
  return fd;
}

static int unix_address(const char *path, struct sockaddr_un *out, socklen_t *length) {
  size_t count = strlen(path);
  if (count == 0) return -EINVAL;
  if (count >= sizeof out->sun_path) return -ENAMETOOLONG;
  memset(out, 0, sizeof *out);
  out->sun_family = AF_UNIX;
  memcpy(out->sun_path, path, count);
  *length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + count + 1);
  if (path[0] == '@') {
    // The abstract name space: no file, no trailing zero.
    out->sun_path[0] = 0;
    *length -= 1;
  }
  return 0;
}

int martlet_listen_unix(const char *path, int backlog) {
  struct sockaddr_un address;
  socklen_t length;
  int result = unix_address(path, &address, &length);
  if (result < 0) return result;
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  if (bind(fd, (struct sockaddr *)&address, length) < 0 || listen(fd, backlog) < 0) {
    result = -errno;
    close(fd);
    return result;
  }
  return fd;
}

int martlet_accept(int fd, struct martlet_endpoint *remote) {
  struct sockaddr_storage address;
  socklen_t size = sizeof address;
  memset(&address, 0, sizeof address);
  int accepted =
    accept4(fd, (struct sockaddr *)&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (accepted < 0) return -errno;
  martlet_from_sockaddr(&address, remote);
  return accepted;
}

int martlet_connect(
  const struct martlet_endpoint *remote, const struct martlet_endpoint *local,
  const struct martlet_socket_options *options, int *in_progress) {
  int is_v6 = !martlet_is_v4(remote);
  int fd = socket(is_v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  struct sockaddr_storage address;
  socklen_t length;
  int result = martlet_apply_options(fd, is_v6, options);
  if (result >= 0 && local) {
    length = martlet_to_sockaddr(local, is_v6, &address);
    if (bind(fd, (struct sockaddr *)&address, length) < 0) result = -errno;
  }
  if (result >= 0) {
    length = martlet_to_sockaddr(remote, is_v6, &address);
    *in_progress = 0;
    if (connect(fd, (struct sockaddr *)&address, length) < 0) {
      if (errno == EINPROGRESS)
        *in_progress = 1;
      else
        result = -errno;
    }
  }
  if (result < 0) {
    close(fd);
    return result;
  }
  return fd;
}

int martlet_connect_unix(const char *path, int *in_progress) {
  struct sockaddr_un address;
  socklen_t length;
  int result = unix_address(path, &address, &length);
  if (result < 0) return result;
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  *in_progress = 0;
  if (connect(fd, (struct sockaddr *)&address, length) < 0) {
    // EAGAIN: the listener's backlog is full; there is no waiting for it.
    result = -errno;
    close(fd);
    return result;
  }
  return fd;
}

int64_t martlet_read(int fd, void *bytes, size_t count) {
  for (;;) {
    ssize_t n = read(fd, bytes, count);
    if (n >= 0) return n;
    if (errno != EINTR) return -errno;
  }
}

int64_t martlet_write2(int fd, const void *a, size_t a_count, const void *b, size_t b_count) {
  struct iovec vectors[2] = {{(void *)a, a_count}, {(void *)b, b_count}};
  struct msghdr header = {.msg_iov = vectors, .msg_iovlen = 2};
  if (a_count == 0) header.msg_iov++, header.msg_iovlen--;
  if (b_count == 0) header.msg_iovlen--;
  for (;;) {
    ssize_t n = sendmsg(fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n >= 0) return n;
    if (errno != EINTR) return -errno;
  }
}

int martlet_shutdown_write(int fd) { return shutdown(fd, SHUT_WR) < 0 ? -errno : 0; }

int martlet_tcp_option(int fd, int option, int value) {
  int level = IPPROTO_TCP;
  int name;
  switch (option) {
    case MARTLET_TCP_NODELAY: name = TCP_NODELAY; break;
    case MARTLET_TCP_NOTSENT_LOWAT: name = TCP_NOTSENT_LOWAT; break;
    case MARTLET_TCP_USER_TIMEOUT: name = TCP_USER_TIMEOUT; break;
    case MARTLET_TCP_KEEPALIVE_IDLE: {
      int on = value > 0;
      if (setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) < 0) return -errno;
      if (!on) return 0;
      name = TCP_KEEPIDLE;
      break;
    }
    case MARTLET_TCP_KEEPALIVE_INTERVAL: name = TCP_KEEPINTVL; break;
    case MARTLET_TCP_KEEPALIVE_COUNT: name = TCP_KEEPCNT; break;
    case MARTLET_TCP_QUICKACK: name = TCP_QUICKACK; break;
    default: return -EINVAL;
  }
  return setsockopt(fd, level, name, &value, sizeof value) < 0 ? -errno : 0;
}

int martlet_tcp_congestion(int fd, const char *name) {
  return setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, (socklen_t)strlen(name)) < 0 ? -errno
                                                                                        : 0;
}

int martlet_tcp_info(int fd, struct martlet_tcp_info *out) {
  struct tcp_info info;
  socklen_t size = sizeof info;
  memset(&info, 0, sizeof info);
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0) return -errno;
  out->rtt_us = info.tcpi_rtt;
  out->rtt_variance_us = info.tcpi_rttvar;
  out->minimum_rtt_us = info.tcpi_min_rtt;
  out->send_mss = info.tcpi_snd_mss;
  out->unacknowledged_packets = info.tcpi_unacked;
  out->congestion_window_packets = info.tcpi_snd_cwnd;
  out->retransmits = info.tcpi_retransmits;
  out->total_retransmits = info.tcpi_total_retrans;
  out->delivery_rate = info.tcpi_delivery_rate;
  out->pacing_rate = info.tcpi_pacing_rate;
  out->bytes_acknowledged = info.tcpi_bytes_acked;
  out->bytes_received = info.tcpi_bytes_received;
  out->unsent_bytes = info.tcpi_notsent_bytes;
  int queued = 0;
  if (ioctl(fd, SIOCOUTQ, &queued) < 0) return -errno;
  out->queued_bytes = (uint32_t)queued;
  int buffer = martlet_get_buffer(fd, 1);
  out->send_buffer = buffer < 0 ? 0 : (uint32_t)buffer;
  return 0;
}

int martlet_unix_peer_uid(int fd, uint32_t *uid) {
  struct ucred credentials;
  socklen_t size = sizeof credentials;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) < 0) return -errno;
  *uid = credentials.uid;
  return 0;
}
