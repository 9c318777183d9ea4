"""What an idle pair costs: two homes, one connection, then nothing. A router counts
every byte between the homes and, apart from it, those between a home and the server.
In short: half a minute of it, when only pings may pass. `--full` (make lab, 24
minutes): after ten minutes the pair is let go; then it must cost nothing, and the
next connection must bring it back.
"""

import json
import sys
import time

from harness import Failure, Report, enter_namespaces, require_lab, wait_for
from homes import Homes

HOMES = """home left port-restricted
home right port-restricted
host a left
host b right
"""
FULL = "--full" in sys.argv[1:]
# A ping every 19 to 100 s, 200 bytes there and back, and what is left of the search
# for the packet size.
SHORT, SHORT_BAR = 30, 4_000
# A pair is let go after ten minutes (docs/decisions/0019); then as long again.
LETS_GO, WATCHED = 12 * 60, 600
DAY = 86_400
BAR = 100_000  # bytes of an idle peer and day
DIRECT = 10
COUNTERS = """table inet idle {
 counter peer { }
 counter server { }
 set servers4 { type ipv4_addr; elements = { 198.19.0.10, 198.19.0.11 } }
 chain forward {
  type filter hook forward priority 200; policy accept;
  ip saddr @servers4 counter name server accept
  ip daddr @servers4 counter name server accept
  ip6 saddr 2001:db8:ffff::/64 counter name server accept
  ip6 daddr 2001:db8:ffff::/64 counter name server accept
  counter name peer
 }
}"""


def counted(lab):
    """Bytes (IP packets, both ways) at the left router: with the peer, with the server."""
    text = lab.machine("router-left").output("nft", "-j", "list", "counters", "table", "inet", "idle")
    found = {entry["counter"]["name"]: entry["counter"]["bytes"]
             for entry in json.loads(text)["nftables"] if "counter" in entry}
    return found["peer"], found["server"]


def session(lab):
    """Bytes of the session, whatever path they took; 0 once its keys are forgotten."""
    peer = lab.peer("a", "b")
    return peer["bytesSent"] + peer["bytesReceived"]


def say_hello(lab):
    with lab.machine("a").connect(9000, timeout=20) as sock:
        sock.sendall(b"hello\n")
        if not sock.recv(64):
            raise Failure("the tunnel closed at once")


def main():
    enter_namespaces()
    report = Report()
    require_lab(report, "idle")
    with Homes(HOMES, "idle") as lab:
        marks = {}

        def begin():
            lab.machine("router-left").run("nft", COUNTERS)
            lab.start("a", "b")
            lab.machine("b").serve(8000, lambda sock: sock.sendall(sock.recv(64)))
            lab.tunnel("a", "b")
            say_hello(lab)
            lab.wait_direct("a", "b", DIRECT)
            time.sleep(2)
            marks["used"] = counted(lab), session(lab), time.monotonic()

        def only_pings():
            time.sleep(SHORT)
            count = counted(lab)[0] - marks["used"][0][0]
            if count > SHORT_BAR:
                raise Failure(f"{count} bytes in {SHORT} s")
            return f"{count} bytes between the homes in {SHORT} s"

        def rests():
            def quiet():
                """No byte between the homes for longer than any ping waits."""
                before = counted(lab)[0], session(lab)
                time.sleep(130)
                return (counted(lab)[0], session(lab)) == before
            wait_for("the pair being let go", quiet, LETS_GO)
            marks["rests"] = counted(lab), session(lab), time.monotonic()
            between = marks["rests"][0][0] - marks["used"][0][0]
            return f"{between} bytes between the homes until then, packet heads counted"

        def costs_nothing():
            time.sleep(WATCHED)
            (peer, server), inside, now = counted(lab), session(lab), time.monotonic()
            (peer0, server0), inside0, then = marks["rests"]
            once = peer0 - marks["used"][0][0]
            day = once + (peer - peer0) * DAY / (now - then)
            if day > BAR or inside > inside0:
                raise Failure(f"{day:.0f} bytes a day; {inside - inside0} bytes of the session at rest")
            return (f"an idle peer costs {day:.0f} bytes a day, {once} of them before it was let go "
                    f"(at most {BAR}); the connection to the server apart: "
                    f"{(server - server0) * DAY / (now - then):.0f}")

        def comes_back():
            say_hello(lab)
            tiers = lab.wait_direct("a", "b", DIRECT)
            return f"bytes at once, then {tiers[0]}"

        steps = [("idle: two homes, a connection, a direct path", begin)]
        if FULL:
            steps += [("idle: the pair is let go", rests),
                      ("idle: then it costs nothing", costs_nothing),
                      ("idle: the next connection brings it back", comes_back)]
        else:
            steps += [("idle: only pings pass", only_pings)]
        for name, action in steps:
            if not report.step(name, action):
                break
        if report.failed:
            lab.show_logs()
    report.finish()


if __name__ == "__main__":
    main()
