"""A home router opens the agent's UDP and TCP ports: Debian's miniupnpd as the
router's side of PCP, NAT-PMP and UPnP, the real agent behind it, a host outside.

  out 52.0.0.9 ── wan 52.0.0.1 [router] lan 192.168.7.1 ── home 192.168.7.20
                                                       └── second 192.168.7.2

miniupnpd serves no router whose outside address is reserved, hence 52.0.0.0/24;
nothing leaves the namespaces. The second router is a small IGD of our own.
"""

import http.server
import re
import shutil
import socket
import struct
import threading
import time
import xml.sax.saxutils

from harness import BIN, Failure, Host, Lab, Report, enter_namespaces, inside, wait_for

TOKEN = "12345678"
PORT = 27321
# Of ten ends at that moment four or five left a port, before it was mended.
MOMENTS = 6
CHAIN = "prerouting_miniupnpd"

RULES = """
table inet filter {
  chain forward {
    type filter hook forward priority 0; policy drop;
    ct state established,related accept
    iifname lan accept
    jump miniupnpd
  }
  chain miniupnpd { }
  chain prerouting {
    type nat hook prerouting priority -100; policy accept;
    jump prerouting_miniupnpd
  }
  chain prerouting_miniupnpd { }
  chain postrouting {
    type nat hook postrouting priority 100; policy accept;
    jump postrouting_miniupnpd
    meta nfproto ipv4 oifname wan masquerade
  }
  chain postrouting_miniupnpd { }
}
table inet watch {
  chain in {
    type filter hook input priority -10; policy accept;
    ip saddr != 192.168.7.1 udp dport 5351 counter
    ip saddr != 192.168.7.1 udp dport 1900 counter
    ip6 nexthdr udp udp dport 5351 counter
  }
}
"""


