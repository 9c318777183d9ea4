"""A small internet in which every tier but the wanted one can be blocked, and the
blocks changed while programs run. No benchmark by itself.

      a ─ home ─┐                  ┌─ home ─ b        homes only when asked for
                ├─ core ───────────┤
      (a's second uplink)          ├─ s  the server
                                   └─ r  a node that is a relay, when there is one

All traffic passes `core`, which routes and whose rules block. With `link` settings
the line between core and b is link.c: every road to b has its delay and loss.
"""
import json
import signal
import subprocess

import common
from common import compile_c, namespace, output_of, start, stop
from mesh import Mesh

TIERS = ["udp-direct", "udp-punch", "tcp-direct", "tcp-punch", "private-relay", "super-relay",
         "server-relay"]
# What may not pass so that the tier is the best there is.
BLOCKED = {
    "udp-direct": [], "udp-punch": [], "tcp-direct": ["udp"], "tcp-punch": ["udp"],
    "private-relay": ["udp", "tcp"], "super-relay": ["udp", "tcp"],
    "server-relay": ["udp", "tcp", "relay"],
}
RELAY_PORT = 27185
OTHER_TOKEN = "87654321"
# Rules of a home behind a NAT: conntrack's own, and only answers come in.
NAT = """table ip nat {
  chain out { type nat hook postrouting priority srcnat; oifname "wan" masquerade; }
  chain in { type filter hook input priority 0; iifname "wan" ct state new drop; }
  chain through { type filter hook forward priority 0; iifname "wan" ct state new drop; }
}"""


def listening(space, *words, environment=None):
    """A process of endpoints.c in a namespace, once it listens."""
    process = start([compile_c("endpoints", "-lcrypto"), *words], space, environment=environment,
                    stdout=subprocess.PIPE)
    if process.stdout.readline().strip() != b"ready":
        raise RuntimeError(f"endpoints {words[0]} does not listen")
    return process


class Roads:
    """`homes`: None (a and b at the core), "open" (behind routers that route) or "nat".
    `link`: words for link.c, then there is no home at b. `congestion`: of the kernel's
    TCP on all machines; None: as on this one."""

    def __init__(self, name, homes=None, link=None, second_uplink=False, seconds=100_000,
                 congestion=None):
        self.name, self.homes = name, homes
        self.core = namespace(f"{name}c")
        self.a, self.b, self.s, self.r = (namespace(f"{name}{x}") for x in "absr")
        if congestion:
            for space in (self.a, self.b, self.s, self.r):
                output_of(["sysctl", "-qw", f"net.ipv4.tcp_congestion_control={congestion}"], space)
        output_of(["sysctl", "-qw", "net.ipv4.ip_forward=1"], self.core)
        self.link = None
        self.address_s, self.address_r = "198.19.0.2", "198.19.1.2"
        self.wire(self.s, "eth0", "to-s", "198.19.0")
        self.wire(self.r, "eth0", "to-r", "198.19.1")
        for space, letter, number in ((self.a, "a", 1), (self.b, "b", 2)):
            if letter == "b" and link is not None:
                continue
            if not homes:
                self.wire(space, "eth0", f"to-{letter}", f"198.18.{number}")
                continue
            router = namespace(f"{name}h{letter}")
            output_of(["sysctl", "-qw", "net.ipv4.ip_forward=1"], router)
            inside = "192.168.1" if homes == "nat" else f"198.18.10{number}"
            self.wire(router, "wan", f"to-{letter}", f"198.18.{number}")
            self.wire(space, "eth0", "lan", inside, router)
            if homes == "nat":
                output_of(["nft", NAT], router)
            else:
                output_of(["ip", "route", "add", f"{inside}.0/24", "via", f"198.18.{number}.2"],
                          self.core)
        self.address_a = {None: "198.18.1.2", "open": "198.18.101.2", "nat": "192.168.1.2"}[homes]
        self.address_b = {None: "198.18.2.2", "open": "198.18.102.2", "nat": "192.168.1.2"}[homes]
        if link is not None:
            program = compile_c("link")
            self.link = start(
                [program, self.core, self.b, seconds, "addr-a=198.18.2.1", "addr-b=198.18.2.2", *link],
                stdout=subprocess.PIPE)
            if self.link.stdout.readline().strip() != b"ready":
                raise RuntimeError("the link did not come up")
            output_of(["ip", "route", "add", "default", "via", "198.18.2.1"], self.b)
        if second_uplink:
            self.wire(self.a, "eth1", "to-a2", "198.18.3", metric=200)
            self.uplink(0)
        self.block()

    def wire(self, space, device, port, network, router=None, metric=100):
        """A line from `device` of `space` (.2) to `port` of the core, or of a router (.1)."""
        router = router or self.core
        output_of(["ip", "link", "add", "name", port, "netns", router, "type", "veth", "peer", "name", device,
                   "netns", space])
        for where, name, number in ((router, port, 1), (space, device, 2)):
            output_of(["ip", "addr", "add", f"{network}.{number}/24", "dev", name], where)
            output_of(["ip", "link", "set", name, "up"], where)
        self.default(space, device, network, metric)

    @staticmethod
    def default(space, device, network, metric=100):
        output_of(["ip", "route", "replace", "default", "via", f"{network}.1", "dev", device,
                   "metric", metric], space)

    def uplink(self, number):
        """Of a's two uplinks this one is up from now on, and the other down."""
        networks = "198.18.1", "198.18.3"
        output_of(["ip", "link", "set", f"eth{number}", "up"], self.a)
        self.default(self.a, f"eth{number}", networks[number])
        output_of(["ip", "link", "set", f"eth{1 - number}", "down"], self.a)

    def block(self, *what):
        """From now on exactly these do not pass, in silence: "udp" and "tcp" between a and
        b, "relay" (whatever goes to r or comes from it)."""
        a, b = '{ "to-a", "to-a2" }', "link0" if self.link else "to-b"
        ends = f'iifname {a} oifname {b}', f'iifname {b} oifname {a}'
        rules = []
        for word in what:
            rules += (["iifname to-r drop", "oifname to-r drop"] if word == "relay" else
                      [f"{end} meta l4proto {word} drop" for end in ends])
        # One transaction: nothing passes between the old rules and the new.
        output_of(["nft", "add table inet block; flush table inet block; "
                   "add chain inet block through { type filter hook forward priority 0; }; "
                   + "; ".join("add rule inet block through " + rule for rule in rules)], self.core)

    def mesh(self, tier, environment=None, relay=None, megabits=10_000, flags=()):
        """Server and two agents in it, and a relay capped so: "private", "super" (of
        another mesh of the server) or None."""
        mesh = Mesh(tier, host=self.address_s, spaces=(self.s, self.a, self.b), environment=environment,
                    agent_flags=flags, tokens=(OTHER_TOKEN,) if relay == "super" else ())
        if relay:
            self.start_relay(mesh, relay, megabits)
        return mesh

    def start_relay(self, mesh, kind, megabits):
        words = ["-relay-port", RELAY_PORT, "-bw", megabits]
        mesh.relay = (mesh.agent("hop", self.r, "-relay", *words) if kind == "private" else
                      mesh.agent("hop", self.r, "-super", *words, token=OTHER_TOKEN))
        common.wait_until("the relay listens", lambda: f":{RELAY_PORT}" in output_of(
            ["ss", "-Hltn"], self.r), 10)
        return mesh.relay

    def close_link(self):
        """What the link says of itself, a dictionary for each direction."""
        self.link.send_signal(signal.SIGTERM)
        lines = self.link.stdout.read().decode().splitlines()
        stop(self.link)
        return [json.loads(line) for line in lines]
