"""Garbage on every port: no crash, no flood of lines, no answer larger than its
cause, no memory without end."""

import random
import socket
import struct
import sys
import time

from harness import BIN, Failure, Lab, Report, enter_namespaces, wait_for
from mesh import Mesh, sha

UPGRADE = (b"GET /signal HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
           b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")

# On a third machine: UDP garbage at a port; prints bytes sent and received.
UDP = r"""
import os, random, socket, sys, time
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
r = random.Random(7); s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setblocking(False)
worst = sent = got = 0
for i in range(count):
    kind = i % 6
    size = [0, 1, 148, 92, 1200, r.randrange(1, 1400)][kind]
    data = bytearray(r.randbytes(size))
    if size >= 4 and i % 2: data[0:4] = bytes([r.choice([1, 2, 3, 4]), 0, 0, 0])
    s.sendto(data, (host, port)); sent += size
    try:
        while True:
            answer = s.recv(65536); got += len(answer)
            if len(answer) > size: worst = max(worst, len(answer) - size)
    except BlockingIOError: pass
    if i % 200 == 0: time.sleep(0.01)
time.sleep(0.3)
try:
    while True: got += len(s.recv(65536))
except BlockingIOError: pass
print(sent, got, worst)
"""

# Replays what was recorded on the wire, whole, cut and changed, from here.
TCP = r"""
import random, socket, sys, time
host, port = sys.argv[1], int(sys.argv[2]); r = random.Random(9); worst = 0
def talk(data, wait=0.05):
    s = socket.create_connection((host, port), 5); s.settimeout(wait)
    got = b""
    try:
        s.sendall(data)
        while (d := s.recv(65536)): got += d
    except OSError: pass
    s.close(); return got
for i in range(150):
    talk(r.randbytes(r.randrange(0, 3000)), 0.02)
for i in range(50):
    talk(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + r.randbytes(r.randrange(0, 600)), 0.02)
upgrade = (b"GET /signal HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
           b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
def frame(payload):
    n = len(payload); head = b"\x82"
    head += bytes([0x80 | n]) if n < 126 else b"\xfe" + n.to_bytes(2, "big")
    return head + b"\0\0\0\0" + payload
for path in (b"/signal", b"/relay"):
    for i in range(100):
        talk(upgrade.replace(b"/signal", path) + frame(r.randbytes(r.randrange(0, 2000))), 0.03)
# Slow ones: a byte now and then, and nothing at all. The server hangs up.
slow = [socket.create_connection((host, port), 5) for _ in range(60)]
start = time.monotonic(); open_ = slow[:]
while open_ and time.monotonic() - start < 25:
    for s in open_[:]:
        s.setblocking(False)
        try:
            s.send(b"G" if s is slow[0] else b"")
            if s.recv(100) == b"": open_.remove(s)
        except BlockingIOError: pass
        except OSError: open_.remove(s)
    time.sleep(0.2)
print(len(open_), round(time.monotonic() - start, 1))
"""


def memory(process):
    text = open(f"/proc/{process.pid}/status").read()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS")) / 1024


def main():
    enter_namespaces()
    report = Report()
    if not Lab.available():
        report.skip("hostile", "no network namespaces here")
        report.finish()
    with Lab("hostile") as lab:
        mesh = Mesh(lab)
        evil = lab.host("x")
        for host in (mesh.a, mesh.b):  # what is recorded are packets, not runs of them
            host.run("ip", "link", "set", "eth0", "gso_max_segs", "1")
        file = mesh.web(4 << 20)
        mesh.tunnel("web", "127.0.0.1:8000", "127.0.0.1:9000")
        mesh.fetch("before", file)
        # As the peer sees it: the agent has other sockets, too.
        mesh.wait_tier(mesh.b, "nodeA", "udp-direct")
        port = mesh.peer(mesh.b, "nodeA")["address"].rsplit(":", 1)[1]

        def unharmed(process, lines, megabytes):
            if not process.alive():
                raise Failure("it crashed")
            new = len(process.text().splitlines()) - lines
            if new > 300:
                raise Failure(f"{new} new log lines")
            grown = memory(process) - megabytes
            if grown > 60:
                raise Failure(f"{grown:.0f} MB more memory")
            return f"{new} log lines, {grown:+.0f} MB"

        def udp():
            agent = mesh.agents["a"]
            lines, megabytes = len(agent.text().splitlines()), memory(agent)
            text = evil.output(sys.executable, "-c", UDP, mesh.a.address, port, "20000")
            sent, got, worst = map(int, text.split())
            if worst > 0:
                raise Failure(f"an answer {worst} bytes larger than its cause")
            return f"{sent} bytes sent, {got} answered, " + unharmed(agent, lines, megabytes)

        def tcp():
            lines, megabytes = len(mesh.server.text().splitlines()), memory(mesh.server)
            text = evil.output(
                sys.executable, "-c", TCP, mesh.server_host.address, "27183", timeout=90)
            still, took = text.split()
            if int(still) > 1:
                raise Failure(f"{still} silent connections are still open after {took} s")
            return unharmed(mesh.server, lines, megabytes)

        def replay():
            """Every packet of a real session again, from another machine."""
            agent = mesh.agents["a"]
            lines, megabytes = len(agent.text().splitlines()), memory(agent)
            capture = mesh.a.capture("eth0", "r.pcap", port)
            # A new process of the peer: its handshake is recorded, too.
            mesh.agents["b"].terminate()
            mesh.start_agent(mesh.b)
            mesh.wait_online(2)
            wait_for("the tunnel again", lambda: mesh.a.run(
                "curl", "-sf", "-m", "3", "-o", "/dev/null", "-r", "0-9",
                "http://127.0.0.1:9000/file", check=False).returncode == 0)
            mesh.wait_tier(mesh.a, "nodeB", "udp-direct")
            mesh.fetch("recorded", file)
            time.sleep(0.3)
            capture.terminate()
            packets = read_pcap(mesh.a.directory / "r.pcap")[:3000]
            if len(packets) < 50:
                raise Failure(f"only {len(packets)} packets recorded")
            if not any(packet[:4] in (b"\1\0\0\0", b"\2\0\0\0") for packet in packets):
                raise Failure("no handshake was recorded")
            rng = random.Random(3)
            changed = []
            for packet in packets:
                changed.append(packet)
                changed.append(packet[:rng.randrange(len(packet) + 1)])
                flipped = bytearray(packet)
                if flipped:
                    flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
                changed.append(bytes(flipped))
            sock = evil.socket(socket.SOCK_DGRAM)
            sock.setblocking(False)
            sent = got = 0
            answered = {}
            for packet in changed:
                try:
                    sock.sendto(packet, (mesh.a.address, int(port)))
                    sent += len(packet)
                except OSError:
                    continue
                time.sleep(0.0002)
                for _ in range(4):
                    try:
                        answer = sock.recv(65536)
                    except BlockingIOError:
                        break
                    got += len(answer)
                    answered[answer[:1]] = answered.get(answer[:1], 0) + 1
                    if len(answer) > 92:  # a handshake response; it answers 148 bytes
                        raise Failure(f"an answer of {len(answer)} bytes to a replay")
            if got > 20 * 92:
                raise Failure(f"{got} bytes were sent to the replaying machine: {answered}")
            sock.close()
            mesh.fetch("after", file)
            return (f"{len(changed)} packets, {sent} bytes, {got} answered, "
                    + unharmed(agent, lines, megabytes))

        def spoofed():
            """The recorded packets again in a download, under the peer's own address."""
            packets = read_pcap(mesh.a.directory / "r.pcap")
            peer = next(line.split()[3].rsplit(":", 1)[1]
                        for line in mesh.b.output("ss", "-ulnpH").splitlines() if "inp2pc" in line)
            raw = evil.socket(socket.SOCK_RAW, protocol=socket.IPPROTO_RAW)
            download, target = mesh.download("spoofed", "--limit-rate", "1M")
            count = 0
            rng = random.Random(4)
            while download.alive():
                packet = bytearray(rng.choice(packets))
                if rng.random() < 0.3 and packet:
                    packet[rng.randrange(len(packet))] ^= 1 << rng.randrange(8)
                raw.sendto(datagram(mesh.b.address, int(peer), mesh.a.address, int(port), packet),
                           (mesh.a.address, 0))
                count += 1
                time.sleep(0.0003)
            raw.close()
            if download.popen.returncode != 0 or sha(target) != sha(file):
                raise Failure(f"curl ended with {download.popen.returncode}")
            tier = mesh.peer(mesh.a, "nodeB")["tier"]
            if tier != "udp-direct":
                raise Failure(f"the path was pushed aside: {tier}")
            return f"{count} packets"

        silent_ones = []

        def say_half():
            """Half TLS, and WebSockets that never log in; they wait during the next steps."""
            for number in range(90):
                sock = evil.connect(27183, mesh.server_host.address)
                first = (b"\x16\x03\x01\x02\x00\x01", UPGRADE,
                         UPGRADE.replace(b"signal", b"relay"))[number % 3]
                sock.sendall(first)
                silent_ones.append(sock)

        def silent():
            """All of them were hung up on meanwhile."""
            for sock in silent_ones:
                sock.settimeout(0.2)
                try:
                    while sock.recv(65536):
                        pass
                except ConnectionResetError:
                    pass
                except TimeoutError:
                    raise Failure("a silent connection is still open after 20 s") from None
                sock.close()

        def local_api():
            """Idle connections to the agent's own API do not keep its user out for long."""
            agent = mesh.agents["a"]
            lines, megabytes = len(agent.text().splitlines()), memory(agent)
            rng = random.Random(5)
            for _ in range(100):
                with mesh.a.connect(7777) as sock:
                    try:
                        sock.sendall(rng.randbytes(rng.randrange(1, 3000)))
                    except OSError:
                        pass
            idle = []
            for _ in range(100):
                sock = mesh.a.connect(7777)
                sock.sendall(b"GET /api/sta")
                idle.append(sock)
            started = time.monotonic()
            wait_for("the API answers again", lambda: mesh.a.run(
                BIN / "ztm", "get", "mesh", check=False).returncode == 0, within=40, every=0.5)
            taken = time.monotonic() - started
            for sock in idle:
                sock.close()
            for name in ("evil.example", "rebound.example:7777"):
                status = mesh.a.output(
                    "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", f"Host: {name}",
                    "http://127.0.0.1:7777/api/status")
                if status != "403":
                    raise Failure(f"Host {name}: {status}")
            status = mesh.a.output(
                "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H",
                "Origin: http://evil.example", "-X", "POST",
                "http://127.0.0.1:7777/api/meshes/default/apps/ztm/tunnel/api/inbound/tcp/x",
                "-d", '{"listens":[{"port":9777}]}')
            if status != "403":
                raise Failure(f"a request from a page: {status}")
            try:
                evil.connect(7777, mesh.a.address, timeout=2).close()
                raise Failure("the API is open to other machines")
            except ConnectionRefusedError:
                pass
            return f"answers after {taken:.1f} s, " + unharmed(agent, lines, megabytes)

        report.step("20,000 packets of garbage at an agent", udp)
        report.step("a recorded session replayed, cut and changed", replay)
        report.step("the same under the peer's own address, in a download", spoofed)
        say_half()
        report.step("garbage and idle connections at the local API", local_api)
        report.step("garbage, half TLS, bad messages and silence at the server", tcp)
        report.step("connections that said half and waited are closed", silent)
        report.step("everything still works", lambda: mesh.fetch("last", file))
    report.finish()


def datagram(source, source_port, target, target_port, payload):
    """An IPv4 packet with a UDP datagram (checksum 0: none) from whomever."""
    udp = struct.pack("!HHHH", source_port, target_port, 8 + len(payload), 0) + payload
    return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0x4000, 64, 17, 0,
                       socket.inet_aton(source), socket.inet_aton(target)) + udp


def read_pcap(path):
    """UDP payloads of an Ethernet capture over IPv4."""
    data = path.read_bytes()
    packets, at = [], 24
    while at + 16 <= len(data):
        size = int.from_bytes(data[at + 8:at + 12], "little")
        frame = data[at + 16:at + 16 + size]
        at += 16 + size
        if len(frame) > 42 and frame[12:14] == b"\x08\x00" and frame[23] == 17:
            head = (frame[14] & 15) * 4
            length = int.from_bytes(frame[14 + head + 4:14 + head + 6], "big") - 8
            packets.append(frame[14 + head + 8:14 + head + 8 + length])
    return packets


if __name__ == "__main__":
    main()
