"""A server and agents on machines of a lab, and a tunnel between two of them."""

import hashlib
import os
import time

from harness import BIN, Failure, wait_for

TOKEN = "12345678"


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Mesh:
    """Server on `s`, agents on `a` and `b`; everything by the documented commands."""

    def __init__(self, lab, insecure=False, options=()):
        self.lab, self.insecure, self.options = lab, insecure, list(options)
        self.server_host, self.a, self.b = lab.host("s"), lab.host("a"), lab.host("b")
        self.agents = {}
        self.server = self.start_server()
        for host in (self.a, self.b):
            self.start_agent(host)
        self.wait_online(2)

    def start_server(self, *extra):
        host = self.server_host
        process = host.spawn(
            BIN / "inp2ps", "-token", TOKEN, "-data", host.directory / "state", "-log-level",
            "debug", *extra)
        wait_for("server", lambda: self.health() is not None)
        return process

    def start_agent(self, host, *extra, env=None, wrap=()):
        name = "node" + host.name.upper()
        flags = ["-serverhost", self.server_host.address, "-node", name, "-token", TOKEN]
        if self.insecure:
            flags.append("-insecure")
        process = host.spawn(
            *wrap, BIN / "inp2pc", *flags, "-config", "config.json", "-log-level", "debug",
            *self.options, *extra, log="inp2pc.log", env=env)
        self.agents[host.name] = process
        return process

    def health(self):
        import json
        text = self.server_host.output(
            "curl", "-s", "-m", "2", "http://127.0.0.1:27183/api/v1/health")
        return json.loads(text)

    def wait_online(self, count, within=12):
        return wait_for(f"{count} nodes online", lambda: self.health()["nodes"] == count, within)

    def status(self, host):
        return host.json(BIN / "martlet", "status", "-json")

    def peer(self, host, name):
        return next(p for p in self.status(host)["peers"] if p["name"] == name)

    def wait_tier(self, host, name, tier, within=12):
        wait_for(f"{host.name}: {name} by {tier}",
                 lambda: self.peer(host, name)["tier"] == tier, within, every=0.1)

    def ztm(self, host, *words, **keywords):
        return host.run(BIN / "ztm", *words, **keywords)

    def tunnel(self, name, target, listen):
        self.ztm(self.b, "tunnel", "open", "outbound", name, "--targets", target)
        self.ztm(self.a, "tunnel", "open", "inbound", name, "--listen", listen)
        time.sleep(0.2)

    def web(self, size):
        """A web server on `b` with one file; returns the file."""
        directory = self.b.directory / "www"
        directory.mkdir(exist_ok=True)
        file = directory / "file"
        with open(file, "wb") as out:
            left = size
            while left > 0:
                out.write(os.urandom(min(left, 1 << 20)))
                left -= 1 << 20
        self.b.spawn("python3", "-m", "http.server", "8000", "--bind", "127.0.0.1", "-d", directory)
        wait_for("web server", lambda: self.b.run(
            "curl", "-s", "-m", "1", "-o", "/dev/null", "http://127.0.0.1:8000/").returncode == 0)
        return file

    def download(self, name, *options):
        """Starts curl on `a` through the tunnel at port 9000."""
        target = self.a.directory / name
        process = self.a.spawn(
            "curl", "-s", "-m", "60", *options, "-o", target, "http://127.0.0.1:9000/file",
            log=name + ".curl")
        return process, target

    def fetch(self, name, source, *options):
        process, target = self.download(name, *options)
        status = process.popen.wait(70)
        if status != 0:
            raise Failure(f"curl ended with {status}")
        if sha(target) != sha(source):
            raise Failure("the bytes differ")
