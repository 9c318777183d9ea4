// Netlink: interfaces and their addresses, default gateways, change
// notification, and whose socket a loopback connection is.
#define _GNU_SOURCE
#include "address.h"

#include <errno.h>
#include <linux/if_addr.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <sys/time.h>
#include <unistd.h>

#define BUFFER_SIZE 32768

typedef void visitor(const struct nlmsghdr *message, void *context);

static int netlink_open(int protocol) {
  int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
  if (fd < 0) return -errno;
  // The kernel answers at once; the limit only keeps a bug from hanging us.
  struct timeval limit = {2, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  return fd;
}

/// Sends a request and calls `visit` for every message of the answer.
static int netlink_exchange(
  int fd, const void *request, size_t size, int is_dump, visitor *visit, void *context) {
  struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
  if (sendto(fd, request, size, 0, (struct sockaddr *)&kernel, sizeof kernel) < 0) return -errno;
  _Alignas(16) static _Thread_local char buffer[BUFFER_SIZE];
  for (;;) {
    ssize_t count = recv(fd, buffer, sizeof buffer, 0);
    if (count < 0) {
      if (errno == EINTR) continue;
      return -errno;
    }
    if (count == 0) return -EIO;
    int left = (int)count;
    for (struct nlmsghdr *m = (struct nlmsghdr *)buffer; NLMSG_OK(m, (unsigned)left);
         m = NLMSG_NEXT(m, left)) {
      if (m->nlmsg_type == NLMSG_DONE) return 0;
      if (m->nlmsg_type == NLMSG_ERROR) {
        const struct nlmsgerr *error = NLMSG_DATA(m);
        return m->nlmsg_len >= NLMSG_LENGTH(sizeof *error) ? error->error : -EIO;
      }
      visit(m, context);
    }
    if (!is_dump) return 0;
  }
}

static int dump(int fd, int type, int family, visitor *visit, void *context) {
  struct {
    struct nlmsghdr header;
    struct rtgenmsg body;
  } request = {
    .header =
      {.nlmsg_len = NLMSG_LENGTH(sizeof(struct rtgenmsg)),
       .nlmsg_type = (uint16_t)type,
       .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
    .body = {.rtgen_family = (unsigned char)family},
  };
  return netlink_exchange(fd, &request, request.header.nlmsg_len, 1, visit, context);
}

struct interfaces {
  struct martlet_interface_address *out;
  int limit;
  int count;
  int links;
};

static void take_address(struct martlet_endpoint *out, int family, const struct rtattr *a) {
  if (family == AF_INET && RTA_PAYLOAD(a) >= 4)
    martlet_take_v4(out, RTA_DATA(a));
  else if (family == AF_INET6 && RTA_PAYLOAD(a) >= 16)
    martlet_take_v6(out, RTA_DATA(a));
}

static void visit_link(const struct nlmsghdr *m, void *context) {
  struct interfaces *all = context;
  if (m->nlmsg_type != RTM_NEWLINK || all->count == all->limit) return;
  const struct ifinfomsg *info = NLMSG_DATA(m);
  struct martlet_interface_address *entry = &all->out[all->count++];
  memset(entry, 0, sizeof *entry);
  entry->index = (uint32_t)info->ifi_index;
  entry->link_flags = info->ifi_flags;
  int left = (int)IFLA_PAYLOAD(m);
  for (struct rtattr *a = IFLA_RTA(info); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
    if (a->rta_type == IFLA_IFNAME) {
      size_t count = strnlen(RTA_DATA(a), RTA_PAYLOAD(a));
      memcpy(entry->name, RTA_DATA(a), count < 15 ? count : 15);
    } else if (a->rta_type == IFLA_MTU && RTA_PAYLOAD(a) >= 4) {
      memcpy(&entry->mtu, RTA_DATA(a), 4);
    }
  }
}

static void visit_address(const struct nlmsghdr *m, void *context) {
  struct interfaces *all = context;
  if (m->nlmsg_type != RTM_NEWADDR || all->count == all->limit) return;
  const struct ifaddrmsg *info = NLMSG_DATA(m);
  if (info->ifa_family != AF_INET && info->ifa_family != AF_INET6) return;
  struct martlet_interface_address *entry = &all->out[all->count++];
  memset(entry, 0, sizeof *entry);
  for (int i = 0; i < all->links; i++)
    if (all->out[i].index == info->ifa_index) *entry = all->out[i];
  entry->index = info->ifa_index;
  entry->has_address = 1;
  entry->prefix = info->ifa_prefixlen;
  entry->address_flags = info->ifa_flags;
  int has_local = 0;
  int left = (int)IFA_PAYLOAD(m);
  for (struct rtattr *a = IFA_RTA(info); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
    // On point-to-point links IFA_ADDRESS is the far end, IFA_LOCAL ours.
    if (a->rta_type == IFA_LOCAL) {
      take_address(&entry->address, info->ifa_family, a);
      has_local = 1;
    } else if (a->rta_type == IFA_ADDRESS && !has_local) {
      take_address(&entry->address, info->ifa_family, a);
    } else if (a->rta_type == IFA_FLAGS && RTA_PAYLOAD(a) >= 4) {
      memcpy(&entry->address_flags, RTA_DATA(a), 4);
    }
  }
}

int martlet_interfaces(struct martlet_interface_address *out, int limit) {
  struct interfaces all = {.out = out, .limit = limit};
  int fd = netlink_open(NETLINK_ROUTE);
  if (fd < 0) return fd;
  int result = dump(fd, RTM_GETLINK, AF_UNSPEC, visit_link, &all);
  all.links = all.count;
  if (result == 0) result = dump(fd, RTM_GETADDR, AF_UNSPEC, visit_address, &all);
  close(fd);
  return result < 0 ? result : all.count;
}

struct routes {
  struct martlet_route *out;
  int limit;
  int count;
};

static void visit_route(const struct nlmsghdr *m, void *context) {
  struct routes *all = context;
  if (m->nlmsg_type != RTM_NEWROUTE || all->count == all->limit) return;
  const struct rtmsg *route = NLMSG_DATA(m);
  if (route->rtm_dst_len != 0 || route->rtm_type != RTN_UNICAST ||
      route->rtm_table != RT_TABLE_MAIN)
    return;
  struct martlet_route entry = {0};
  int found = 0;
  int left = (int)RTM_PAYLOAD(m);
  for (struct rtattr *a = RTM_RTA(route); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
    if (a->rta_type == RTA_GATEWAY) {
      take_address(&entry.gateway, route->rtm_family, a);
      found = 1;
    } else if (a->rta_type == RTA_PRIORITY && RTA_PAYLOAD(a) >= 4) {
      memcpy(&entry.metric, RTA_DATA(a), 4);
    } else if (a->rta_type == RTA_OIF && RTA_PAYLOAD(a) >= 4) {
      memcpy(&entry.interface, RTA_DATA(a), 4);
    }
  }
  if (!found) return;
  int at = all->count++;
  while (at > 0 && all->out[at - 1].metric > entry.metric) {
    all->out[at] = all->out[at - 1];
    at--;
  }
  all->out[at] = entry;
}

int martlet_default_routes(struct martlet_route *out, int limit) {
  struct routes all = {.out = out, .limit = limit};
  int fd = netlink_open(NETLINK_ROUTE);
  if (fd < 0) return fd;
  int result = dump(fd, RTM_GETROUTE, AF_UNSPEC, visit_route, &all);
  close(fd);
  return result < 0 ? result : all.count;
}

int martlet_network_monitor(void) {
  int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
  if (fd < 0) return -errno;
  struct sockaddr_nl address = {
    .nl_family = AF_NETLINK,
    .nl_groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_ROUTE |
                 RTMGRP_IPV6_ROUTE,
  };
  if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0) {
    int error = errno;
    close(fd);
    return -error;
  }
  return fd;
}

int martlet_network_monitor_drain(int fd) {
  _Alignas(16) char buffer[8192];
  int count = 0;
  // Bounded: what is left makes the descriptor readable again.
  for (int i = 0; i < 64; i++) {
    ssize_t n = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
    // ENOBUFS: messages were lost, which is a change too.
    if (n < 0 && errno != ENOBUFS && errno != EINTR) break;
    count++;
  }
  return count;
}

struct owner {
  uint32_t uid;
  int found;
};

static void visit_socket(const struct nlmsghdr *m, void *context) {
  struct owner *owner = context;
  if (m->nlmsg_type != SOCK_DIAG_BY_FAMILY) return;
  if (m->nlmsg_len < NLMSG_LENGTH(sizeof(struct inet_diag_msg))) return;
  const struct inet_diag_msg *socket = NLMSG_DATA(m);
  owner->uid = socket->idiag_uid;
  owner->found = socket->idiag_inode != 0;
}

static int ask_owner(
  int fd, int family, const struct martlet_endpoint *local, const struct martlet_endpoint *remote,
  uint32_t *uid) {
  struct {
    struct nlmsghdr header;
    struct inet_diag_req_v2 body;
  } request;
  memset(&request, 0, sizeof request);
  request.header.nlmsg_len = sizeof request;
  request.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  request.header.nlmsg_flags = NLM_F_REQUEST;
  request.body.sdiag_family = (uint8_t)family;
  request.body.sdiag_protocol = IPPROTO_TCP;
  request.body.idiag_states = ~0u;
  request.body.id.idiag_sport = htons(local->port);
  request.body.id.idiag_dport = htons(remote->port);
  request.body.id.idiag_cookie[0] = INET_DIAG_NOCOOKIE;
  request.body.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
  if (family == AF_INET) {
    request.body.id.idiag_src[0] = htonl((uint32_t)local->low);
    request.body.id.idiag_dst[0] = htonl((uint32_t)remote->low);
  } else {
    struct in6_addr address;
    martlet_put_v6(&address, local);
    memcpy(request.body.id.idiag_src, &address, 16);
    martlet_put_v6(&address, remote);
    memcpy(request.body.id.idiag_dst, &address, 16);
  }
  struct owner owner = {0};
  int result = netlink_exchange(fd, &request, sizeof request, 0, visit_socket, &owner);
  if (result < 0) return result;
  // No inode: the socket has been closed already and its owner is not known.
  if (!owner.found) return -ENOENT;
  *uid = owner.uid;
  return 0;
}

int martlet_socket_owner(
  const struct martlet_endpoint *local, const struct martlet_endpoint *remote, uint32_t *uid) {
  int fd = netlink_open(NETLINK_SOCK_DIAG);
  if (fd < 0) return fd;
  int is_v4 = martlet_is_v4(local) && martlet_is_v4(remote);
  int result = ask_owner(fd, is_v4 ? AF_INET : AF_INET6, local, remote, uid);
  close(fd);
  return result;
}
