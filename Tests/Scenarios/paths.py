"""The path dies, the server dies, agents die: streams and names come through."""

import os
import time

from harness import BIN, Failure, Lab, Report, enter_namespaces, wait_for
from mesh import Mesh, sha


def main():
    enter_namespaces()
    report = Report()
    if not Lab.available():
        report.skip("paths", "no network namespaces here")
        report.finish()
    with Lab("paths") as lab:
        mesh = Mesh(lab)
        file = mesh.web(20 << 20)
        mesh.tunnel("web", "127.0.0.1:8000", "127.0.0.1:9000")

        def direct():
            mesh.fetch("first", file)
            mesh.wait_tier(mesh.a, "nodeB", "udp-direct")

        def cut_and_heal():
            process, target = mesh.download("second", "--limit-rate", "4M")
            time.sleep(1)
            mesh.b.cut(mesh.a.address)
            started = time.monotonic()
            mesh.wait_tier(mesh.a, "nodeB", "server-relay", within=5)
            left = time.monotonic() - started
            if process.popen.wait(60) != 0 or sha(target) != sha(file):
                raise Failure("the download did not survive")
            mesh.b.heal()
            started = time.monotonic()
            mesh.wait_tier(mesh.a, "nodeB", "udp-direct", within=10)
            return f"left after {left:.1f} s, back after {time.monotonic() - started:.1f} s"

        def server_dies():
            process, target = mesh.download("third", "--limit-rate", "4M")
            time.sleep(1)
            mesh.server.kill()
            # A new connection through the living session needs no server.
            mesh.a.run("curl", "-s", "-m", "5", "-o", "/dev/null", "-r", "0-9",
                       "http://127.0.0.1:9000/file")
            mesh.server = mesh.start_server()
            started = time.monotonic()
            mesh.wait_online(2, within=12)
            back = time.monotonic() - started
            if process.popen.wait(60) != 0 or sha(target) != sha(file):
                raise Failure("the download noticed")
            if back > 10:
                raise Failure(f"all nodes were back only after {back:.1f} s")
            return f"all back after {back:.1f} s"

        def agent_dies():
            process, _ = mesh.download("fourth", "--limit-rate", "1M")
            time.sleep(1)
            mesh.agents["b"].kill()
            mesh.start_agent(mesh.b)
            started = time.monotonic()
            status = process.popen.wait(30)
            if status == 0:
                raise Failure("a download across two processes of the far agent succeeded")
            reset = time.monotonic() - started
            # The tunnel comes back by itself, from the agent's state.
            wait_for("the tunnel works again", lambda: mesh.a.run(
                "curl", "-s", "-m", "3", "-o", "/dev/null", "-r", "0-9",
                "http://127.0.0.1:9000/file", check=False).returncode == 0, within=15)
            mesh.fetch("fifth", file)
            return f"reset after {reset:.1f} s"

        def near_agent_dies():
            mesh.agents["a"].kill()
            mesh.start_agent(mesh.a)
            mesh.wait_online(2)
            wait_for("the tunnel works again", lambda: mesh.a.run(
                "curl", "-s", "-m", "3", "-o", "/dev/null", "-r", "0-9",
                "http://127.0.0.1:9000/file", check=False).returncode == 0, within=15)

        def marker_stays_sealed():
            """Acceptance 5: neither on the server's wire nor in its memory."""
            marker = os.urandom(48).hex().encode()[:64]
            (mesh.b.directory / "www" / "marked").write_bytes(marker * 65536)
            mesh.b.cut(mesh.a.address)
            mesh.wait_tier(mesh.a, "nodeB", "server-relay", within=8)
            capture = mesh.server_host.capture("any", "capture.pcap")
            target = mesh.a.directory / "marked"
            mesh.a.run("curl", "-s", "-m", "40", "-o", target, "http://127.0.0.1:9000/marked")
            if target.read_bytes() != marker * 65536:
                raise Failure("the bytes differ")
            memory = read_memory(mesh.server.pid)
            if marker in memory:
                raise Failure("the marker is in the server's memory")
            capture.terminate()
            wire = (mesh.server_host.directory / "capture.pcap").read_bytes()
            if len(wire) < 4 << 20:
                raise Failure(f"the capture holds only {len(wire)} bytes")
            if marker in wire:
                raise Failure("the marker is on the server's wire")
            mesh.b.heal()
            return f"{len(memory) >> 20} MB of memory, {len(wire) >> 20} MB on the wire"

        def interface_goes_down():
            """What leaves from it hears nothing any more, though its address stays."""
            other = lab.plug(mesh.a, "eth1", 102)
            # As in networks of their own: the other one does not speak for it.
            mesh.a.run("sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1",
                       "net.ipv4.conf.all.arp_announce=2")
            mesh.b.cut(f"{{ {mesh.a.address}, {other} }}")
            mesh.wait_tier(mesh.a, "nodeB", "server-relay", within=8)
            process, target = mesh.download("sixth", "--limit-rate", "4M")
            wait_for("the download runs", lambda: target.stat().st_size > 1 << 20)
            mesh.a.run("ip", "link", "set", "eth0", "down")
            started = time.monotonic()
            # Five seconds' worth of bytes, and no waiting for the kernel to give up.
            wait_for("the end of the download", lambda: not process.alive(), within=12)
            taken = time.monotonic() - started
            if process.popen.returncode != 0 or sha(target) != sha(file):
                raise Failure("the download did not survive")
            mesh.a.run("ip", "link", "set", "eth0", "up")
            mesh.a.run("ip", "link", "del", "eth1")
            mesh.b.heal()
            return f"at its end after {taken:.1f} s"

        report.step("a download over the direct path", direct)
        report.step("the direct path is cut in a download and healed", cut_and_heal)
        report.step("the server is killed in a download and started again", server_dies)
        report.step("the far agent is killed in a download and started again", agent_dies)
        report.step("the near agent is killed and started again", near_agent_dies)
        report.step("an interface goes down under a relayed download", interface_goes_down)
        report.step("what is relayed is sealed from the server", marker_stays_sealed)
    report.finish()


def read_memory(pid):
    """Every readable page of a process."""
    content = bytearray()
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            span, mode = line.split()[:2]
            if "r" not in mode or line.rstrip().endswith(("[vvar]", "[vsyscall]")):
                continue
            start, end = (int(x, 16) for x in span.split("-"))
            try:
                memory.seek(start)
                content += memory.read(end - start)
            except OSError:
                continue
    return bytes(content)


if __name__ == "__main__":
    main()
