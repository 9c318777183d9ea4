// miniupnpc as Swift sees it. Only UPnP imports this. The calls of a router are
// the library's own; here is what needs its structs. Everything blocks.
#ifndef MARTLET_CMINIUPNPC_SHIM_H
#define MARTLET_CMINIUPNPC_SHIM_H

#include <miniupnpc/miniupnpc.h>
#include <miniupnpc/upnpcommands.h>
#include <miniupnpc/upnperrors.h>
#include <string.h>

enum { MARTLET_IGD_URL = 256, MARTLET_IGD_SERVICE = 128, MARTLET_IGD_ADDRESS = 64 };

/// Asks the link that has `local_address` for routers, `delay` milliseconds
/// long. The list is freed with freeUPNPDevlist; it may be NULL.
static inline struct UPNPDev *martlet_igd_discover(const char *local_address, int delay) {
  static const char *const kinds[] = {
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
    "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1", 0};
  int error = 0;
  // "": no minissdpd, whose list may be old. 1: all kinds first, then one wait.
  return upnpDiscoverDevices(
    kinds, delay, local_address, "", UPNP_LOCAL_PORT_ANY, 0, 2, &error, 1);
}

/// Reads the description at `url`. 1: it has a service that maps ports.
/// `local_address` becomes our address as the connection to the router has it.
static inline int martlet_igd_describe(
  const char *url, char control_url[MARTLET_IGD_URL], char service_type[MARTLET_IGD_SERVICE],
  char local_address[MARTLET_IGD_ADDRESS]) {
  struct UPNPUrls urls;
  struct IGDdatas data;
  memset(&urls, 0, sizeof urls);
  memset(&data, 0, sizeof data);
  memset(local_address, 0, MARTLET_IGD_ADDRESS);
  if (!UPNP_GetIGDFromUrl(url, &urls, &data, local_address, MARTLET_IGD_ADDRESS)) return 0;
  int found = urls.controlURL && strlen(urls.controlURL) < MARTLET_IGD_URL &&
              data.first.servicetype[0] && strlen(data.first.servicetype) < MARTLET_IGD_SERVICE;
  if (found) {
    strcpy(control_url, urls.controlURL);
    strcpy(service_type, data.first.servicetype);
  }
  FreeUPNPUrls(&urls);
  return found;
}

#endif
