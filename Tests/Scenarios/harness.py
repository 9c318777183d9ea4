"""Machines as network namespaces, real programs in them, and a plain report.

Used by the scenarios beside this file and by scripts/demo. Runs as root (ip
netns) or as an ordinary user (inside `unshare -Urnm`, with a tmpfs on /run);
where the kernel refuses both, `Lab.available()` is False and callers say so.
Everything a lab made is taken down when it closes, also after ctrl-C: only
processes it started are ended, by their ids.
"""

import contextlib
import ctypes
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BIN = pathlib.Path(os.environ.get("MARTLET_BIN", ROOT / "bin"))


def enter_namespaces():
    """As an ordinary user: run this program again inside its own user, network
    and mount namespaces. Returns when already root there (or really root)."""
    if os.geteuid() == 0:
        if os.environ.get("MARTLET_LAB_INSIDE") == "1":
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
            os.environ["MARTLET_LAB_INSIDE"] = "2"
        return
    probe = subprocess.run(["unshare", "-Urnm", "true"], capture_output=True)
    if probe.returncode != 0:
        return
    os.environ["MARTLET_LAB_INSIDE"] = "1"
    os.execvp("unshare", ["unshare", "-Urnm", sys.executable, *sys.argv])


class Failure(Exception):
    """Something a scenario expected did not happen."""


class Process:
    def __init__(self, arguments, log, **keywords):
        self.arguments = [str(a) for a in arguments]
        self.log = pathlib.Path(log)
        # Several processes may write to one log, one after the other.
        self.begins = self.log.stat().st_size if self.log.exists() else 0
        self.popen = subprocess.Popen(
            self.arguments, stdin=subprocess.DEVNULL, stdout=open(log, "ab"),
            stderr=subprocess.STDOUT, start_new_session=True, **keywords)

    @property
    def pid(self):
        return self.popen.pid

    def alive(self):
        return self.popen.poll() is None

    def signal(self, number):
        """To the whole process group: a wrapper (faketime) and what it runs."""
        try:
            os.killpg(self.popen.pid, number)
        except ProcessLookupError:
            pass

    def kill(self):
        self.signal(signal.SIGKILL)
        self.popen.wait()

    def terminate(self, within=10):
        self.signal(signal.SIGTERM)
        deadline = time.monotonic() + within
        try:
            status = self.popen.wait(within)
            # A wrapper (faketime) may end before what it runs.
            while self.has_group():
                if time.monotonic() > deadline:
                    raise subprocess.TimeoutExpired(self.arguments, within)
                time.sleep(0.01)
            return status
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failure(f"{self.arguments[0]} did not end within {within} s of SIGTERM")

    def has_group(self):
        """Whether anything of it runs still; what nobody has reaped does not."""
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(group) == self.popen.pid and state not in "ZX":
                return True
        return False

    def stop(self):
        self.signal(signal.SIGSTOP)

    def resume(self):
        self.signal(signal.SIGCONT)

    def text(self):
        """What this process has said."""
        return self.log.read_bytes()[self.begins:].decode(errors="replace")


def inside(namespace, *command):
    """The words that run a command there; unlike `ip netns exec` and `ip -n` they
    work in a plain chroot too, whose / is no mount point."""
    return ["nsenter", f"--net=/run/netns/{namespace}", *command]


