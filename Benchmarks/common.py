"""What the benchmarks share: C helpers built once, namespaces (rootless too),
processes that never outlive the run, medians, tables. Python 3 and the standard
library only."""
import atexit
import json
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
HERE = ROOT / "Benchmarks"
BUILD = ROOT / ".build" / "bench"
BIN = pathlib.Path(os.environ.get("MARTLET_BIN", ROOT / "bin"))

_processes = []
_namespaces = []
_last_port = 20000 + os.getpid() % 5000


def say(text):
    print(text, file=sys.stderr, flush=True)


def fail(text):
    say(f"bench: {text}")
    sys.exit(1)


def compile_c(name, *flags, shared=False):
    """Builds Benchmarks/NAME.c when it is newer than its program; the path."""
    BUILD.mkdir(parents=True, exist_ok=True)
    source = HERE / f"{name}.c"
    out = BUILD / (f"{name}.so" if shared else name)
    if not out.exists() or out.stat().st_mtime < source.stat().st_mtime:
        command = ["gcc", "-O2", "-Wall", "-Wextra", str(source), "-o", str(out)]
        command += ["-shared", "-fPIC"] if shared else []
        subprocess.run(command + list(flags), check=True)
    return str(out)


def enter_lab():
    """Named namespaces: as root, else by running again inside `unshare -Urnm`.
    False when the kernel allows neither."""
    if os.environ.get("MARTLET_LAB"):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return True
    probe = f"probe{os.getpid()}"
    if os.geteuid() == 0 and subprocess.run(
            ["ip", "netns", "add", probe], capture_output=True).returncode == 0:
        subprocess.run(["ip", "netns", "del", probe], capture_output=True)
        return True
    if subprocess.run(["unshare", "-Urnm", "true"], capture_output=True).returncode != 0:
        return False
    os.environ["MARTLET_LAB"] = "1"
    os.execvp("unshare", ["unshare", "-Urnm", sys.executable, *sys.argv])


def namespace(name):
    full = f"mb{os.getpid()}{name}"
    subprocess.run(["ip", "netns", "add", full], check=True)
    _namespaces.append(full)
    subprocess.run(within(full, ["ip", "link", "set", "lo", "up"]), check=True)
    return full


def within(space, command):
    """Unlike `ip netns exec` this works in a plain chroot too, whose / is no mount point."""
    return ["nsenter", f"--net=/run/netns/{space}", *command] if space else list(command)


def start(command, space=None, log=None, environment=None, **more):
    """Starts a process that dies with this one; its output goes to `log`."""
    output = open(log, "wb") if log else subprocess.DEVNULL
    more.setdefault("stdin", subprocess.DEVNULL)
    more.setdefault("stdout", output)
    more.setdefault("stderr", output)
    process = subprocess.Popen(
        within(space, [str(w) for w in command]),
        env={**os.environ, **(environment or {})}, **more)
    _processes.append(process)
    return process


def stop(process, kind=signal.SIGTERM, patience=5):
    if process.poll() is None:
        process.send_signal(kind)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process in _processes:
        _processes.remove(process)
    return process.returncode


def output_of(command, space=None, timeout=60, check=True):
    done = subprocess.run(within(space, [str(w) for w in command]), capture_output=True, text=True,
                          timeout=timeout)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: status {done.returncode}: "
                           f"{(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


@atexit.register
def clean_up():
    for process in reversed(list(_processes)):
        stop(process, patience=3)
    while _namespaces:
        subprocess.run(["ip", "netns", "del", _namespaces.pop()], capture_output=True)


for _signal in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(_signal, lambda *_: sys.exit(130))


def wait_until(what, condition, seconds=15, every=0.1):
    """Polls `condition`; its first true value, or the end of the run with words."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not within {seconds} s")
        time.sleep(every)


def free_ports(count):
    """Ports free for TCP and UDP right now, below the ephemeral range; no port twice."""
    global _last_port
    found = []
    while len(found) < count:
        port = _last_port = _last_port + 1
        try:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(socket.AF_INET, kind) as s:
                    s.bind(("127.0.0.1", port))
            found.append(port)
        except OSError:
            continue
    return found


def http_json(url, timeout=2):
    """The JSON at `url`, or None when nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return None


def median(values):
    return statistics.median(values) if values else float("nan")


def percentile(values, part):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else float("nan")


def rss_bytes(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def columns(rows):
    """Prints rows of words, each column as wide as it must be."""
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    print()
    for row in rows:
        print("  ".join(cell.ljust(width[i]) for i, cell in enumerate(row)).rstrip())


class Table:
    """Lines of the report: what, figure, bar, verdict. A line without a bar is information."""

    def __init__(self):
        self.lines = []

    def add(self, what, figure, bar="", held=None, **values):
        verdict = "" if held is None else held if isinstance(held, str) else "held" if held else "not held"
        self.lines.append({"what": what, "figure": figure, "bar": bar, "verdict": verdict, **values})
        say(f"  {what}: {figure} {verdict}")

    def print(self):
        rows = [("what", "figure", "bar", "verdict")]
        columns(rows + [tuple(line[k] for k in rows[0]) for line in self.lines])

    @property
    def not_held(self):
        return sum(line["verdict"].startswith("not held") for line in self.lines)