class Home:
    """The lab: namespaces, links, the router's rules and daemon."""

    def __init__(self, lab):
        self.lab = lab
        self.out = self.machine("out", "52.0.0.9")
        self.router = self.machine("router", "192.168.7.1")
        self.home = self.machine("home", "192.168.7.20")
        self.second = self.machine("second", "192.168.7.2")
        ip = Lab.ip
        net = lab.prefix + "net"
        for host in (self.router, self.home, self.second):
            name = "lan" if host is self.router else "eth0"
            ip(*inside(net), "ip", "link", "add", "h" + host.name, "type", "veth", "peer", "name",
               name, "netns", host.namespace)
            ip(*inside(net), "ip", "link", "set", "h" + host.name, "master", "br0", "up")
            there = inside(host.namespace, "ip")
            ip(*there, "addr", "add", f"{host.address}/24", "dev", name)
            ip(*there, "link", "set", name, "up")
        ip(*inside(self.out.namespace), "ip", "link", "add", "eth0", "type", "veth", "peer", "name",
           "wan", "netns", self.router.namespace)
        for host, name, address in ((self.out, "eth0", "52.0.0.9"), (self.router, "wan", "52.0.0.1")):
            ip(*inside(host.namespace), "ip", "addr", "add", f"{address}/24", "dev", name)
            ip(*inside(host.namespace), "ip", "link", "set", name, "up")
        for key in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
            self.router.run("sysctl", "-qw", f"net.{key}=1")
        self.default_route()
        self.router.run("nft", RULES)
        self.daemon = self.agent = None
        self.server = self.out.spawn(
            BIN / "inp2ps", "-token", TOKEN, "-data", self.out.directory / "state")

    def machine(self, name, address):
        host = Host(self.lab, name, address)
        self.lab.make(host.namespace)
        self.lab.hosts[name] = host
        return host

    def default_route(self):
        Lab.ip(*inside(self.home.namespace), "ip", "route", "replace", "default", "via",
               self.router.address, "dev", "eth0", "onlink")

    def move(self, address):
        """The home's machine gets another address, as by DHCP."""
        there = inside(self.home.namespace, "ip")
        Lab.ip(*there, "-4", "addr", "flush", "dev", "eth0")
        Lab.ip(*there, "addr", "add", f"{address}/24", "dev", "eth0")
        self.default_route()

    def start_daemon(self, natpmp=True, upnp=False, lifetime=3600, more=()):
        self.stop_daemon()
        words = [
            "ext_ifname=wan", "ext_ifname6=wan", "listening_ip=lan", "http_port=5000",
            f"enable_natpmp={'yes' if natpmp else 'no'}", f"enable_upnp={'yes' if upnp else 'no'}",
            f"min_lifetime={min(120, lifetime // 2)}", f"max_lifetime={lifetime}", "system_uptime=no",
            "secure_mode=yes", "uuid=00000000-0000-0000-0000-000000000007",
            "allow 1024-65535 192.168.7.0/24 1024-65535", "deny 0-65535 0.0.0.0/0 0-65535", *more]
        config = self.router.directory / "miniupnpd.conf"
        config.write_text("\n".join(words) + "\n")
        self.daemon = self.router.spawn(
            "miniupnpd", "-d", "-f", config, "-P", self.router.directory / "pid")
        if natpmp:
            wait_for("miniupnpd", lambda: ":5351" in self.router.output("ss", "-ulnH"))
        if upnp:
            wait_for("miniupnpd", lambda: ":5000" in self.router.output("ss", "-tlnH"))

    def stop_daemon(self, flush=True):
        """As a router that loses its power: without a farewell, rules gone."""
        if self.daemon:
            self.daemon.kill()
            self.daemon = None
        if flush:
            for chain in ("miniupnpd", CHAIN, "postrouting_miniupnpd"):
                self.router.run("nft", "flush", "chain", "inet", "filter", chain)

    def start_agent(self, *more):
        self.stop_agent()
        self.start_agent_with("-config", "config.json", "-newconfig", *more)

    def start_agent_with(self, *words):
        self.agent = self.home.spawn(
            BIN / "inp2pc", "-serverhost", self.out.address, "-node", "kitchen", "-token", TOKEN,
            "-port", PORT, "-log-level", "debug", *words)

    def stop_agent(self):
        if self.agent and self.agent.alive():
            self.agent.terminate()
        self.agent = None

    def rules(self, chain=CHAIN):
        text = self.router.output("nft", "list", "chain", "inet", "filter", chain)
        return [line.strip() for line in text.splitlines() if "dnat" in line or "dport" in line]

    def mapped(self, address="192.168.7.20", transport="udp"):
        """The port outside that leads to the agent, or None."""
        # nft prints the daemon's match of the protocol as bytes of the header.
        number = {"udp": "0x11", "tcp": "0x6"}[transport]
        for rule in self.rules():
            found = re.search(rf"\b(?:{transport}|{number}) (?:th )?dport (\d+)", rule)
            if found and f"{address}:{PORT}" in rule:
                return int(found[1])
        return None

    def wait_mapped(self, within=8, address="192.168.7.20", transport="udp"):
        return wait_for(
            f"a rule for {transport} to {address}:{PORT}",
            lambda: self.mapped(address, transport), within)

    def wait_tcp(self, protocol, within=8):
        """The TCP port is open as well, and leads to the agent."""
        outside = self.wait_mapped(within, transport="tcp")
        if outside != PORT:
            raise Failure(f"TCP port {outside} outside")
        self.said(f"opened TCP 52.0.0.1:{PORT} to 192.168.7.20:{PORT} by {protocol}")
        self.out.connect(PORT, address="52.0.0.1", timeout=3).close()

    def wait_unmapped(self, within, address="192.168.7.20"):
        wait_for("no rule", lambda: not any(
            self.mapped(address, t) for t in ("udp", "tcp")), within)

    def said(self, words, within=8):
        wait_for(f"the agent says {words!r}", lambda: words in self.agent.text(), within)

    def shows(self, **wanted):
        """What `martlet status --json`, its words and `martlet netcheck` say of it."""
        told = self.home.json(BIN / "martlet", "status", "--json")["portMapping"]
        if told["enabled"] != wanted.pop("enabled", True):
            raise Failure(f"{told}")
        for key, value in wanted.items():
            if told["gateways"][0][key] != value:
                raise Failure(f"{key}: {told['gateways'][0][key]}, not {value}")
        said = f"Port mapping: {told['words']}".split(" s left")[0].rsplit(" ", 1)[0]
        text = self.home.output(BIN / "martlet", "status")
        if said not in text:
            raise Failure(f"{said!r} is not in {text}")
        if not told["enabled"]:
            return told
        checked = self.home.json(BIN / "martlet", "netcheck", "--json")["portMapping"]
        if checked["gateways"][0]["state"] != told["gateways"][0]["state"]:
            raise Failure(f"netcheck says {checked}, status {told}")
        return told

    def arrives(self, port, to="52.0.0.1"):
        """A packet from outside, by a socket the home has never sent to."""
        self.home.run("nft", (
            "table inet arrived {\n chain in {\n  type filter hook input priority 0;\n"
            f"  udp sport 40404 udp dport {PORT} counter\n }}\n}}"))
        family = socket.AF_INET6 if ":" in to else socket.AF_INET
        try:
            with self.out.socket(socket.SOCK_DGRAM, family) as sock:
                sock.bind(("", 40404))
                sock.sendto(b"hello from outside", (to, port))
            wait_for(
                "a packet from outside", lambda: "packets 1 " in self.home.output(
                    "nft", "list", "table", "inet", "arrived"), within=3)
        finally:
            self.home.run("nft", "delete table inet arrived")

    def asked(self):
        """Packets to the router's port 5351 and to SSDP so far."""
        return [int(n) for n in re.findall(
            r"packets (\d+)", self.router.output("nft", "list", "table", "inet", "watch"))]