class Host:
    """One machine: a namespace, or the machine itself when the lab has none."""

    def __init__(self, lab, name, address):
        self.lab, self.name, self.address = lab, name, address
        self.namespace = f"{lab.prefix}{name}" if lab.namespaces else None
        self.directory = lab.directory / name
        self.directory.mkdir(exist_ok=True)

    def wrap(self, arguments):
        arguments = [str(a) for a in arguments]
        if self.namespace:
            return inside(self.namespace, *arguments)
        return arguments

    def environment(self, extra):
        environment = dict(os.environ, HOME=str(self.directory))
        for key in list(environment):
            if key.startswith(("INP2P_", "ZTM_")) or key.lower().endswith("_proxy"):
                del environment[key]
        if not self.namespace:
            # This machine's own router is no part of a test.
            environment["INP2P_NO_PORT_MAPPING"] = "true"
        environment.update(extra or {})
        return environment

    def spawn(self, *arguments, log=None, env=None, cwd=None, **keywords):
        log = self.directory / (log or pathlib.Path(str(arguments[0])).name + ".log")
        process = Process(
            self.wrap(arguments), log, cwd=cwd or self.directory, env=self.environment(env),
            **keywords)
        self.lab.processes.append(process)
        return process

    def capture(self, interface, name, port=None):
        """Records packets of this machine into NAME until it is terminated."""
        tool = pathlib.Path(__file__).resolve().parent / "capture.py"
        process = self.spawn(sys.executable, tool, interface, name, *([port] if port else []))
        file = self.directory / name
        # It writes the file's head when it listens.
        wait_for("the capture", lambda: file.exists() and file.stat().st_size >= 24, within=15)
        return process

    def run(self, *arguments, check=True, timeout=60, env=None, cwd=None, **keywords):
        result = subprocess.run(
            self.wrap(arguments), stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout,
            cwd=cwd or self.directory, env=self.environment(env), **keywords)
        if check and result.returncode != 0:
            raise Failure(
                f"{' '.join(str(a) for a in arguments)}: status {result.returncode}\n"
                + result.stdout.decode(errors="replace") + result.stderr.decode(errors="replace"))
        return result

    def output(self, *arguments, **keywords):
        return self.run(*arguments, **keywords).stdout.decode(errors="replace")

    def json(self, *arguments, **keywords):
        return json.loads(self.output(*arguments, **keywords))

    @contextlib.contextmanager
    def inside(self):
        """This thread in this machine's network: a socket made here stays there."""
        if not self.namespace:
            yield
            return
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as home, \
                open(f"/run/netns/{self.namespace}") as there:
            if libc.setns(there.fileno(), 0x40000000) != 0:
                raise Failure(f"setns {self.namespace}: {os.strerror(ctypes.get_errno())}")
            try:
                yield
            finally:
                libc.setns(home.fileno(), 0x40000000)

    def socket(self, kind=socket.SOCK_STREAM, family=socket.AF_INET, protocol=0):
        with self.inside():
            return socket.socket(family, kind, protocol)

    def connect(self, port, address="127.0.0.1", timeout=10):
        sock = self.socket()
        sock.settimeout(timeout)
        try:
            sock.connect((address, port))
        except OSError:
            sock.close()
            raise
        return sock

    def listen(self, port, address="127.0.0.1", backlog=1024):
        sock = self.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        sock.listen(backlog)
        return sock

    def serve(self, port, handle, address="127.0.0.1", backlog=1024):
        """A target: a thread per connection runs `handle(socket)`, then closes."""
        listener = self.listen(port, address, backlog)

        def one(sock):
            with sock:
                try:
                    handle(sock)
                except OSError:
                    pass

        def accept():
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=one, args=(sock,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return listener

    def cut(self, address):
        """Drops everything between this machine and `address`, both ways."""
        rules = (
            "table inet cut {\n"
            f" chain in {{ type filter hook input priority 0; ip saddr {address} drop; }}\n"
            f" chain out {{ type filter hook output priority 0; ip daddr {address} drop; }}\n"
            "}")
        self.run("nft", rules)

    def heal(self):
        self.run("nft", "delete table inet cut")


class Lab:
    """A switch and the machines on it: 10.77.0.0/24."""

    count = 0

    def __init__(self, title="lab"):
        Lab.count += 1
        self.prefix = f"mt{os.getpid() % 100000}{Lab.count}"
        self.namespaces = self.available()
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix=f"martlet-{title}-"))
        self.hosts, self.processes, self.made = {}, [], []
        if self.namespaces:
            self.make(self.prefix + "net")
            switch = inside(self.prefix + "net", "ip")
            self.ip(*switch, "link", "add", "br0", "type", "bridge")
            self.ip(*switch, "link", "set", "br0", "up")

    @staticmethod
    def available():
        name = f"mtprobe{os.getpid()}"
        if os.geteuid() != 0 or not shutil.which("ip"):
            return False
        if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode != 0:
            return False
        works = subprocess.run(inside(name, "true"), capture_output=True)
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
        return works.returncode == 0

    @staticmethod
    def ip(*arguments):
        result = subprocess.run(arguments, capture_output=True)
        if result.returncode != 0:
            raise Failure(f"{' '.join(arguments)}: {result.stderr.decode().strip()}")

    def make(self, name):
        self.ip("ip", "netns", "add", name)
        self.made.append(name)
        self.ip(*inside(name), "ip", "link", "set", "lo", "up")

    def host(self, name):
        number = len(self.hosts) + 2
        host = Host(self, name, f"10.77.0.{number}" if self.namespaces else "127.0.0.1")
        if self.namespaces:
            self.make(host.namespace)
            self.plug(host, "eth0", number)
        self.hosts[name] = host
        return host

    def plug(self, host, device, number):
        """One more interface of a machine at the switch; its address."""
        net, port = self.prefix + "net", f"p{number}"
        self.ip(*inside(net), "ip", "link", "add", port, "type", "veth", "peer", "name", device,
                "netns", host.namespace)
        self.ip(*inside(net), "ip", "link", "set", port, "master", "br0", "up")
        there = inside(host.namespace, "ip")
        self.ip(*there, "addr", "add", f"10.77.0.{number}/24", "dev", device)
        self.ip(*there, "link", "set", device, "up")
        return f"10.77.0.{number}"

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None and not issubclass(kind, KeyboardInterrupt):
            self.show_logs()
        for process in reversed(self.processes):
            process.signal(signal.SIGCONT)
            process.signal(signal.SIGTERM)
        deadline = time.monotonic() + 5
        for process in self.processes:
            try:
                process.popen.wait(max(0.05, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
        for name in reversed(self.made):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def show_logs(self, lines=25):
        for process in self.processes:
            text = process.text().splitlines()[-lines:]
            print(f"--- {' '.join(process.arguments)}", *text, sep="\n    ", file=sys.stderr)


def wait_for(what, condition, within=15, every=0.05):
    """Waits until `condition()` is true; returns what it returned."""
    deadline = time.monotonic() + within
    while True:
        try:
            value = condition()
        except (Failure, OSError, ValueError):
            value = None
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failure(f"{what}: not within {within} s")
        time.sleep(every)


def fetch(url, timeout=5):
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return answer.read().decode()


def reset(sock):
    """Closes with a RST instead of a FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def read_all(sock, limit=1 << 24):
    data = bytearray()
    while len(data) < limit:
        chunk = sock.recv(65536)
        if not chunk:
            break
        data += chunk
    return bytes(data)


def read_exactly(sock, count):
    data = bytearray()
    while len(data) < count:
        chunk = sock.recv(count - len(data))
        if not chunk:
            raise Failure(f"the stream ended after {len(data)} of {count} bytes")
        data += chunk
    return bytes(data)


def echo(sock):
    """A target that answers with what it got, and half-closes after the end."""
    while chunk := sock.recv(65536):
        sock.sendall(chunk)
    sock.shutdown(socket.SHUT_WR)


class Source:
    """A target that sends `size` bytes to whoever connects, at `rate` bytes a
    second (0: as fast as it goes), and knows their SHA-256."""

    def __init__(self, host, port, size, rate=0, seed=1):
        self.block = random.Random(seed).randbytes(1 << 20)
        self.size, self.rate = size, rate
        digest = hashlib.sha256()
        for offset in range(0, size, len(self.block)):
            digest.update(self.block[:min(len(self.block), size - offset)])
        self.digest = digest.hexdigest()
        self.listener = host.serve(port, self.send)

    def send(self, sock):
        started = time.monotonic()
        sent = 0
        while sent < self.size:
            at = sent % len(self.block)
            count = min(65536, self.size - sent, len(self.block) - at)
            sock.sendall(self.block[at:at + count])
            sent += count
            if self.rate:
                time.sleep(max(0, sent / self.rate - (time.monotonic() - started)))


class Download:
    """Reads a stream to its end in a thread of its own."""

    def __init__(self, sock, rate=0):
        self.sock, self.rate = sock, rate
        self.count, self.error, self.longest = 0, None, 0.0
        self.hash = hashlib.sha256()
        self.started = self.last = time.monotonic()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        try:
            while chunk := self.sock.recv(65536):
                now = time.monotonic()
                self.longest = max(self.longest, now - self.last)
                self.last = now
                self.count += len(chunk)
                self.hash.update(chunk)
                if self.rate:
                    time.sleep(max(0, self.count / self.rate - (now - self.started)))
        except OSError as error:
            self.error = error
        self.ended = time.monotonic()

    def alive(self):
        return self.thread.is_alive()

    def finish(self, source, within=60):
        """Waits for the end; the bytes must be those of `source`."""
        self.thread.join(within)
        if self.thread.is_alive():
            raise Failure(f"not at its end within {within} s ({self.count} of {source.size} bytes)")
        if self.error:
            raise Failure(f"{self.error} after {self.count} of {source.size} bytes")
        if self.hash.hexdigest() != source.digest:
            raise Failure(f"{self.count} of {source.size} bytes came, and they differ")
        return self.ended - self.started


def require_lab(report, what):
    """Scenarios need machines of their own; without them they are skipped."""
    missing = [tool for tool in ("ip", "nft", "curl") if not shutil.which(tool)]
    if missing or not Lab.available():
        report.skip(what, f"needs {', '.join(missing)}" if missing else "no network namespaces")
        report.finish()


class Report:
    """Prints `ok …`, `FAILED …`, `skipped …`, the lines scripts/test counts."""

    def __init__(self):
        self.failed = False

    def step(self, name, action):
        started = time.monotonic()
        try:
            note = action()
        except Exception as error:  # a scenario's failure is its report
            self.failed = True
            print(f"FAILED  {name}: {error}", flush=True)
            return False
        taken = time.monotonic() - started
        print(f"ok      {name}{f': {note}' if note else ''} ({taken:.1f} s)", flush=True)
        return True

    def skip(self, name, why):
        print(f"skipped {name}: {why}", flush=True)

    def finish(self):
        sys.exit(1 if self.failed else 0)
