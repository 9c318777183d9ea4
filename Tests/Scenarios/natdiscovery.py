"""What coturn's turnutils_natdiscovery finds out about a network, against what
`martlet netcheck` says of it and what the router was built to do: mapping,
filtering, hairpinning, from behind routers of the lab, with a server at two
addresses. In short two kinds, with `--full` (make lab) all of them, IPv4 and IPv6.

Where natdiscovery is known to be wrong or to know nothing, and the rules have the
word (coturn 4.6.1):

- Its status says nothing of what it found.
- Behind a symmetric NAT its hairpin test sends to the endpoint that the server saw,
  which is a mapping for the server alone: silence there proves nothing. Nor does
  netcheck claim anything.
- Without a NAT its hairpin test is a host that talks to itself.
- Behind two routers it sees no hairpin though there is one: it sends one way only,
  and the inner router lets nobody in that its own host has not sent to first. Two
  peers send both ways, and so does netcheck.
- Where UDP is blocked its hairpin test goes on without an answer, to no address at
  all, and ends the program (status 255, "Address family not supported") before the
  other tests.
"""

import concurrent.futures
import re
import shutil
import sys

from harness import BIN, Failure, Report, enter_namespaces, require_lab, wait_for
from homes import Homes, SERVER, TOKEN

FULL = "--full" in sys.argv[1:]
SECOND, PORT = "198.19.0.11", 27182
SERVER6, SECOND6 = "2001:db8:ffff::10", "2001:db8:ffff::11"
INDEPENDENT, ADDRESS, BOTH = (
    "endpoint-independent", "address-dependent", "address-and-port-dependent")
UNKNOWN = "unknown"

# kind: mapping, filtering; as Sources/NAT/NATKind.swift builds them.
RULES = {
    "public": ("none", INDEPENDENT),
    "firewalled": ("none", BOTH),
    "full-cone": (INDEPENDENT, INDEPENDENT),
    "address-restricted": (INDEPENDENT, ADDRESS),
    "port-restricted": (INDEPENDENT, BOTH),
    "port-restricted-random-port": (INDEPENDENT, BOTH),
    "masq-open": (INDEPENDENT, BOTH),
    "symmetric-random": (BOTH, BOTH),
    "symmetric-sequential": (BOTH, BOTH),
    "double-nat": (INDEPENDENT, BOTH),
    "udp-blocked": (UNKNOWN, UNKNOWN),
    "tcp-443-only": (UNKNOWN, UNKNOWN),
}
SHORT = [("port-restricted", True), ("symmetric-random", False)]
TURNING = [kind for kind, (mapping, _) in RULES.items() if mapping == INDEPENDENT]
# The hosts that run natdiscovery beside each other.
TOGETHER = 6


def homes(cases):
    lines = ["server port 27183"]
    for number, (kind, hairpin) in enumerate(cases):
        lines += [f"home n{number} {kind}{' hairpin' if hairpin else ''}",
                  f"host h{number} n{number}"]
    # A scenario has two hosts at least.
    lines += ["home last public", "host bystander last"]
    return "\n".join(lines) + "\n"


def own_address(host, family):
    text = host.output("ip", "-o", f"-{family}", "addr", "show", "scope", "global")
    return re.search(r"inet6? ([0-9a-f.:]+)/", text)[1]


def ours(host, server, family):
    report = host.json(BIN / "martlet", "netcheck", "-serverhost", server, "--json")
    return next(f for f in report["families"] if f["family"] == f"IPv{family}")


def theirs(host, server, family):
    """Mapping, filtering and hairpinning as natdiscovery words them."""
    text = host.output(
        "turnutils_natdiscovery", "-m", "-f", "-H", "-p", PORT, "-L", own_address(host, family),
        server, timeout=90, check=False)
    parts = dict(re.findall(r"-= (\w+) .*?=-(.*?)(?=-= |\Z)", text, re.S))

    def behaviour(part, word):
        said = re.findall(rf"with ([\w ]+) {word}!", parts.get(part, ""))
        return {"Endpoint Independent": INDEPENDENT, "Address Dependent": ADDRESS,
                "Address and Port Dependent": BOTH}[said[-1]] if said else UNKNOWN

    mapping = behaviour("Mapping", "Mapping")
    if mapping == INDEPENDENT and "No NAT!" in parts["Mapping"]:
        mapping = "none"
    hairpin = "Received a request" in parts.get("Hairpinning", "")
    return {"mapping": mapping, "filtering": behaviour("Filtering", "Filtering"),
            "hairpins": hairpin}, text


