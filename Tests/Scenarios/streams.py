"""Streams of every temper through one session: targets that refuse, hang, reset
or half-close, ends that do not read, a thousand at once, beside a fast one.
"""

import hashlib
import os
import random
import socket
import threading
import time

from harness import (BIN, Download, Failure, Lab, Report, Source, echo, enter_namespaces,
                     read_all, read_exactly, require_lab, reset, wait_for)
from mesh import Mesh

ECHO, REFUSED, HANGING, RESETTING, FIRST, SOURCE, DEAF, HALF, RECORD = range(8001, 8010)
THOUSAND = 1000
# What one session may hold at one end (MuxLimits.memory), in bytes.
SESSION_MEMORY = 192 << 20


class Streams:
    def __init__(self, lab):
        self.mesh = Mesh(lab)
        self.near, self.far = self.mesh.a, self.mesh.b
        self.open_sockets = []
        for port in range(ECHO, RECORD + 1):
            self.mesh.tunnel(f"tcp/t{port}", f"127.0.0.1:{port}", f"127.0.0.1:{port}")
        self.far.serve(ECHO, echo)
        self.far.run("nft", "table inet hang { chain in { type filter hook input priority 0; "
                     f"tcp dport {HANGING} drop; }}; }}")
        self.near.run(BIN / "martlet", "ping", "-count", "1", "nodeB")
        self.mesh.wait_tier(self.near, "nodeB", "udp-direct")

    def connect(self, port, **keywords):
        return self.near.connect(port, **keywords)

    def rss(self):
        return max(self.memory(host) for host in (self.near, self.far))

    def memory(self, host):
        """Resident bytes of its agent."""
        for line in open(f"/proc/{self.mesh.agents[host.name].pid}/status"):
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024
        raise Failure("no VmRSS")

    def descriptors(self, host):
        return len(os.listdir(f"/proc/{self.mesh.agents[host.name].pid}/fd"))

    def streams(self):
        return self.mesh.peer(self.near, "nodeB")["streams"]

    # Targets

    def refused(self):
        sock = self.connect(REFUSED, timeout=5)
        started = time.monotonic()
        self.must_be_reset(sock)
        return f"after {1000 * (time.monotonic() - started):.0f} ms"

    def must_be_reset(self, sock):
        try:
            data = sock.recv(1000)
        except ConnectionResetError:
            return
        finally:
            sock.close()
        raise Failure(f"not a reset: {data!r}")

    def hanging(self):
        """The dial is given up; another stream is served meanwhile."""
        hanging = self.connect(HANGING, timeout=25)
        started = time.monotonic()
        self.echoed(os.urandom(1000))
        self.must_be_reset(hanging)
        return f"given up after {time.monotonic() - started:.1f} s"

    def left(self):
        """The caller goes while the target is being dialled."""
        before = self.descriptors(self.far)
        hanging = [self.connect(HANGING) for _ in range(20)]
        time.sleep(0.3)
        for sock in hanging:
            reset(sock)
        wait_for("the exit stops dialling", lambda: self.descriptors(self.far) <= before, 3)

    def echoed(self, data, sock=None):
        sock = sock or self.connect(ECHO)
        sender = threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(1)))
        sender.start()
        if read_all(sock, len(data) + 1) != data:
            raise Failure("the echo differs")
        sender.join()
        sock.close()

    def resetting(self):
        """The target's reset arrives as a reset, the caller's as one there."""
        seen = []

        def target(sock):
            word = read_exactly(sock, 4)
            if word == b"die!":
                reset(sock)
                return
            sock.sendall(b"well")
            try:
                sock.recv(1)
                seen.append("end")
            except ConnectionResetError:
                seen.append("reset")

        self.far.serve(RESETTING, target)
        sock = self.connect(RESETTING)
        sock.sendall(b"die!")
        self.must_be_reset(sock)
        sock = self.connect(RESETTING)
        sock.sendall(b"live")
        read_exactly(sock, 4)
        reset(sock)
        wait_for("the caller's reset at the target", lambda: seen, 5)
        if seen != ["reset"]:
            raise Failure(f"the target saw {seen}")

    def speaks_first(self):
        self.far.serve(FIRST, lambda sock: sock.sendall(b"220 ready\r\n"))
        sock = self.connect(FIRST)
        if read_all(sock) != b"220 ready\r\n":
            raise Failure("the greeting differs")
        sock.close()

    def caller_closes_half(self):
        data = random.Random(7).randbytes(3_000_000)
        self.echoed(data)
        sock = self.connect(ECHO)
        sock.shutdown(socket.SHUT_WR)
        if read_all(sock) != b"":
            raise Failure("bytes out of nothing")
        sock.close()

    def target_closes_half(self):
        got = []

        def target(sock):
            sock.sendall(b"last words")
            sock.shutdown(socket.SHUT_WR)
            got.append(read_all(sock))

        self.far.serve(HALF, target)
        sock = self.connect(HALF)
        if read_all(sock) != b"last words":
            raise Failure("the target's words differ")
        data = random.Random(8).randbytes(1_000_000)
        time.sleep(0.2)
        sock.sendall(data)
        sock.close()
        wait_for("what came after the half-close", lambda: got, 10)
        if got[0] != data:
            raise Failure(f"{len(got[0])} of {len(data)} bytes came after the half-close")

    def upload(self):
        digests = []

        def target(sock):
            digest = hashlib.sha256()
            while chunk := sock.recv(65536):
                digest.update(chunk)
            digests.append(digest.hexdigest())
            sock.sendall(b"thanks")

        listener = self.far.serve(RECORD, target)
        data = random.Random(9).randbytes(16_000_000)
        sock = self.connect(RECORD)
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        if read_all(sock) != b"thanks" or digests != [hashlib.sha256(data).hexdigest()]:
            raise Failure("the upload differs")
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()

    # Together

    def slow_beside_fast(self):
        """One that hardly reads takes nothing from the others and no memory."""
        self.source = Source(self.far, SOURCE, 48_000_000)
        alone = Download(self.connect(SOURCE)).finish(self.source)
        before = self.rss()
        slow = [Download(self.connect(SOURCE, timeout=60), rate=100_000) for _ in range(4)]
        self.far.serve(DEAF, lambda sock: time.sleep(60))
        deaf = self.connect(DEAF)
        try:
            return self.measure_beside(alone, before, slow, deaf)
        finally:
            for one in slow:
                reset(one.sock)
            reset(deaf)

    def measure_beside(self, alone, before, slow, deaf):
        deaf.setblocking(False)
        taken = 0
        quiet = time.monotonic()
        while time.monotonic() - quiet < 1:
            try:
                taken += deaf.send(bytes(65536))
                quiet = time.monotonic()
            except BlockingIOError:
                time.sleep(0.02)
            if taken > 64 << 20:
                raise Failure("a target that does not read takes 64 MB")
        beside = Download(self.connect(SOURCE)).finish(self.source)
        grown = self.rss() - before
        if any(not one.alive() for one in slow):
            raise Failure("a slow reader ended early")
        if beside > 2.5 * alone + 1:
            raise Failure(f"{alone:.2f} s alone, {beside:.2f} s beside slow readers")
        if grown > SESSION_MEMORY:
            raise Failure(f"{grown >> 20} MB more memory")
        return (f"{alone:.2f} s alone, {beside:.2f} s beside 4 slow readers, "
                f"{max(0, grown) >> 20} MB more memory")

    def thousand(self):
        wait_for("earlier streams have ended", lambda: self.streams() == 0, 10)
        before = [self.descriptors(host) for host in (self.near, self.far)]
        sockets = [self.connect(ECHO, timeout=20) for _ in range(THOUSAND)]
        for number, sock in enumerate(sockets):
            sock.sendall(number.to_bytes(4, "big") * 64)
        for number, sock in enumerate(sockets):
            if read_exactly(sock, 256) != number.to_bytes(4, "big") * 64:
                raise Failure(f"stream {number} got another's bytes")
        count = self.streams()
        if count != THOUSAND:
            raise Failure(f"{count} streams counted")
        download = Download(self.connect(SOURCE)).finish(self.source)
        memory = self.rss()
        for sock in reversed(sockets):
            sock.shutdown(socket.SHUT_WR)
        for sock in sockets:
            if read_all(sock) != b"":
                raise Failure("bytes after the end")
            sock.close()
        wait_for("all of them have ended", lambda: self.streams() == 0, 10)
        wait_for("their sockets are closed", lambda: all(
            self.descriptors(host) <= number + 2
            for host, number in zip((self.near, self.far), before)), 5)
        return f"a download beside them took {download:.2f} s; {memory >> 20} MB resident"

    def relayed(self):
        self.far.cut(self.near.address)
        self.mesh.wait_tier(self.near, "nodeB", "server-relay", 8)
        self.caller_closes_half()
        self.upload()
        taken = Download(self.connect(SOURCE)).finish(self.source)
        self.far.heal()
        return f"{self.source.size * 8 / taken / 1e6:.0f} Mb/s"

    def well(self):
        for process in [self.mesh.server, *self.mesh.agents.values()]:
            if not process.alive():
                raise Failure(f"{process.arguments} ended: {process.text()[-2000:]}")
            if len(process.text()) > 4 << 20:
                raise Failure("a flood of log lines")


def main():
    enter_namespaces()
    report = Report()
    require_lab(report, "streams")
    with Lab("streams") as lab:
        streams = Streams(lab)
        for name, step in (
                ("a target that refuses", streams.refused),
                ("a target that hangs", streams.hanging),
                ("a caller that leaves while its target hangs", streams.left),
                ("resets arrive as resets, both ways", streams.resetting),
                ("a target that speaks first", streams.speaks_first),
                ("the caller closes its half", streams.caller_closes_half),
                ("the target closes its half", streams.target_closes_half),
                ("16 MB upwards", streams.upload),
                ("slow readers and a deaf target beside a fast stream", streams.slow_beside_fast),
                (f"{THOUSAND} open streams", streams.thousand),
                ("the same through the server relay", streams.relayed),
                ("server and agents are well", streams.well)):
            report.step(f"streams: {name}", step)
        if report.failed:
            lab.show_logs()
    report.finish()


if __name__ == "__main__":
    main()
