// Datagram sockets: many packets per system call, many segments per packet
// (UDP_SEGMENT, UDP_GRO), never fragmented (DF), errors per destination.
#define _GNU_SOURCE
#include "address.h"

#include <errno.h>
#include <linux/errqueue.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

int martlet_udp_open(
  const struct martlet_endpoint *local, const struct martlet_socket_options *options,
  int *features) {
  int is_v6 = !martlet_is_v4(local);
  int on = 1;
  int fd = socket(is_v6 ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  *features = 0;
  int result = martlet_apply_options(fd, is_v6, options);
  if (result < 0) goto failed;
  if (result == 0) *features |= MARTLET_UDP_MARK_FAILED;

  // DF always, whatever the kernel believes of the path: we probe ourselves.
  int probe = is_v6 ? IPV6_PMTUDISC_PROBE : IP_PMTUDISC_PROBE;
  if (is_v6) {
    setsockopt(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &probe, sizeof probe);
    setsockopt(fd, IPPROTO_IPV6, IPV6_RECVERR, &on, sizeof on);
    if (options->packet_info)
      setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on);
  }
  if (!is_v6 || options->dual_stack) {
    probe = IP_PMTUDISC_PROBE;
    setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &probe, sizeof probe);
    setsockopt(fd, IPPROTO_IP, IP_RECVERR, &on, sizeof on);
    if (options->packet_info && !is_v6)
      setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof on);
  }
  if (setsockopt(fd, IPPROTO_UDP, UDP_GRO, &on, sizeof on) == 0) *features |= MARTLET_UDP_GRO;
  int segment = 0;
  socklen_t size = sizeof segment;
  if (getsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &segment, &size) == 0) *features |= MARTLET_UDP_GSO;

  struct sockaddr_storage address;
  socklen_t length = martlet_to_sockaddr(local, is_v6, &address);
  if (bind(fd, (struct sockaddr *)&address, length) < 0) {
    result = -errno;
    goto failed;
  }
  return fd;
failed:
  close(fd);
  return result;
}

#define SLOT_SIZE 65536
// Room for UDP_GRO and one of the two packet infos.
#define CONTROL_SIZE 96

struct martlet_receiver {
  unsigned slots;
  uint8_t *memory;
  struct mmsghdr *messages;
  struct iovec *vectors;
  struct sockaddr_in6 *names;
  char *controls;
  struct martlet_datagram *datagrams;
};

void martlet_receiver_destroy(struct martlet_receiver *r) {
  if (!r) return;
  if (r->memory) munmap(r->memory, (size_t)r->slots * SLOT_SIZE);
  free(r->messages);
  free(r->vectors);
  free(r->names);
  free(r->controls);
  free(r->datagrams);
  free(r);
}

struct martlet_receiver *martlet_receiver_create(unsigned slots) {
  struct martlet_receiver *r = calloc(1, sizeof *r);
  if (!r) return NULL;
  r->slots = slots;
  // Pages are touched only as deep as a batch goes.
  void *memory = mmap(
    NULL, (size_t)slots * SLOT_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  r->memory = memory == MAP_FAILED ? NULL : memory;
  r->messages = calloc(slots, sizeof *r->messages);
  r->vectors = calloc(slots, sizeof *r->vectors);
  r->names = calloc(slots, sizeof *r->names);
  r->controls = aligned_alloc(16, (size_t)slots * CONTROL_SIZE);
  r->datagrams = calloc(slots, sizeof *r->datagrams);
  if (!r->memory || !r->messages || !r->vectors || !r->names || !r->controls || !r->datagrams) {
    martlet_receiver_destroy(r);
    return NULL;
  }
  for (unsigned i = 0; i < slots; i++) {
    r->vectors[i].iov_base = r->memory + (size_t)i * SLOT_SIZE;
    r->vectors[i].iov_len = SLOT_SIZE;
    struct msghdr *header = &r->messages[i].msg_hdr;
    header->msg_name = &r->names[i];
    header->msg_iov = &r->vectors[i];
    header->msg_iovlen = 1;
    header->msg_control = r->controls + (size_t)i * CONTROL_SIZE;
    r->datagrams[i].bytes = r->memory + (size_t)i * SLOT_SIZE;
  }
  return r;
}

const struct martlet_datagram *martlet_receiver_datagrams(const struct martlet_receiver *r) {
  return r->datagrams;
}

int martlet_receiver_receive(struct martlet_receiver *r, int fd) {
  for (unsigned i = 0; i < r->slots; i++) {
    struct msghdr *header = &r->messages[i].msg_hdr;
    header->msg_namelen = sizeof r->names[i];
    header->msg_controllen = CONTROL_SIZE;
    header->msg_flags = 0;
  }
  int count = recvmmsg(fd, r->messages, r->slots, MSG_DONTWAIT, NULL);
  if (count < 0) return -errno;
  for (int i = 0; i < count; i++) {
    struct msghdr *header = &r->messages[i].msg_hdr;
    struct martlet_datagram *datagram = &r->datagrams[i];
    datagram->count = r->messages[i].msg_len;
    datagram->segment = datagram->count;
    datagram->truncated = (header->msg_flags & MSG_TRUNC) != 0;
    datagram->local.high = 0;
    datagram->local.low = 0;
    datagram->local.port = 0;
    martlet_from_sockaddr(&r->names[i], &datagram->remote);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
      if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO) {
        int segment;
        memcpy(&segment, CMSG_DATA(c), sizeof segment);
        if (segment > 0 && (uint32_t)segment < datagram->count)
          datagram->segment = (uint32_t)segment;
      } else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
        struct in_pktinfo info;
        memcpy(&info, CMSG_DATA(c), sizeof info);
        martlet_take_v4(&datagram->local, &info.ipi_addr);
      } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
        struct in6_pktinfo info;
        memcpy(&info, CMSG_DATA(c), sizeof info);
        martlet_take_v6(&datagram->local, &info.ipi6_addr);
      }
    }
  }
  return count;
}