def compare(kind, hairpin, host, server, family):
    mapping, filtering = RULES[kind] if family == 4 else ("none", BOTH)
    report = ours(host, server, family)
    nat = report["nat"]
    found, text = theirs(host, server, family)
    wrong = []
    for what, truth in (("mapping", mapping), ("filtering", filtering)):
        if nat[what] != truth:
            wrong.append(f"netcheck says {what} {nat[what]}, the rules {truth}")
        if found[what] != truth:
            wrong.append(f"natdiscovery says {what} {found[what]}, the rules {truth}")
    # What hairpinning is worth saying of.
    if mapping == INDEPENDENT:
        if nat["hairpins"] != hairpin:
            wrong.append(f"netcheck says hairpin {nat['hairpins']}, the rules {hairpin}")
        if found["hairpins"] != (hairpin and kind != "double-nat"):
            wrong.append(f"natdiscovery says hairpin {found['hairpins']}, the rules {hairpin}")
    elif mapping == BOTH and nat["hairpins"] is not None:
        wrong.append(f"netcheck says hairpin {nat['hairpins']} of a symmetric NAT")
    # How many routers of ours it passes: theirs does not tell.
    if mapping != UNKNOWN:
        # In IPv6 the provider's router is on a link with the site's own /48.
        wanted = 2 if kind == "double-nat" or family == 6 else 1
        if report["routers"]["ours"] != wanted:
            wrong.append(f"netcheck says {report['routers']}, the rules {wanted}")
    elif "reflexive addr" in text:
        wrong.append("natdiscovery had an answer")
    elif nat["udpBlocked"] != (kind == "udp-blocked"):
        wrong.append(f"netcheck says UDP blocked: {nat['udpBlocked']}")
    if wrong:
        raise Failure(f"{kind}{' with hairpin' if hairpin else ''}: {'; '.join(wrong)}\n{text}")


def discover(cases, server, second, family):
    with Homes(homes(cases), "natdiscovery") as lab:
        machine = lab.machine("server", SERVER)
        running = machine.spawn(
            BIN / "inp2ps", "-token", TOKEN, "-data", "state", "-stun-alt-ip", second)
        wait_for("the server", lambda: "STUN on" in running.text())
        hosts = [lab.machine(f"h{number}") for number in range(len(cases))]
        failures = []
        with concurrent.futures.ThreadPoolExecutor(TOGETHER) as pool:
            jobs = [pool.submit(compare, kind, hairpin, host, server, family)
                    for (kind, hairpin), host in zip(cases, hosts)]
            for job in jobs:
                try:
                    job.result()
                except Failure as failure:
                    failures.append(str(failure))
        if failures:
            raise Failure("\n".join(failures))
        if running.terminate() != 0 or "STUN: " not in running.text():
            raise Failure("the server says nothing of what its STUN ports did")
        return f"{len(cases)} networks"


def main():
    enter_namespaces()
    report = Report()
    require_lab(report, "natdiscovery")
    if not shutil.which("turnutils_natdiscovery"):
        report.skip("natdiscovery", "package coturn is not installed")
        report.finish()
    cases = SHORT
    if FULL:
        cases = [(kind, False) for kind in RULES] + [(kind, True) for kind in TURNING]
    report.step("turnutils_natdiscovery and netcheck agree with the rules",
                lambda: discover(cases, SERVER, SECOND, 4))
    if FULL:
        report.step("the same over IPv6",
                    lambda: discover([("ipv6-only", False)], SERVER6, SECOND6, 6))
    report.finish()


if __name__ == "__main__":
    main()
