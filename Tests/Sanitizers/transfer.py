"""A server, two agents and 100 MB under a sanitizer (scripts/sanitize runs it).

  transfer.py REPORTS

The programs in MARTLET_BIN are built with a sanitizer that writes its reports to
REPORTS.*; this must find none. Beside the 100 MB over the direct path it takes
the roads where memory changes hands: the path dies in the middle of a download,
agents and server restart, streams are reset, everything ends by SIGTERM.
"""

import glob
import os
import pathlib
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "Scenarios"))

from harness import (BIN, Download, Failure, Lab, Report, Source, echo, enter_namespaces,  # noqa: E402
                     read_all, read_exactly, require_lab, reset, wait_for)
from mesh import Mesh  # noqa: E402

ECHO, SOURCE, SLOW = 8001, 8002, 8003
SIZE = 100_000_000
SLOW_SIZE, SLOW_RATE = 20_000_000, 4_000_000
CONNECTIONS = 200
ENDING = 30  # seconds; a sanitizer looks through the memory when its program ends


class Transfer:
    def __init__(self, lab):
        self.mesh = Mesh(lab)
        self.near, self.far = self.mesh.a, self.mesh.b
        self.far.serve(ECHO, echo)
        self.source = Source(self.far, SOURCE, SIZE)
        self.slow = Source(self.far, SLOW, SLOW_SIZE, SLOW_RATE)
        for port in (ECHO, SOURCE, SLOW):
            self.mesh.tunnel(f"tcp/t{port}", f"127.0.0.1:{port}", f"127.0.0.1:{port}")
        self.near.run(BIN / "martlet", "ping", "-count", "3", "nodeB")
        self.direct()

    def direct(self, within=40):
        self.mesh.wait_tier(self.near, "nodeB", "udp-direct", within)

    def hundred_megabytes(self):
        took = Download(self.near.connect(SOURCE, timeout=60)).finish(self.source, 300)
        return f"{SIZE / took / 1e6:.0f} MB/s"

    def cut(self):
        """The download goes on through the relay, then directly again."""
        download = Download(self.near.connect(SLOW, timeout=60))
        wait_for("the first bytes", lambda: download.count > 0)
        self.near.cut(self.far.address)
        wait_for("the relay", lambda: self.mesh.peer(self.near, "nodeB")["tier"] != "udp-direct", 30)
        self.near.heal()
        download.finish(self.slow, 120)
        self.direct()

    def short_connections(self):
        for number in range(CONNECTIONS):
            sock = self.near.connect(ECHO, timeout=30)
            sock.sendall(b"hello")
            if number % 4 == 0:
                reset(sock)
                continue
            with sock:
                if read_exactly(sock, 5) != b"hello":
                    raise Failure("the echo differs")
                sock.shutdown(1)
                if number % 4 == 1 and read_all(sock):
                    raise Failure("more came than was sent")
        return f"{CONNECTIONS}, a quarter of them reset"

    def questions(self):
        """What users ask, each answered by a program under the sanitizer."""
        for words in (("status",), ("why", "nodeB"), ("why", "nodeB", "-json"), ("netcheck",)):
            self.near.run(BIN / "martlet", *words)
        for words in (("get", "ep"), ("get", "mesh"), ("tunnel", "get", "tunnel"), ("config",), ("version",)):
            self.mesh.ztm(self.near, *words)

    def restarts(self):
        """Every process ends in order and returns; an echo goes through again."""
        self.ends(self.mesh.agents["b"])
        self.mesh.start_agent(self.far)
        self.ends(self.mesh.server)
        self.mesh.server = self.mesh.start_server()
        self.mesh.wait_online(2, 40)
        wait_for("an echo", self.echoed, 40)
        self.direct()

    def echoed(self):
        with self.near.connect(ECHO, timeout=5) as sock:
            sock.sendall(b"hello")
            return read_exactly(sock, 5) == b"hello"

    def ends(self, process):
        status = process.terminate(ENDING)
        if status != 0:
            raise Failure(f"{process.arguments} ended with {status}: {process.text()[-2000:]}")

    def all_end(self):
        for process in (*self.mesh.agents.values(), self.mesh.server):
            self.ends(process)


def no_reports(prefix):
    found = sorted(glob.glob(glob.escape(prefix) + ".*"))
    for file in found:
        print(pathlib.Path(file).read_text(errors="replace")[:6000], file=sys.stderr)
    if found:
        raise Failure(f"{len(found)} reports: {' '.join(map(os.path.basename, found))}")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    enter_namespaces()
    report = Report()
    require_lab(report, "100 MB under a sanitizer")
    with Lab("sanitized") as lab:
        state = {}
        if report.step("server and two agents", lambda: state.update(it=Transfer(lab))):
            it = state["it"]
            report.step("100 MB over the direct path, SHA-256 equal", it.hundred_megabytes)
            report.step("a download survives its path and comes back to it", it.cut)
            report.step("short connections", it.short_connections)
            report.step("questions of users", it.questions)
            report.step("agent and server end and return", it.restarts)
            report.step("everything ends in order", it.all_end)
    report.step("no report of the sanitizer", lambda: no_reports(sys.argv[1]))
    report.finish()


main()
