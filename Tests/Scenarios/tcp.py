"""Where UDP does not pass, TCP between the agents does: to a public peer, and by
simultaneous open between two homes behind NATs. A download of 20 MB goes over it
whole; when UDP is let out again the pair goes back to it, under the stream.
Strangers at the agent's TCP port get nothing and are sent away.
"""

import re
import time

from harness import (
    BIN, Download, Failure, Report, Source, echo, enter_namespaces, require_lab, wait_for)
from homes import SERVER, Homes, talk

DIRECT = """home left udp-blocked
home right public
host a left
host b right
"""
PUNCH = """home left udp-blocked
home right udp-blocked
host a left
host b right
"""
SIZE = 20 << 20
# From the first stream until both ends use the TCP path; and the way back.
THERE, BACK = 20, 60


def wait_tiers(lab, tier, within):
    started = time.monotonic()
    try:
        wait_for(f"both ends on {tier}", lambda: all(
            t.startswith(tier) for t in lab.tiers("a", "b")), within, every=0.1)
    except Failure as failure:
        why = lab.why("a", "b")
        raise Failure(f"{failure}: {lab.tiers('a', 'b')}, why {why['verdict']}") from None
    return f"{lab.tiers('a', 'b')[0]} after {time.monotonic() - started:.1f} s"


def download(lab, port, seed):
    """20 MB from b to a while the path stays what it is."""
    source = Source(lab.machine("b"), port, SIZE, seed=seed)
    started = time.monotonic()
    fetch = Download(lab.machine("a").connect(9001, timeout=20))
    fetch.finish(source, within=60)
    return f"{SIZE / (time.monotonic() - started) / 1e6 * 8:.0f} Mb/s"


def connections(lab, name):
    """Established TCP connections that are neither local nor to the server."""
    text = lab.machine(name).output("ss", "-tnH", "state", "established")
    return [line for line in text.splitlines() if "127.0.0.1" not in line and SERVER not in line]


def pair(report, text, tier, title):
    with Homes(text, "tcp") as lab:
        def settle():
            lab.start("a", "b")
            lab.machine("b").serve(8000, echo)
            lab.tunnel("a", "b")
            lab.streams = [talk(lab, "a")]
            return wait_tiers(lab, tier, THERE)

        def whole():
            b, a = lab.machine("b"), lab.machine("a")
            b.run(BIN / "ztm", "tunnel", "open", "outbound", "tcp/big", "--targets",
                  "127.0.0.1:8001")
            a.run(BIN / "ztm", "tunnel", "open", "inbound", "tcp/big", "--listen",
                  "127.0.0.1:9001", "--exits", "b")
            words = download(lab, 8001, seed=7)
            tiers = lab.tiers("a", "b")
            if tiers != [tier, tier]:
                raise Failure(f"afterwards on {' and '.join(tiers)}")
            return words

        def one_connection():
            """Both ends dial; one connection is kept."""
            try:
                wait_for("one connection", lambda: len(connections(lab, "a")) == 1
                         and len(connections(lab, "b")) == 1, within=8)
            except Failure as failure:
                raise Failure(f"{failure}: {connections(lab, 'a')}, {connections(lab, 'b')}")

        def strangers():
            """Who connects and says nothing, or garbage, is sent away."""
            port = int(re.search(r"0\.0\.0\.0:(\d+)", "\n".join(
                line for line in lab.machine("b").output("ss", "-tlnH").splitlines()
                if "0.0.0.0:" in line and ":2718" not in line))[1])
            started = time.monotonic()
            sockets = []
            for number in range(9):
                try:
                    sockets.append(lab.machine("b").connect(port, timeout=10))
                    if number == 0:
                        sockets[0].sendall(b"GET / HTTP/1.1\r\nHost: me\r\n\r\n")
                except ConnectionResetError:
                    pass  # one too many of this source
            for sock in sockets:
                try:
                    if sock.recv(1):
                        raise Failure("a stranger got an answer")
                except ConnectionResetError:
                    pass
            taken = time.monotonic() - started
            if taken > 7:
                raise Failure(f"only after {taken:.1f} s")
            return f"within {taken:.1f} s"

        def back():
            """UDP is let out: the pair returns to it, and the stream goes on."""
            for home in ("left", "right"):
                if f"home {home} udp-blocked" not in text:
                    continue
                rules = lab.rules(
                    text.replace("udp-blocked", "port-restricted"), f"router-{home}")
                lab.machine(f"router-{home}").run("nft", "flush ruleset\n" + rules)
            words = wait_tiers(lab, "udp-", BACK)
            lab.streams[0].settimeout(5)
            return words

        if report.step(f"{title}: {tier}", settle):
            report.step(f"{title}: 20 MB, SHA-256 equal", whole)
            report.step(f"{title}: one connection is kept", one_connection)
            if tier == "tcp-direct":
                report.step("strangers at the TCP port are sent away", strangers)
            report.step(f"{title}: UDP allowed again, back to UDP", back)
        if report.failed:
            lab.show_logs()


def main():
    enter_namespaces()
    report = Report()
    require_lab(report, "tcp")
    pair(report, DIRECT, "tcp-direct", "UDP blocked, a public peer")
    pair(report, PUNCH, "tcp-punch", "UDP blocked, two NATs")
    report.finish()


if __name__ == "__main__":
    main()
