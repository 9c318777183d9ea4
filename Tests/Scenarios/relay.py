"""A client is a relay for others: the direct road between a and b is cut, c has
`-relay`. A download goes through c; c is killed under it and the server's relay
takes over; c comes back and the pair with it. Strangers get nothing from c, and
`-bw` holds.
"""

import json
import os
import socket
import struct
import time

from harness import BIN, Download, Failure, Lab, Report, Source, enter_namespaces, wait_for
from mesh import Mesh

SIZE = 20 << 20
PORT = 27185
PRIVATE, SERVER = "private-relay", "server-relay"
# With -bw 10 so many megabits of payload a second, over so long.
CAP, SPAN, TOLERANCE = 10, 10, 0.15


class Relays(Mesh):
    def __init__(self, lab):
        super().__init__(lab)
        self.c = lab.host("c")
        # No road between a and b, whatever the transport.
        self.a.cut(self.b.address)
        self.b.cut(self.a.address)

    def start_relay(self, megabits):
        self.start_agent(self.c, "-relay", "-bw", megabits)
        wait_for("the relay listens", lambda: str(PORT) in self.c.output("ss", "-ltnH"))

    def connections(self):
        """TCP connections of guests."""
        return self.c.output(
            "ss", "-tnH", "state", "established", "sport", "=", f":{PORT}").splitlines()

    def tiers(self):
        return [self.peer(self.a, "nodeB")["tier"], self.peer(self.b, "nodeA")["tier"]]

    def wait_tiers(self, tier, within):
        started = time.monotonic()
        try:
            wait_for(f"both on {tier}", lambda: self.tiers() == [tier, tier], within, every=0.1)
        except Failure as failure:
            raise Failure(f"{failure}: {self.tiers()}") from None
        return time.monotonic() - started

    def fetch_from(self, source_port):
        return Download(self.a.connect(source_port, timeout=20))


