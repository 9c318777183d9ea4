"""A download through the tunnel lives through what happens to networks: a router
that forgets its mappings, routers that reboot, a machine that goes from Wi-Fi to
cable, a program that is stopped, a path that gets narrow. Two homes with real
routers; afterwards the bytes must be the same. `--full` (make lab) repeats each
and reports how long the recovery took.
"""

import json
import shutil
import socket
import sys
import threading
import time

from harness import Download, Failure, Report, Source, enter_namespaces, require_lab, wait_for
from homes import Homes

HOMES = """home left port-restricted
home right port-restricted
host a left
host b right
"""
FULL = "--full" in sys.argv[1:]
# Further words choose events by what their names contain.
ONLY = [word for word in sys.argv[1:] if word != "--full"]
REPEATS = 5 if FULL else 1
RATE = 1 << 20
# Before the event, and after it: a dead path may take the event's time more.
BEFORE, AFTER = (5, 20) if FULL else (2, 7)
STOPPED = 90 if FULL else 15
REBOOT = 3
# Within this the stream must flow again, and the direct path be back.
FLOWS, DIRECT = 12, 20
SETTLED = 3
RULES = {}
OTHER_PORTS = HOMES.replace("port-restricted", "port-restricted-random-port")


class Watch(Download):
    """A download that remembers when its bytes came."""

    def __init__(self, sock):
        self.times = []
        super().__init__(Heard(sock, self.times))

    def pause(self, since):
        """The longest time without a byte after `since`, the one running included."""
        times = [t for t in self.times if t >= since]
        last = max([t for t in self.times if t < since], default=since)
        longest = 0
        for moment in times:
            longest, last = max(longest, moment - last), moment
        return longest


class Heard:
    def __init__(self, sock, times):
        self.sock, self.times = sock, times

    def recv(self, count):
        chunk = self.sock.recv(count)
        self.times.append(time.monotonic())
        return chunk


class Roads:
    """Looks at both ends' path all the time."""

    def __init__(self, lab):
        self.lab, self.running = lab, True
        self.last_relayed, self.seen = 0, []
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self):
        while self.running:
            try:
                tiers = self.lab.tiers("a", "b")
            except (OSError, Failure, ValueError):
                tiers = ["none", "none"]  # a stopped agent does not answer
            if not all(t.startswith("udp-") for t in tiers):
                self.last_relayed = time.monotonic()
                self.seen.append(tiers)
            time.sleep(0.01)

    def calm(self):
        return time.monotonic() - self.last_relayed

    def left(self, since):
        """When the pair was last seen without a direct path, after `since`."""
        return max(self.last_relayed, since)

    def end(self):
        self.running = False
        self.thread.join()


def run(lab, name, *words):
    lab.machine(name).run(*words)


def rebinding(lab):
    """Both routers forget every mapping, and give other ports than before."""
    for home in ("left", "right"):
        swap(lab, home, OTHER_PORTS)


def undo_rebinding(lab):
    for home in ("left", "right"):
        swap(lab, home)


def swap(lab, home, text=HOMES):
    key = (home, text)
    if key not in RULES:
        RULES[key] = lab.rules(text, f"router-{home}")
    router = f"router-{home}"
    # Nothing passes meanwhile: the new rules would learn ports of old flows.
    run(lab, router, "nft", "flush ruleset\ntable ip shut {\n chain forward {\n"
        "  type filter hook forward priority -200; policy drop;\n }\n}")
    run(lab, router, "conntrack", "-F")
    run(lab, router, "nft", "flush ruleset\n" + RULES[key])


def reboot(lab):
    """Both routers at once: rules, mappings and links gone for three seconds."""
    homes = ("left", "right")
    for home in homes:
        run(lab, f"router-{home}", "ip", "link", "set", "wan", "down")
        run(lab, f"router-{home}", "nft", "flush ruleset")
        run(lab, f"router-{home}", "conntrack", "-F")
    time.sleep(REBOOT)
    for number, home in enumerate(homes, 1):
        swap(lab, home)
        run(lab, f"router-{home}", "ip", "link", "set", "wan", "up")
        run(lab, f"router-{home}", "ip", "route", "replace", "default", "via",
            f"198.18.{number}.1")


def cable(lab, old="eth0", new="eth1", address="192.168.1.77"):
    """The downloading machine gets another interface and address, then loses the
    first."""
    router, host = lab.prefix + "router-left", lab.prefix + "a"
    port = "q" + new
    lab.ip("ip", "link", "add", port, "netns", router, "type", "veth", "peer", "name", new,
           "netns", host)
    run(lab, "router-left", "ip", "link", "set", port, "master", "lan", "up")
    run(lab, "a", "ip", "addr", "add", f"{address}/24", "dev", new)
    run(lab, "a", "ip", "link", "set", new, "up")
    run(lab, "a", "ip", "link", "del", old)
    run(lab, "a", "ip", "route", "replace", "default", "via", "192.168.1.1", "dev", new)


