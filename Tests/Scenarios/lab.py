"""The lab, in short: every kind of router is what its description says, and a
few telling cells go the way theory says. The whole grid is `make lab`."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time

from harness import BIN, Failure, Report, wait_for

CELLS = [
    "udp-blocked,public", "udp-blocked,udp-blocked",
    "public,port-restricted", "port-restricted,port-restricted",
    "symmetric-random,address-restricted", "symmetric-random,symmetric-random",
    "tcp-443-only,full-cone", "ipv6-only,ipv6-only", "same-lan",
]
REFUSED = 3


def martlet(*words, timeout=120):
    return subprocess.run(
        [str(BIN / "martlet"), "lab", *words], stdin=subprocess.DEVNULL, capture_output=True,
        timeout=timeout, text=True, cwd=BIN.parent)


def check_kinds(text):
    results = json.loads(text)
    wrong = [f"{r['kind']}{' with hairpin' if r['hairpin'] else ''}: {'; '.join(r['mismatches'])}"
             for r in results if r["mismatches"]]
    if wrong or not results:
        raise Failure("; ".join(wrong) or "nothing was checked")
    return f"{len(results)} routers"


def cells():
    with tempfile.TemporaryDirectory(prefix="martlet-lab-cells-") as results:
        result = martlet("run", *CELLS, "--jobs", "3", "--json", "--results", results)
        grid = json.loads(result.stdout)
    wrong = []
    for cell in grid["cells"]:
        for run in cell["results"]:
            if not run["asExpected"]:
                wrong.append(f"{cell['cell']}: {cell['expected']} expected, "
                             f"{run['failure'] or run['tier'] + ' and ' + run['tierBack']}")
    if wrong or len(grid["cells"]) != len(CELLS):
        raise Failure("; ".join(wrong) or result.stderr)
    direct = [run["finalTierMs"] for cell in grid["cells"] for run in cell["results"]
              if cell["expected"] != "relayed"]
    return f"{len(CELLS)} cells, direct roads within {max(direct):.0f} ms"


def labs():
    return {lab["prefix"]: lab for lab in json.loads(martlet("list", "--json").stdout)["labs"]}


def is_running(pid):
    """A process that nobody has waited for yet does not run any more."""
    try:
        with open(f"/proc/{pid}/stat") as facts:
            return facts.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def namespaces(prefix):
    """Only root's are seen from here; a user's end with their processes."""
    try:
        return [name for name in os.listdir("/run/netns") if name.startswith(prefix + "-")]
    except FileNotFoundError:
        return []


def up_and_down():
    prefix = f"scen{os.getpid()}"
    try:
        result = martlet("up", "two-homes", "--prefix", prefix)
        if result.returncode != 0 or not labs()[prefix]["running"]:
            raise Failure(f"not up: {result.stdout}{result.stderr}")
        again = martlet("up", "two-homes", "--prefix", prefix)
        if again.returncode == 0 or "already" not in again.stderr:
            raise Failure(f"a second lab of the same name: {again.stdout}{again.stderr}")
    finally:
        result = martlet("down", "--prefix", prefix)
    if result.returncode != 0 or prefix in labs() or namespaces(prefix):
        raise Failure(f"not down: {result.stdout}{result.stderr}")


def runner_dies(number, runs=1):
    """A run is ended in the middle; nothing of it stays, at once or after `down`.
    Of several runs each is a lab of its own, with the prefix and a number."""
    prefix = f"scen{os.getpid()}d{number}"
    parts = [prefix] if runs == 1 else [f"{prefix}r{run}" for run in range(runs)]
    runner = subprocess.Popen(
        [str(BIN / "martlet"), "lab", "run", "symmetric-random,symmetric-random", "--prefix",
         prefix, "--runs", str(runs)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for("agents run", lambda: all(
            labs().get(part, {}).get("processes", 0) >= 3 for part in parts), within=20)
        parent = os.environ.get("TMPDIR") or "/tmp"
        pids = []
        for part in parts:
            with open(f"{parent}/martlet-lab-{os.getuid()}/{part}/journal") as lines:
                pids += [int(line.split()[1]) for line in lines if line.startswith("process")]
        runner.send_signal(number)
        runner.wait(15)
        if number == signal.SIGKILL:
            result = martlet("down", "--prefix", prefix)
            if result.returncode != 0:
                raise Failure(f"down: {result.stderr}")
        left = [pid for pid in pids if is_running(pid)]
        names = [name for part in parts for name in namespaces(part)]
        if left or names or set(labs()) & {prefix, *parts}:
            raise Failure(f"left behind: processes {left}, namespaces {names}")
    finally:
        if runner.poll() is None:
            runner.kill()
            runner.wait()
        martlet("down", "--prefix", prefix)


def main():
    report = Report()
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    missing = [tool for tool in ("ip", "nft") if not shutil.which(tool, path=path)]
    started = time.monotonic()
    kinds = None if missing else martlet("check-kinds", "--json")
    if missing or kinds.returncode == REFUSED:
        why = f"needs {', '.join(missing)}" if missing else kinds.stderr.strip()
        report.skip("lab", why)
        report.finish()
    taken = time.monotonic() - started
    report.step("every kind of router is as described",
                lambda: f"{check_kinds(kinds.stdout)} in {taken:.1f} s")
    report.step("cells go the way theory says", cells)
    report.step("a lab is made, stands and is taken down", up_and_down)
    report.step("ctrl-C takes everything down", lambda: runner_dies(signal.SIGINT))
    report.step("after kill -9 nothing stays", lambda: runner_dies(signal.SIGKILL))
    report.step("nor after kill -9 of one that has several",
                lambda: runner_dies(signal.SIGKILL, runs=2))
    report.finish()


if __name__ == "__main__":
    main()