def main():
    enter_namespaces()
    report = Report()
    if not Lab.available():
        report.skip("relay", "no network namespaces here")
        report.finish()
    with Lab("relay") as lab:
        mesh = Relays(lab)
        mesh.tunnel("bulk", "127.0.0.1:8001", "127.0.0.1:9001")
        mesh.tunnel("slow", "127.0.0.1:8002", "127.0.0.1:9002")
        mesh.tunnel("large", "127.0.0.1:8003", "127.0.0.1:9003")
        mesh.tunnel("trickle", "127.0.0.1:8004", "127.0.0.1:9004")
        whole = Source(mesh.b, 8001, SIZE, seed=3)
        slow = Source(mesh.b, 8002, SIZE, rate=2_000_000, seed=4)
        Source(mesh.b, 8003, 3 * SIZE, seed=5)
        Source(mesh.b, 8004, SIZE, rate=10_000, seed=6)

        def through_the_relay():
            mesh.start_relay("100")
            first = mesh.fetch_from(9002)
            taken = mesh.wait_tiers(PRIVATE, 20)
            download = mesh.fetch_from(9001)
            seconds = download.finish(whole, within=60)
            if mesh.tiers() != [PRIVATE, PRIVATE]:
                raise Failure(f"afterwards on {mesh.tiers()}")
            first.finish(slow, within=30)
            if connections := mesh.connections():
                raise Failure(f"legs by TCP though UDP passes: {connections}")
            relay = mesh.status(mesh.c)["relay"]
            if relay["guests"] != 2 or relay["bytes"] < SIZE:
                raise Failure(f"the relay says {relay}")
            words = mesh.c.output(BIN / "martlet", "status")
            if "Relay: for this token on port 27185, at most 100 Mbit/s: 2 guests" not in words:
                raise Failure(words)
            return (f"after {taken:.1f} s; 20 MB at {SIZE * 8 / seconds / 1e6:.0f} Mb/s; "
                    "a stream from before the relay is whole")

        def relay_dies_and_returns():
            download = mesh.fetch_from(9002)
            time.sleep(2)
            if mesh.tiers() != [PRIVATE, PRIVATE]:
                raise Failure(f"began on {mesh.tiers()}")
            mesh.agents["c"].kill()
            left = mesh.wait_tiers(SERVER, 8)
            time.sleep(2)
            mesh.start_relay("100")
            back = mesh.wait_tiers(PRIVATE, 20)
            if not download.alive():
                raise Failure(f"the download was over too early: {download.error}")
            download.finish(slow, within=60)
            return (f"on the server's relay after {left:.1f} s, back {back:.1f} s after the "
                    f"relay listens, longest stall {download.longest:.1f} s, whole")

        def by_tcp_where_udp_is_blocked():
            """One end's network drops datagrams to the relay."""
            mesh.agents["c"].kill()
            mesh.wait_tiers(SERVER, 8)
            mesh.a.run("nft", "table inet shut {\n chain out { type filter hook output priority 0;\n"
                       f"  udp dport {PORT} drop; }}\n}}")
            mesh.fetch_from(9004)
            mesh.start_relay("100")
            taken = mesh.wait_tiers(PRIVATE, 20)
            connections = mesh.connections()
            mesh.a.run("nft", "delete table inet shut")
            if len(connections) != 1 or mesh.a.address not in connections[0]:
                raise Failure(f"legs by TCP: {connections}")
            return f"after {taken:.1f} s, the other end by UDP"

        def a_tunnel_without_relays():
            """`--relay never`: it waits for a direct road and says so."""
            mesh.ztm(mesh.b, "tunnel", "open", "outbound", "tcp/shy", "--targets", "127.0.0.1:8004")
            mesh.ztm(mesh.a, "tunnel", "open", "inbound", "tcp/shy", "--listen", "127.0.0.1:9200",
                     "--exits", "nodeB", "--relay", "never", "--policy", "latency")
            sock = mesh.a.connect(9200, timeout=25)
            time.sleep(1)
            why = mesh.a.output(BIN / "martlet", "why", "nodeB")
            if "policy here: never (tunnel tcp/shy)" not in why or "that wait for a road" not in why:
                raise Failure(why)
            started = time.monotonic()
            try:
                got = sock.recv(1)
            except ConnectionResetError:
                got = b""
            if got:
                raise Failure("bytes came through a relay")
            ended = time.monotonic() - started
            log = mesh.ztm(mesh.a, "log", "app", "tunnel").stdout.decode()
            if "policy lets it take" not in log:
                raise Failure(log)
            refused = mesh.a.run(
                BIN / "ztm", "tunnel", "open", "inbound", "tcp/bold", "--listen", "127.0.0.1:9201",
                "--exits", "nodeB", "--relay", "only", check=False)
            if refused.returncode == 0 or b"contradicts" not in refused.stderr:
                raise Failure(f"two that contradict each other: {refused}")
            mesh.ztm(mesh.a, "tunnel", "close", "inbound", "tcp/shy")
            return f"refused after {ended:.0f} s, nothing sent"

        def strangers_get_nothing():
            """A join that nobody sealed for this relay, garbage, and the wrong token."""
            sealed = os.urandom(266)
            body = b"\x01" + bytes(16) + sealed
            for bytes_sent, answer in (
                    (struct.pack(">IBH", 0, 1, len(body)) + body, 0x83), (os.urandom(400), None)):
                sock = mesh.a.socket()
                sock.settimeout(8)
                sock.connect((mesh.c.address, PORT))
                sock.sendall(bytes_sent)
                got = b""
                try:
                    while chunk := sock.recv(4096):
                        got += chunk
                except ConnectionResetError:
                    pass
                except socket.timeout:
                    raise Failure("a stranger's connection stays open") from None
                if answer and (len(got) != 7 + 26 or got[7] != answer):
                    raise Failure(f"answered {got.hex()}")
                if not answer and got:
                    raise Failure(f"garbage was answered {got.hex()}")
            other = mesh.a.spawn(
                BIN / "inp2pc", "-serverhost", mesh.server_host.address, "-node", "evil",
                "-token", "999", "-config", "evil.json", "-data", mesh.a.directory / "evil",
                "-listen", "127.0.0.1:7799", log="evil.log")
            wait_for("the wrong token is refused", lambda: "refused" in other.text())
            other.terminate()
            return "refused and closed; one with another token never hears of the relay"

        def cap_holds():
            mesh.agents["c"].kill()
            mesh.wait_tiers(SERVER, 8)
            mesh.start_relay(str(CAP))
            # Keeps the pair busy meanwhile; next to nothing.
            mesh.fetch_from(9004)
            mesh.wait_tiers(PRIVATE, 20)
            download = mesh.fetch_from(9003)
            time.sleep(2)
            began, count = time.monotonic(), download.count
            time.sleep(SPAN)
            rate = (download.count - count) * 8 / (time.monotonic() - began) / 1e6
            tiers = mesh.tiers()
            if not download.alive() or tiers != [PRIVATE, PRIVATE]:
                raise Failure(f"over, or on {tiers}")
            if abs(rate / CAP - 1) > TOLERANCE:
                raise Failure(f"{rate:.2f} Mb/s with -bw {CAP}")
            return f"{rate:.2f} Mb/s with -bw {CAP}"

        def an_app_demands_it():
            """`forceRelay` and `relayNode`: away from a direct path, and back."""
            mesh.a.heal()
            mesh.b.heal()
            mesh.fetch_from(9004)
            mesh.wait_tiers("udp-direct", 60)
            file = mesh.a.directory / "config.json"
            config = json.loads(file.read_text())
            config["apps"] = [{
                "appName": "forced", "protocol": "tcp", "srcPort": 9100, "peerNode": "nodeB",
                "dstHost": "127.0.0.1", "dstPort": 8004, "forceRelay": True,
                "relayNode": "nodeC"}]
            file.write_text(json.dumps(config))
            there = mesh.wait_tiers(PRIVATE, 30)
            time.sleep(5)
            if mesh.tiers() != [PRIVATE, PRIVATE]:
                raise Failure(f"went to {mesh.tiers()}")
            config["apps"] = []
            file.write_text(json.dumps(config))
            back = mesh.wait_tiers("udp-direct", 60)
            return f"on it after {there:.1f} s, direct again after {back:.1f} s"

        def a_taken_port_is_said():
            other = mesh.c.spawn(
                BIN / "inp2pc", "-serverhost", mesh.server_host.address, "-node", "nodeD", "-token",
                "12345678", "-config", "d.json", "-data", mesh.c.directory / "d", "-listen",
                "127.0.0.1:7788", "-relay", "-relay-port", PORT, log="d.log")
            wait_for("the error", lambda: f"-relay-port {PORT}" in other.text())
            if other.popen.wait(5) != 1:
                raise Failure(f"exit status {other.popen.returncode}")
            other = mesh.c.spawn(
                BIN / "inp2pc", "-serverhost", mesh.server_host.address, "-node", "nodeD", "-token",
                "12345678", "-config", "e.json", "-data", mesh.c.directory / "d", "-listen",
                "127.0.0.1:7788", "-super", log="e.log")
            wait_for("the next port", lambda: f"listening on {PORT + 1}" in other.text())
            wait_for("for all tokens", lambda: "for all tokens" in other.text())
            other.terminate()

        report.step("20 MB through a node's relay", through_the_relay)
        report.step("the relay dies under a download, and returns", relay_dies_and_returns)
        report.step("UDP blocked at one end: its leg is by TCP", by_tcp_where_udp_is_blocked)
        report.step("a tunnel that goes through no relay", a_tunnel_without_relays)
        report.step("strangers get nothing from a relay", strangers_get_nothing)
        report.step("-bw holds", cap_holds)
        report.step("an app demands the relay", an_app_demands_it)
        report.step("-relay-port taken: an error; 27185 taken: the next", a_taken_port_is_said)
    report.finish()


if __name__ == "__main__":
    main()
