"""Processes that end, stop and return, roads that close one way, a machine that
moves: open streams go on or end with a reset, and nobody has to help.
"""

import socket
import time

from harness import (BIN, Download, Failure, Lab, Report, Source, echo, enter_namespaces,
                     read_exactly, require_lab, wait_for)
from mesh import Mesh

ECHO, SOURCE = 8001, 8002
SIZE, RATE = 24_000_000, 6_000_000  # four seconds


class Restarts:
    def __init__(self, lab):
        self.mesh = Mesh(lab)
        self.near, self.far = self.mesh.a, self.mesh.b
        self.far.serve(ECHO, echo)
        self.source = Source(self.far, SOURCE, SIZE, RATE)
        for port in (ECHO, SOURCE):
            self.mesh.tunnel(f"tcp/t{port}", f"127.0.0.1:{port}", f"127.0.0.1:{port}")
        self.works()
        self.direct()

    def direct(self, within=15):
        self.mesh.wait_tier(self.near, "nodeB", "udp-direct", within)

    def works(self, within=10):
        """A new connection gets its echo; how long until one did."""
        started = time.monotonic()

        def try_once():
            with self.near.connect(ECHO, timeout=5) as sock:
                sock.sendall(b"hello")
                return read_exactly(sock, 5) == b"hello"

        wait_for("an echo through the tunnel", try_once, within)
        return time.monotonic() - started

    def talk(self, sock, word):
        sock.sendall(word)
        if read_exactly(sock, len(word)) != word:
            raise Failure("the echo differs")

    def step(self, action):
        """What an earlier step left behind must not fail this one."""
        for host in (self.near, self.far):
            host.run("nft", "delete table inet cut", check=False)
            if not self.mesh.agents[host.name].alive():
                self.mesh.start_agent(host)
        if not self.mesh.server.alive():
            self.mesh.server = self.mesh.start_server()
        self.works()
        self.direct(35)
        return action(self)

    # The server

    def without_server(self):
        """Sessions need no server: streams, new streams, and a road that closes and opens."""
        download = Download(self.near.connect(SOURCE, timeout=60))
        self.mesh.server.kill()
        self.works(5)
        time.sleep(1)
        self.far.cut(self.near.address)
        sock = self.near.connect(ECHO, timeout=40)
        time.sleep(2)
        self.far.heal()
        healed = time.monotonic()
        download.finish(self.source, 60)
        self.works(15)
        back = time.monotonic() - healed
        sock.close()
        self.mesh.server = self.mesh.start_server()
        started = time.monotonic()
        self.mesh.wait_online(2, within=10)
        return f"all back {time.monotonic() - started:.1f} s after the server, streams after {back:.1f}"

    def relay_leg_cut(self):
        """The server dies under a relayed download, and it goes on when it is back."""
        self.direct()
        self.far.cut(self.near.address)
        self.mesh.wait_tier(self.near, "nodeB", "server-relay", 10)
        download = Download(self.near.connect(SOURCE, timeout=90))
        time.sleep(1)
        self.mesh.server.kill()
        time.sleep(1)
        if not download.alive():
            raise Failure("the stream did not wait")
        self.mesh.server = self.mesh.start_server()
        download.finish(self.source, 60)
        self.far.heal()
        self.direct(30)
        return f"the longest pause was {download.longest:.1f} s"

    # Agents

    def far_away_for_a_while(self):
        """kill -9: streams wait until the new process is heard, then they are reset."""
        sock = self.near.connect(ECHO, timeout=40)
        self.talk(sock, b"before")
        download = Download(self.near.connect(SOURCE, timeout=60))
        time.sleep(0.5)
        self.mesh.agents["b"].kill()
        sock.sendall(b"into the void")
        sock.settimeout(2.5)
        try:
            raise Failure(f"the stream did not wait: {sock.recv(100)!r}")
        except TimeoutError:
            pass
        sock.settimeout(20)
        started = time.monotonic()
        self.mesh.start_agent(self.far)
        try:
            raise Failure(f"bytes across incarnations: {sock.recv(100)!r}")
        except ConnectionResetError:
            pass
        taken = time.monotonic() - started
        download.thread.join(10)
        if download.alive() or not isinstance(download.error, ConnectionResetError):
            raise Failure(f"the download was not reset: {download.error}")
        if taken > 6:
            raise Failure(f"the reset came only {taken:.1f} s after the agent")
        self.works()
        self.direct()
        return f"reset {taken:.1f} s after the agent's start"

    def near_dies(self):
        """The target's end of the stream is reset, too."""
        ended = []

        def target(sock):
            try:
                while sock.recv(1000):
                    pass
                ended.append("end")
            except OSError as error:
                ended.append(type(error).__name__)

        listener = self.far.serve(8003, target)
        self.mesh.tunnel("tcp/t8003", "127.0.0.1:8003", "127.0.0.1:8003")
        sock = self.near.connect(8003)
        sock.sendall(b"something")
        time.sleep(0.3)
        self.mesh.agents["a"].kill()
        self.mesh.start_agent(self.near)
        started = time.monotonic()
        wait_for("the target's reset", lambda: ended, 15)
        if ended != ["ConnectionResetError"]:
            raise Failure(f"the target saw {ended}")
        taken = time.monotonic() - started
        self.works()
        self.direct()
        listener.close()
        return f"after {taken:.1f} s"

    def both_die(self):
        for name in ("a", "b"):
            self.mesh.agents[name].kill()
        for host in (self.near, self.far):
            self.mesh.start_agent(host)
        taken = self.works(20)
        self.direct()
        return f"works after {taken:.1f} s"

    def asleep(self):
        """A machine that sleeps for a while has lost nothing when it wakes."""
        download = Download(self.near.connect(SOURCE, timeout=60))
        time.sleep(0.7)
        for name in ("b", "a"):
            self.mesh.agents[name].stop()
            time.sleep(4)
            self.mesh.agents[name].resume()
            time.sleep(0.5)
        download.finish(self.source, 40)
        self.works()
        self.direct(20)
        return f"the longest pause was {download.longest:.1f} s"

    def far_leaves(self):
        """SIGTERM: its streams end, a new one is refused at once, and it comes back."""
        sock = self.near.connect(ECHO, timeout=15)
        self.talk(sock, b"before")
        self.mesh.agents["b"].terminate()
        started = time.monotonic()

        def offline():
            return not self.mesh.peer(self.near, "nodeB")["online"]

        wait_for("the peer is known to be away", offline, 5)
        try:
            late = self.near.connect(ECHO, timeout=15)
            raise Failure(f"a stream to nobody: {late.recv(10)!r}")
        except ConnectionResetError:
            pass
        taken = time.monotonic() - started
        self.mesh.start_agent(self.far)
        self.works(15)
        self.direct()
        sock.close()
        if taken > 12:
            raise Failure(f"a new stream was refused only after {taken:.1f} s")
        return f"refused after {taken:.1f} s"

    # Roads

    def one_way(self):
        """Only one direction of the direct road closes."""
        download = Download(self.near.connect(SOURCE, timeout=60))
        time.sleep(0.7)
        self.near.run("nft", "table inet cut { chain out { type filter hook output priority 0; "
                      f"ip daddr {self.far.address} drop; }}; }}")
        cut = time.monotonic()
        self.mesh.wait_tier(self.near, "nodeB", "server-relay", 10)
        self.mesh.wait_tier(self.far, "nodeA", "server-relay", 10)
        left = time.monotonic() - cut
        download.finish(self.source, 40)
        self.near.heal()
        self.direct(30)
        return f"left after {left:.1f} s, the longest pause was {download.longest:.1f} s"

    def moved(self):
        """The near machine gets another address under a download."""
        download = Download(self.near.connect(SOURCE, timeout=60))
        time.sleep(0.7)
        old, new = self.near.address, "10.77.0.77"
        self.near.run("ip", "addr", "add", f"{new}/24", "dev", "eth0")
        self.near.run("ip", "addr", "del", f"{old}/24", "dev", "eth0")
        # Deleting the first address of a network takes its others with it.
        self.near.run("ip", "addr", "add", f"{new}/24", "dev", "eth0", check=False)
        self.near.address = new
        download.finish(self.source, 60)
        self.works()
        self.direct(20)
        address = self.mesh.peer(self.far, "nodeA")["address"]
        if new not in address:
            raise Failure(f"the far end still uses {address}")
        wait_for("the server knows it", lambda: self.mesh.health()["nodes"] == 2, 70)
        return f"the longest pause was {download.longest:.1f} s"


def main():
    enter_namespaces()
    report = Report()
    require_lab(report, "restarts")
    # A road that fails again and again is trusted later and later (flap damping),
    # so every story about roads has machines of its own.
    agents = (("the far agent is away for a while", Restarts.far_away_for_a_while),
              ("the near agent dies", Restarts.near_dies),
              ("both agents die", Restarts.both_die),
              ("the far agent leaves in order", Restarts.far_leaves))
    for stories in (
            agents,
            (("agents are stopped and go on", Restarts.asleep),),
            (("the direct road closes one way", Restarts.one_way),),
            (("sessions without a server", Restarts.without_server),),
            (("the server dies under a relayed download", Restarts.relay_leg_cut),),
            (("a machine gets another address", Restarts.moved),)):
        with Lab("restarts") as lab:
            restarts = Restarts(lab)
            well = [report.step(f"restarts: {name}", lambda: restarts.step(story))
                    for name, story in stories]
            if not all(well):
                lab.show_logs(40)
    report.finish()


if __name__ == "__main__":
    main()
