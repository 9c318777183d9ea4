"""Homes of `martlet lab up` with a server and an agent in each of two hosts, for
scenarios that change something while the programs run. No scenario by itself.
"""

import atexit
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import threading
import time

from harness import BIN, Failure, Host, Lab, wait_for

TOKEN = "18446744073709551557"
SERVER = "198.19.0.10"


def martlet(*words, timeout=60):
    result = subprocess.run(
        [str(BIN / "martlet"), "lab", *words], stdin=subprocess.DEVNULL, capture_output=True,
        timeout=timeout, text=True, cwd=BIN.parent)
    if result.returncode != 0:
        raise Failure(f"lab {' '.join(words)}: {result.stdout}{result.stderr}")
    return result.stdout


class Homes(Lab):
    """A standing lab of the product; its machines are hosts of the harness."""

    def __init__(self, text, title="homes"):
        """`text`: a scenario file."""
        self.processes, self.made, self.hosts = [], [], {}
        Lab.count += 1
        self.name = f"sh{os.getpid()}x{Lab.count}"
        self.prefix = self.name + "-"
        self.namespaces = True
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix=f"martlet-{title}-"))
        self.file = self.directory / "homes.lab"
        self.file.write_text(text)
        # As an ordinary user we are root of namespaces of our own: the lab's
        # records must not go where real root's are.
        # And beside our directory, which is removed before the lab is taken down.
        if "MARTLET_LAB_STATE" not in os.environ:
            os.environ["MARTLET_LAB_STATE"] = tempfile.mkdtemp(prefix="martlet-labs-")
            atexit.register(shutil.rmtree, os.environ["MARTLET_LAB_STATE"], ignore_errors=True)
        martlet("up", str(self.file), "--prefix", self.name)

    def machine(self, name, address=""):
        if name not in self.hosts:
            self.hosts[name] = Host(self, name, address)
        return self.hosts[name]

    def start(self, *names):
        """The server, and an agent on each host; waits until all see each other."""
        server = self.machine("server", SERVER)
        self.server = server.spawn(
            BIN / "inp2ps", "-token", TOKEN, "-data", "state", "-stun-alt-ip", "198.19.0.11",
            "-log-level", "debug")
        wait_for("the server", lambda: "27183" in server.output("ss", "-ltnH"))
        self.agents = {name: self.agent(name) for name in names}
        for name in names:
            for other in names:
                if name != other:
                    wait_for(f"{name} sees {other}", lambda: self.peer(name, other)["online"])

    def agent(self, name):
        return self.machine(name).spawn(
            BIN / "inp2pc", "-serverhost", SERVER, "-node", name, "-token", TOKEN, "-config",
            "config.json", "-log-level", "debug")

    def api(self, name, path):
        sock = self.machine(name).connect(7777, timeout=5)
        with sock:
            sock.sendall(f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1:7777\r\n\r\n".encode())
            data = b""
            while chunk := sock.recv(65536):
                data += chunk
        return json.loads(data.partition(b"\r\n\r\n")[2])

    def peer(self, name, other):
        for peer in self.api(name, "/api/peers"):
            if peer["name"] == other:
                return peer
        raise Failure(f"{name} has not heard of {other}")

    def tiers(self, a, b):
        return [self.peer(a, b)["tier"] or "none", self.peer(b, a)["tier"] or "none"]

    def why(self, name, other):
        return self.machine(name).json(BIN / "martlet", "why", other, "--json")

    def tunnel(self, a, b, port=9000, target=8000):
        """From `port` of a to `target` of b."""
        self.machine(b).run(BIN / "ztm", "tunnel", "open", "outbound", "tcp/t", "--targets",
                            f"127.0.0.1:{target}")
        self.machine(a).run(BIN / "ztm", "tunnel", "open", "inbound", "tcp/t", "--listen",
                            f"127.0.0.1:{port}", "--exits", b)

    def wait_direct(self, a, b, within):
        return wait_for(
            f"{a} and {b} on a direct path",
            lambda: all(t.startswith("udp-") for t in self.tiers(a, b)) and self.tiers(a, b),
            within)

    def rules(self, text, namespace):
        """The nftables script that a scenario gives a machine."""
        file = self.directory / "other.lab"
        file.write_text(text)
        shown = martlet("show", str(file), "--prefix", self.name)
        found = re.search(
            rf"ip netns exec {self.prefix}{namespace} nft -f - <<'END'\n(.*?)\nEND\n", shown, re.S)
        return found[1] + "\n" if found else ""

    def __exit__(self, kind, value, trace):
        try:
            # Ends the programs and shows their logs; the lab itself is next.
            super().__exit__(kind, value, trace)
        finally:
            martlet("down", "--prefix", self.name)


def talk(lab, host, port=9000):
    """A connection through the tunnel that stays, and says something at times:
    a pair that nobody uses is let go."""
    sock = lab.machine(host).connect(port, timeout=20)
    sock.sendall(b"hello\n")
    if not sock.recv(64):
        raise Failure("the tunnel closed at once")

    def run():
        try:
            while True:
                time.sleep(0.2)
                sock.sendall(b"hello\n")
                if not sock.recv(64):
                    return
        except OSError:
            pass

    threading.Thread(target=run, daemon=True).start()
    return sock