class FakeIGD:
    """An IGD:1 of our own on a machine of the link: another router, or one with
    a private address outside."""

    def __init__(self, host, external, connected=True, only_permanent=False):
        self.external, self.connected, self.only_permanent = external, connected, only_permanent
        self.mappings, self.calls = {}, []
        self.address = host.address
        igd = self
        service = "urn:schemas-upnp-org:service:WANIPConnection:1"

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def answer(self, status, text):
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/xml")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                self.answer(200, (
                    '<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><device>'
                    "<deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType>"
                    "<deviceList><device><deviceType>urn:schemas-upnp-org:device:WANDevice:1"
                    "</deviceType><serviceList><service><serviceType>urn:schemas-upnp-org:service:"
                    "WANCommonInterfaceConfig:1</serviceType><controlURL>/cif</controlURL>"
                    "<SCPDURL>/cif.xml</SCPDURL></service></serviceList><deviceList><device>"
                    "<deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType>"
                    f"<serviceList><service><serviceType>{service}</serviceType>"
                    "<controlURL>/ctl</controlURL><SCPDURL>/scpd.xml</SCPDURL></service>"
                    "</serviceList></device></deviceList></device></deviceList></device></root>"))

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                action = self.headers["SOAPAction"].strip('"').split("#")[1]
                fields = dict(re.findall(r"<(New\w+)>([^<]*)</", body))
                fault, answer = igd.perform(action, fields)
                envelope = ('<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/'
                            'soap/envelope/"><s:Body>%s</s:Body></s:Envelope>')
                if fault:
                    self.answer(500, envelope % (
                        "<s:Fault><faultcode>s:Client</faultcode><detail><UPnPError>"
                        f"<errorCode>{fault}</errorCode></UPnPError></detail></s:Fault>"))
                    return
                inner = "".join(f"<{k}>{xml.sax.saxutils.escape(v)}</{k}>" for k, v in answer.items())
                self.answer(200, envelope % (
                    f'<u:{action}Response xmlns:u="{service}">{inner}</u:{action}Response>'))

        with host.inside():
            self.web = http.server.ThreadingHTTPServer((host.address, 5678), Handler)
            self.ssdp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.ssdp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.ssdp.bind(("", 1900))
            self.ssdp.setsockopt(
                socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP,
                struct.pack("4s4s", socket.inet_aton("239.255.255.250"),
                            socket.inet_aton(host.address)))
        threading.Thread(target=self.web.serve_forever, daemon=True).start()
        threading.Thread(target=self.answer_searches, daemon=True).start()

    def perform(self, action, fields):
        self.calls.append((action, fields))
        port = fields.get("NewProtocol", ""), fields.get("NewExternalPort")
        if action == "GetStatusInfo":
            return None, {"NewConnectionStatus": "Connected" if self.connected else "Disconnected",
                          "NewLastConnectionError": "ERROR_NONE", "NewUptime": "7"}
        if action == "GetExternalIPAddress":
            return None, {"NewExternalIPAddress": self.external}
        if action == "GetSpecificPortMappingEntry":
            if port not in self.mappings:
                return 714, {}
            return None, {k: v for k, v in self.mappings[port].items() if k in (
                "NewInternalPort", "NewInternalClient", "NewEnabled",
                "NewPortMappingDescription", "NewLeaseDuration")}
        if action == "AddPortMapping":
            if self.only_permanent and fields["NewLeaseDuration"] != "0":
                return 725, {}
            self.mappings[port] = fields
            return None, {}
        if action == "DeletePortMapping":
            return (None, {}) if self.mappings.pop(port, None) else (714, {})
        return 401, {}

    def answer_searches(self):
        while True:
            try:
                data, sender = self.ssdp.recvfrom(2048)
            except OSError:
                return
            found = re.search(rb"\r\nST: *(\S+)", data, re.I)
            if not data.startswith(b"M-SEARCH") or not found:
                continue
            if b"InternetGatewayDevice:1" not in found[1]:
                continue
            try:
                self.ssdp.sendto((
                    "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nEXT:\r\n"
                    f"ST: {found[1].decode()}\r\nUSN: uuid:7::{found[1].decode()}\r\n"
                    f"LOCATION: http://{self.address}:5678/root.xml\r\n\r\n").encode(), sender)
            except OSError:
                return

    def added(self):
        return [fields for action, fields in self.calls if action == "AddPortMapping"]

    def close(self):
        self.web.shutdown()
        self.web.server_close()
        self.ssdp.close()


