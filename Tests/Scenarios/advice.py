"""What `martlet why` advises, done: the pair gets the better path. Three labs of
real routers: a port mapped by miniupnpd, packets turned round, UDP let out."""

import shutil
import time

from harness import Failure, Report, echo, enter_namespaces, require_lab, wait_for
from homes import Homes, talk

SYMMETRIC = """home left symmetric-random
home right symmetric-random
host a left
host b right
"""
GUESTS = """home cafe port-restricted isolated
host a cafe
host b cafe
"""
BLOCKED = """home left udp-blocked
home right port-restricted
host a left
host b right
"""
# miniupnpd hangs its rules into these; the lab's own table stays beside it.
CHAINS = """
table inet filter {
  chain forward { type filter hook forward priority 0; policy accept; jump miniupnpd; }
  chain miniupnpd { }
  chain prerouting {
    type nat hook prerouting priority -100; policy accept; jump prerouting_miniupnpd
  }
  chain prerouting_miniupnpd { }
  chain postrouting {
    type nat hook postrouting priority 100; policy accept; jump postrouting_miniupnpd
  }
  chain postrouting_miniupnpd { }
}
"""
# The lab's addresses are reserved ones, which miniupnpd maps nothing on.
PUBLIC = "52.0.0.1"


def settle(lab):
    """A pair in use that has no direct path."""
    lab.start("a", "b")
    lab.machine("b").serve(8000, echo)
    lab.tunnel("a", "b")
    return talk(lab, "a")


def says(lab, verdict, advice, name="a", other="b", within=25, tier="server-relay"):
    """Not on the best road at either end, and this end knows why and what to do."""
    started = time.monotonic()
    last = {}

    def right():
        last.update(lab.why(name, other))
        return (last["verdict"], last["advice"]) == (verdict, advice)

    try:
        wait_for(verdict, right, within, every=0.25)
    except Failure:
        raise Failure(f"why says {last.get('verdict')} / {last.get('advice')}, "
                      f"not {verdict} / {advice}") from None
    try:
        wait_for(tier, lambda: lab.tiers("a", "b") == [tier, tier], within)
    except Failure:
        raise Failure(f"on {' and '.join(lab.tiers('a', 'b'))}, not {tier}") from None
    return f"{verdict}, {advice} after {time.monotonic() - started:.1f} s"


def becomes_direct(lab, within):
    started = time.monotonic()
    try:
        tiers = lab.wait_direct("a", "b", within)
    except Failure as failure:
        why = [lab.why("a", "b"), lab.why("b", "a")]
        raise Failure(f"{failure}; why: {why[0]['verdict']} and {why[1]['verdict']}") from None
    taken = time.monotonic() - started
    verdicts = [lab.why("a", "b")["verdict"], lab.why("b", "a")["verdict"]]
    if verdicts != ["direct", "direct"]:
        raise Failure(f"{tiers[0]}, but why says {' and '.join(verdicts)}")
    return f"{tiers[0]} {taken:.1f} s later"


def map_port(report):
    with Homes(SYMMETRIC, "advice") as lab:
        streams = []
        report.step("two random symmetric NATs: why advises to map a port", lambda: (
            streams.append(settle(lab)), says(lab, "both-symmetric", "map-port-here"))[1])
        router = lab.machine("router-left")

        def daemon():
            router.run("ip", "addr", "add", f"{PUBLIC}/32", "dev", "wan")
            lab.machine("edge-left").run("ip", "route", "add", PUBLIC, "via", "198.18.1.2")
            for name in ("edge-right", "server"):
                lab.machine(name).run("ip", "route", "add", PUBLIC, "via", "198.19.0.101")
            router.run("nft", CHAINS)
            config = router.directory / "miniupnpd.conf"
            config.write_text("\n".join([
                "ext_ifname=wan", f"ext_ip={PUBLIC}", "listening_ip=lan", "http_port=5000",
                "enable_natpmp=yes", "enable_upnp=yes", "min_lifetime=120", "max_lifetime=3600",
                "system_uptime=no", "secure_mode=yes",
                "uuid=00000000-0000-0000-0000-000000000007",
                "allow 1024-65535 192.168.1.0/24 1024-65535", "deny 0-65535 0.0.0.0/0 0-65535",
            ]) + "\n")
            router.spawn("miniupnpd", "-d", "-f", config, "-P", router.directory / "pid")
            return becomes_direct(lab, within=60)

        if not shutil.which("miniupnpd"):
            report.skip("the router maps a port: direct", "needs miniupnpd")
        elif streams:
            report.step("the router maps a port: direct", daemon)
        if report.failed:
            lab.show_logs()


def hairpin(report):
    with Homes(GUESTS, "advice") as lab:
        streams = []
        report.step("two guests of one Wi-Fi: why advises hairpinning", lambda: (
            streams.append(settle(lab)), says(lab, "no-hairpin", "enable-hairpin"))[1])

        def switch_on():
            rules = lab.rules(GUESTS.replace("restricted", "restricted hairpin"), "router-cafe")
            if "lan" not in rules:
                raise Failure("no rules for a router that turns packets round")
            lab.machine("router-cafe").run("nft", "flush ruleset\n" + rules)
            return becomes_direct(lab, within=60)

        if streams:
            report.step("the router turns packets round: direct", switch_on)


def allow_udp(report):
    with Homes(BLOCKED, "advice") as lab:
        streams = []
        report.step("UDP is blocked: why advises to let it out", lambda: (
            streams.append(settle(lab)),
            says(lab, "udp-blocked-here", "allow-udp-here", tier="tcp-punch"))[1])
        report.step("and the other end knows on which side",
                    lambda: says(
                        lab, "udp-blocked-there", "allow-udp-there", "b", "a", tier="tcp-punch"))

        def let_out():
            rules = lab.rules(BLOCKED.replace("udp-blocked", "port-restricted"), "router-left")
            lab.machine("router-left").run("nft", "flush ruleset\n" + rules)
            return becomes_direct(lab, within=60)

        if streams:
            report.step("UDP is let out: direct", let_out)


def main():
    enter_namespaces()
    report = Report()
    require_lab(report, "advice")
    for scenario in (map_port, hairpin, allow_udp):
        scenario(report)
    report.finish()


if __name__ == "__main__":
    main()
