// getaddrinfo, for a thread that may block.
#define _GNU_SOURCE
#include "address.h"

#include <netdb.h>

int martlet_lookup(const char *host, struct martlet_endpoint *out, int limit) {
  struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
  struct addrinfo *list = NULL;
  int code = getaddrinfo(host, NULL, &hints, &list);
  // EAI codes are negative.
  if (code != 0) return code > 0 ? -1000 : -1000 + code;
  int count = 0;
  for (struct addrinfo *at = list; at && count < limit; at = at->ai_next) {
    if (at->ai_family != AF_INET && at->ai_family != AF_INET6) continue;
    martlet_from_sockaddr(at->ai_addr, &out[count]);
    out[count].port = 0;
    count++;
  }
  freeaddrinfo(list);
  return count;
}

const char *martlet_lookup_text(int code) { return gai_strerror(code + 1000); }