def main():
    enter_namespaces()
    report = Report()
    missing = [tool for tool in ("ip", "nft", "ss", "miniupnpd") if not shutil.which(tool)]
    if missing or not Lab.available():
        report.skip("port mapping", f"needs {', '.join(missing)}" if missing
                    else "no network namespaces here")
        report.finish()
    with Lab("portmap") as lab:
        home = Home(lab)

        def by_pcp():
            home.start_daemon()
            home.start_agent()
            port = home.wait_mapped()
            home.said(f"opened 52.0.0.1:{port} to 192.168.7.20:{PORT} by PCP")
            told = home.shows(
                state="mapped", protocol="PCP", external=f"52.0.0.1:{port}",
                gateway="192.168.7.1", internal=f"192.168.7.20:{PORT}", behindAnotherNAT=False)
            if not 0 < told["gateways"][0]["lifetimeLeftSeconds"] <= 7200:
                raise Failure(f"{told}")
            home.arrives(port)
            home.wait_tcp("PCP")
            tcp = home.home.json(BIN / "martlet", "status", "--json")["portMapping"]["gateways"][1]
            if (tcp["transport"], tcp["state"], tcp["external"]) != (
                    "TCP", "mapped", f"52.0.0.1:{PORT}"):
                raise Failure(f"{tcp}")
            return f"UDP {port}, TCP {PORT}"

        def a_peer_hears_of_it():
            garden = home.out.spawn(
                BIN / "inp2pc", "-serverhost", "127.0.0.1", "-node", "garden", "-token", TOKEN,
                "-no-port-mapping", "-config", "config.json", "-newconfig")
            try:
                wait_for("a ping", lambda: home.out.run(
                    BIN / "martlet", "ping", "kitchen", check=False).returncode == 0)
                wait_for("a port-mapped candidate", lambda: "port-mapped" in home.out.output(
                    BIN / "martlet", "why", "kitchen", "--json"))
            finally:
                garden.terminate()

        def the_router_restarts():
            home.stop_daemon()
            if home.mapped():
                raise Failure("the rule is still there")
            time.sleep(2)
            started = time.monotonic()
            home.start_daemon()
            home.arrives(home.wait_mapped(within=10))
            home.wait_mapped(within=10, transport="tcp")
            return f"{time.monotonic() - started:.1f} s after the restart"

        def removed_at_the_end():
            started = time.monotonic()
            home.stop_agent()
            home.wait_unmapped(within=2)
            return f"{time.monotonic() - started:.1f} s"

        def renewed():
            home.start_daemon(lifetime=8)
            home.start_agent()
            home.wait_mapped()
            home.wait_mapped(transport="tcp")
            before = home.asked()[0]
            end = time.monotonic() + 18
            seen = time.monotonic()
            while time.monotonic() < end:
                # At a renewal miniupnpd takes its rule out and puts it back.
                if home.mapped() and home.mapped(transport="tcp"):
                    seen = time.monotonic()
                elif time.monotonic() - seen > 1.5:
                    raise Failure("the rule vanished between renewals")
                time.sleep(0.1)
            count = home.asked()[0] - before
            if not 6 <= count <= 10:
                raise Failure(f"{count} renewals of two ports in 18 s of a lifetime of 8 s")
            return f"{count} renewals of two ports in 18 s"

        def a_crash_leaves_no_trace():
            home.agent.kill()
            # The same agent gets its own living mapping again at once …
            home.start_agent()
            home.said("by PCP")
            home.wait_mapped(within=2)
            # … and without it the lifetime ends it.
            home.agent.kill()
            home.wait_unmapped(within=12)

        def the_address_changes():
            home.start_daemon()
            home.start_agent()
            home.wait_mapped()
            home.move("192.168.7.33")
            try:
                home.arrives(home.wait_mapped(address="192.168.7.33"))
                home.stop_agent()
                home.wait_unmapped(within=2, address="192.168.7.33")
            finally:
                home.move("192.168.7.20")

        def by_natpmp():
            home.start_daemon()
            # A gateway that has never heard of PCP and does not answer it.
            home.router.run("nft", "add rule inet watch in udp dport 5351 @th,64,8 2 drop")
            home.start_agent()
            port = home.wait_mapped(within=12)
            home.said("by NAT-PMP")
            home.shows(state="mapped", protocol="NAT-PMP", external=f"52.0.0.1:{port}")
            home.arrives(port)
            home.wait_tcp("NAT-PMP", within=12)
            home.stop_agent()
            home.wait_unmapped(within=2)
            rules = home.router.output("nft", "-a", "list", "table", "inet", "watch")
            handle = re.search(r"drop # handle (\d+)", rules)[1]
            home.router.run("nft", f"delete rule inet watch in handle {handle}")

        def by_upnp():
            home.start_daemon(natpmp=False, upnp=True)
            home.start_agent()
            port = home.wait_mapped(within=15)
            home.said("by UPnP")
            home.shows(state="mapped", protocol="UPnP", external=f"52.0.0.1:{port}")
            line = next(t for t in home.daemon.text().splitlines() if "for: " in t)
            if "for: martlet kitchen" not in line:
                raise Failure(f"the router does not know for whom: {line}")
            home.arrives(port)
            home.wait_tcp("UPnP", within=15)
            started = time.monotonic()
            home.stop_agent()
            home.wait_unmapped(within=2)
            return f"removed after {time.monotonic() - started:.1f} s"

        def the_router_that_is_connected():
            """Two answer; the second says that it is not connected."""
            fake = FakeIGD(home.second, "52.0.0.77", connected=False)
            try:
                home.start_agent()
                home.arrives(home.wait_mapped(within=15))
                if not fake.calls:
                    raise Failure("the second router was never asked")
                if fake.added():
                    raise Failure("the second router was given a mapping")
                home.stop_agent()
                home.wait_unmapped(within=2)
            finally:
                fake.close()

        def double_nat():
            """One with a private address outside, and permanent leases only."""
            home.stop_daemon()
            fake = FakeIGD(home.second, "192.168.100.5", only_permanent=True)
            taken = "UDP", str(PORT)
            fake.mappings[taken] = {
                "NewInternalPort": "80", "NewInternalClient": "192.168.7.99", "NewEnabled": "1",
                "NewPortMappingDescription": "somebody", "NewLeaseDuration": "0"}
            try:
                home.start_agent()
                home.said("double NAT", within=15)
                home.shows(state="mapped", protocol="UPnP", behindAnotherNAT=True)
                first, added = [a for a in fake.added() if a["NewProtocol"] == "UDP"][-2:]
                if first["NewLeaseDuration"] != "7200":
                    raise Failure(f"asked for {first['NewLeaseDuration']} s")
                if added["NewExternalPort"] == str(PORT):
                    raise Failure("another host's port was taken")
                wanted = {"NewInternalClient": "192.168.7.20", "NewInternalPort": str(PORT),
                          "NewProtocol": "UDP", "NewLeaseDuration": "0",
                          "NewPortMappingDescription": "martlet kitchen"}
                for key, value in wanted.items():
                    if added[key] != value:
                        raise Failure(f"{key} is {added[key]}, not {value}")
                wait_for("the TCP port", lambda: ("TCP", str(PORT)) in fake.mappings, 15)
                home.stop_agent()
                if list(fake.mappings) != [taken]:
                    raise Failure(f"left behind: {fake.mappings}")
            finally:
                fake.close()

        def stopped_at_that_moment():
            """The router has opened a port; the agent is told to end before it knows."""
            home.stop_daemon()
            fake = FakeIGD(home.second, "192.168.100.5", only_permanent=True)
            try:
                for _ in range(MOMENTS):
                    home.start_agent()
                    wait_for("the TCP port", lambda: ("TCP", str(PORT)) in fake.mappings, 15, 0.0005)
                    home.stop_agent()
                    if fake.mappings:
                        raise Failure(f"left behind: {fake.mappings}")
            finally:
                fake.close()

        def pinhole():
            """IPv6 through a link-local gateway: no translation, only a firewall."""
            def ip(host, *words):
                return Lab.ip(*inside(host.namespace), "ip", *words)
            for host, name, address in (
                    (home.out, "eth0", "2001:db8:52::9"), (home.router, "wan", "2001:db8:52::1"),
                    (home.router, "lan", "2001:db8:7::1"), (home.home, "eth0", "2001:db8:7::20")):
                ip(host, "addr", "add", f"{address}/64", "dev", name, "nodad")
            ip(home.out, "route", "add", "2001:db8:7::/64", "via", "2001:db8:52::1")
            text = home.router.output("ip", "-6", "addr", "show", "dev", "lan", "scope", "link")
            gateway = re.search(r"inet6 (fe80:\S+)/64", text)[1]
            ip(home.home, "route", "add", "default", "via", gateway, "dev", "eth0")
            home.start_daemon()
            home.start_agent()
            home.said(f"opened [2001:db8:7::20]:{PORT}")
            home.arrives(PORT, to="2001:db8:7::20")
            if not home.rules("miniupnpd"):
                raise Failure("no rule in the router's firewall")
            home.stop_agent()
            wait_for("no rule in the router's firewall", lambda: not home.rules("miniupnpd"), 2)
            try:
                home.arrives(PORT, to="2001:db8:7::20")
            except Failure:
                return
            raise Failure("the pinhole is still open")

        def connections_come_in():
            """A peer that UDP does not reach, and that nobody can dial, dials the
            router's port."""
            home.start_daemon()
            home.start_agent()
            home.wait_tcp("PCP")
            home.out.run("nft", (
                "table inet shut {\n chain in {\n  type filter hook input priority 0;\n"
                "  iifname eth0 meta l4proto udp drop\n"
                "  iifname eth0 tcp dport 28000 tcp flags & (syn | ack) == syn drop\n }\n}"))
            garden = home.out.spawn(
                BIN / "inp2pc", "-serverhost", "127.0.0.1", "-node", "garden", "-token", TOKEN,
                "-port", 28000, "-no-port-mapping", "-config", "config.json", "-newconfig")
            try:
                wait_for("a ping", lambda: home.out.run(
                    BIN / "martlet", "ping", "kitchen", check=False).returncode == 0)

                def tier():
                    peers = home.out.json(BIN / "martlet", "status", "--json")["peers"]
                    return next((p["tier"] for p in peers if p["name"] == "kitchen"), None)
                wait_for("a direct TCP path", lambda: tier() == "tcp-direct", 20)
                links = home.home.output("ss", "-tnH", "state", "established", "sport", f"= {PORT}")
                if "52.0.0.9:28000" not in links:
                    raise Failure(f"not by the router's port: {links}")
            finally:
                garden.terminate()
                home.out.run("nft", "delete table inet shut")

        def the_tcp_port_is_taken():
            """By another host: the router offers another one, which peers may not dial."""
            home.stop_agent()
            home.start_daemon()
            with home.second.socket(socket.SOCK_DGRAM) as sock:
                sock.settimeout(3)
                sock.sendto(struct.pack(">BBHHHI", 0, 2, 0, 8080, PORT, 3600), ("192.168.7.1", 5351))
                told = struct.unpack(">BBHIHHI", sock.recv(64))
            if (told[2], told[5]) != (0, PORT):
                raise Failure(f"the other host was not served: {told}")
            home.start_agent()
            home.wait_mapped()
            home.said("would open TCP port")
            wait_for("it is given back", lambda: home.mapped(transport="tcp") is None, 3)
            tcp = home.home.json(BIN / "martlet", "status", "--json")["portMapping"]["gateways"][1]
            if (tcp["state"], tcp["external"]) != ("unavailable", None):
                raise Failure(f"{tcp}")
            if not any(f"192.168.7.2:8080" in rule for rule in home.rules()):
                raise Failure(f"the other host's port is gone: {home.rules()}")
            home.stop_agent()

        def nobody_there():
            home.start_agent()
            home.said("no port mapping at 192.168.7.1", within=20)
            told = home.shows(state="unavailable", protocol=None, external=None)
            tried = [attempt["protocol"] for attempt in told["gateways"][0]["attempts"]]
            # Where nobody listens at their common port NAT-PMP is not tried.
            if tried not in (["PCP", "UPnP"], ["PCP", "NAT-PMP", "UPnP"]):
                raise Failure(f"{told}")
            home.stop_agent()

        def switched_off():
            home.start_daemon(upnp=True)
            (home.home.directory / "off.json").write_text('{"network": {"portMapping": false}}')
            before = home.asked()
            for words in (["-config", "config.json", "-newconfig", "-no-port-mapping"],
                          ["-config", "off.json"]):
                home.start_agent_with(*words)
                home.said("connected to")
                time.sleep(1)
                home.shows(enabled=False)
                home.stop_agent()
            if home.asked() != before:
                raise Failure(f"the router was asked: {before} {home.asked()}")

        def public_address():
            """No NAT is in front of it, and a search may offend its network."""
            home.start_daemon(upnp=True)
            home.move("52.7.0.20")
            try:
                before = home.asked()
                home.start_agent()
                # Long enough for a question, whoever answers.
                time.sleep(3)
                home.stop_agent()
                if home.asked() != before:
                    raise Failure(f"the router was asked: {before} {home.asked()}")
            finally:
                home.move("192.168.7.20")

        report.step("PCP: the router opens the port, a packet from outside arrives", by_pcp)
        report.step("PCP: a peer is told of the port as a candidate", a_peer_hears_of_it)
        report.step("PCP: the router restarts and is asked again", the_router_restarts)
        report.step("PCP: removed when the agent stops", removed_at_the_end)
        report.step("PCP: renewed before each lifetime ends", renewed)
        report.step("PCP: a killed agent gets its mapping back, and leaves none", a_crash_leaves_no_trace)
        report.step("PCP: another address of the host, another mapping", the_address_changes)
        report.step("NAT-PMP: where PCP is not answered", by_natpmp)
        report.step("PCP: a peer without UDP connects to the TCP port", connections_come_in)
        report.step("PCP: another host has the TCP port: given back", the_tcp_port_is_taken)
        report.step("UPnP: where neither is spoken", by_upnp)
        report.step("UPnP: of two routers the connected one", the_router_that_is_connected)
        report.step("UPnP: a private address outside is called double NAT", double_nat)
        report.step("UPnP: an agent that ends the moment a port is opened leaves none", stopped_at_that_moment)
        report.step("no router answers: said once", nobody_there)
        report.step("a host with a public address asks nobody", public_address)
        report.step("PCP: a pinhole for IPv6, from a link-local gateway", pinhole)
        report.step("-no-port-mapping and portMapping: false ask nobody", switched_off)
    report.finish()


if __name__ == "__main__":
    main()