static struct cmsghdr *add_control(
  struct msghdr *header, char *control, int level, int type, const void *data, size_t size) {
  struct cmsghdr *c = (struct cmsghdr *)(control + header->msg_controllen);
  c->cmsg_level = level;
  c->cmsg_type = type;
  c->cmsg_len = CMSG_LEN(size);
  memcpy(CMSG_DATA(c), data, size);
  header->msg_control = control;
  header->msg_controllen += CMSG_SPACE(size);
  return c;
}

int martlet_send_batch(int fd, int is_v6, const struct martlet_send *sends, int count) {
  // UDP_SEGMENT, hop limit, source: at most 24 + 24 + 40 bytes.
  static const size_t control_size = 96;
  struct mmsghdr messages[MARTLET_SEND_LIMIT];
  struct iovec vectors[MARTLET_SEND_LIMIT];
  struct sockaddr_storage names[MARTLET_SEND_LIMIT];
  _Alignas(16) char controls[MARTLET_SEND_LIMIT][96];
  if (count > MARTLET_SEND_LIMIT) count = MARTLET_SEND_LIMIT;
  for (int i = 0; i < count; i++) {
    const struct martlet_send *send = &sends[i];
    struct msghdr *header = &messages[i].msg_hdr;
    int as_v6 = is_v6 && !martlet_is_v4(&send->remote);
    vectors[i].iov_base = (void *)send->bytes;
    vectors[i].iov_len = send->count;
    header->msg_name = &names[i];
    header->msg_namelen = martlet_to_sockaddr(&send->remote, is_v6, &names[i]);
    header->msg_iov = &vectors[i];
    header->msg_iovlen = 1;
    header->msg_control = NULL;
    header->msg_controllen = 0;
    header->msg_flags = 0;
    if (send->segment != 0 || send->hop_limit != 0 || send->has_source)
      memset(controls[i], 0, control_size);
    if (send->segment != 0)
      add_control(header, controls[i], IPPROTO_UDP, UDP_SEGMENT, &send->segment, 2);
    if (send->hop_limit != 0) {
      int hops = send->hop_limit;
      add_control(
        header, controls[i], as_v6 ? IPPROTO_IPV6 : IPPROTO_IP, as_v6 ? IPV6_HOPLIMIT : IP_TTL,
        &hops, sizeof hops);
    }
    if (send->has_source && as_v6) {
      struct in6_pktinfo info = {0};
      martlet_put_v6(&info.ipi6_addr, &send->source);
      add_control(header, controls[i], IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof info);
    } else if (send->has_source) {
      struct in_pktinfo info = {0};
      info.ipi_spec_dst.s_addr = htonl((uint32_t)send->source.low);
      add_control(header, controls[i], IPPROTO_IP, IP_PKTINFO, &info, sizeof info);
    }
  }
  int sent = sendmmsg(fd, messages, (unsigned)count, MSG_DONTWAIT | MSG_NOSIGNAL);
  return sent < 0 ? -errno : sent;
}

int martlet_udp_error(int fd, struct martlet_datagram_error *out) {
  struct sockaddr_storage name;
  char bytes[64];
  _Alignas(16) char control[512];
  struct iovec vector = {bytes, sizeof bytes};
  struct msghdr header = {
    .msg_name = &name,
    .msg_namelen = sizeof name,
    .msg_iov = &vector,
    .msg_iovlen = 1,
    .msg_control = control,
    .msg_controllen = sizeof control,
  };
  memset(out, 0, sizeof *out);
  memset(&name, 0, sizeof name);
  if (recvmsg(fd, &header, MSG_ERRQUEUE | MSG_DONTWAIT) < 0) return -errno;
  martlet_from_sockaddr(&name, &out->remote);
  for (struct cmsghdr *c = CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c)) {
    int v4 = c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVERR;
    int v6 = c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_RECVERR;
    if (!v4 && !v6) continue;
    struct sock_extended_err error;
    if (c->cmsg_len < CMSG_LEN(sizeof error)) continue;
    memcpy(&error, CMSG_DATA(c), sizeof error);
    out->error = (int)error.ee_errno;
    out->info = error.ee_info;
    // RFC 792 type 11, RFC 4443 type 3; code 0: in transit.
    out->expired = error.ee_code == 0
      && ((error.ee_origin == SO_EE_ORIGIN_ICMP && error.ee_type == 11)
        || (error.ee_origin == SO_EE_ORIGIN_ICMP6 && error.ee_type == 3));
    size_t offender = sizeof error + (v4 ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6));
    if (c->cmsg_len >= CMSG_LEN(offender))
      martlet_from_sockaddr(CMSG_DATA(c) + sizeof error, &out->offender);
  }
  return 0;
}