class Cable:
    """There and back again, however often."""

    def __init__(self):
        self.count = 0

    def __call__(self, lab):
        old, new = f"eth{self.count}", f"eth{self.count + 1}"
        self.count += 1
        cable(lab, old, new, f"192.168.1.{77 + self.count}")


def stopped(lab):
    """One agent does not run for a while, as on a machine that sleeps."""
    lab.agents["b"].stop()
    time.sleep(STOPPED)
    lab.agents["b"].resume()


def narrow(size):
    def event(lab):
        for home in ("left", "right"):
            run(lab, f"edge-{home}", "ip", "link", "set", "core", "mtu", size)
    event.__doc__ = f"The line between the providers takes {size} bytes at most."
    return event


def widen(lab):
    narrow(1500)(lab)


EVENTS = [
    ("the routers forget their mappings", rebinding, undo_rebinding, 0),
    ("both routers reboot", reboot, None, REBOOT),
    ("the machine goes from Wi-Fi to cable", Cable(), None, 0),
    (f"an agent is stopped for {STOPPED} s", stopped, None, STOPPED),
    ("the path narrows to 1280 bytes", narrow(1280), widen, 0),
    ("the path narrows to 576 bytes", narrow(576), widen, 0),
]


def survive(lab, event, undo, outage, seed):
    """One download through one event: the pause of the bytes, and the time until
    both ends are on a direct path again; both beyond the outage itself."""
    length = BEFORE + outage + AFTER
    roads = Roads(lab)
    source = Source(lab.machine("b"), 8000, RATE * length, RATE, seed)
    try:
        sock = lab.machine("a").connect(9000, timeout=FLOWS + outage + 30)
        download = Watch(sock)
        lab.wait_direct("a", "b", within=DIRECT)
        time.sleep(max(0, download.started + BEFORE - time.monotonic()))
        if not download.count:
            raise Failure("no byte came before it happened")
        begun = time.monotonic()
        event(lab)
        over = time.monotonic()
        # A path that is dead is found to be so a moment later, so it is watched
        # for a while however good it looks.
        wait_for("a direct path that lasts", lambda: time.monotonic() > over + SETTLED
                 and roads.calm() > 1, within=DIRECT)
        away = max(0, roads.left(begun) - (over if outage else begun))
        download.finish(source, within=length + FLOWS)
        pause = download.pause(begun) - (over - begun if outage else 0)
        if pause > FLOWS:
            raise Failure(f"no byte for {pause:.1f} s")
        return max(pause, 0), away
    finally:
        roads.end()
        # A thread is in accept(), and keeps the port until it is woken.
        source.listener.shutdown(socket.SHUT_RDWR)
        source.listener.close()
        if undo:
            undo(lab)


def spread(values):
    """Median and 95th percentile, nearest rank."""
    ordered = sorted(values)
    rank = lambda share: ordered[max(0, -(-int(share * 100) * len(ordered) // 100) - 1)]
    return f"{rank(0.5) * 1000:.0f} / {rank(0.95) * 1000:.0f} ms"


def main():
    enter_namespaces()
    report = Report()
    require_lab(report, "survive")
    if not shutil.which("conntrack"):
        report.skip("survive", "needs conntrack")
        report.finish()
    with Homes(HOMES, "survive") as lab:
        def begin():
            lab.start("a", "b")
            lab.tunnel("a", "b")
            for home in ("left", "right"):
                for text in (OTHER_PORTS, HOMES):
                    swap(lab, home, text)

        if not report.step("two homes, an agent in each", begin):
            report.finish()
        results = {}
        for number, (name, event, undo, outage) in enumerate(EVENTS):
            if ONLY and not any(word in name for word in ONLY):
                continue
            def one():
                samples = []
                for repeat in range(REPEATS):
                    samples.append(survive(lab, event, undo, outage, number * 100 + repeat))
                results[name] = samples
                return (f"{len(samples)} times, bytes pause {spread([s[0] for s in samples])}, "
                        f"direct again after {spread([s[1] for s in samples])}")
            if not report.step(f"a download survives: {name}", one):
                print(json.dumps([lab.why("a", "b"), lab.why("b", "a")]))
        if report.failed:
            lab.show_logs()
    report.finish()


if __name__ == "__main__":
    main()
