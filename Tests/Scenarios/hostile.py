"""Garbage on every port: no crash, no flood of lines, no answer larger than its
cause, no memory without end."""

import random
import sys
import time

from harness import Failure, Lab, Report, enter_namespaces
from mesh import Mesh

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
        file = mesh.web(4 << 20)
        mesh.tunnel("web", "127.0.0.1:8000", "127.0.0.1:9000")
        mesh.fetch("before", file)
        ports = mesh.a.output("ss", "-ulnpH").splitlines()
        port = next(line.split()[3].rsplit(":", 1)[1] for line in ports if "inp2pc" in line)

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
            capture = mesh.a.spawn("tcpdump", "-i", "eth0", "-U", "-w", "r.pcap", "-s", "0",
                                   "udp", "and", "dst", "port", port)
            time.sleep(0.7)
            mesh.fetch("recorded", file)
            time.sleep(0.3)
            capture.terminate()
            packets = read_pcap(mesh.a.directory / "r.pcap")[:3000]
            if len(packets) < 50:
                raise Failure(f"only {len(packets)} packets recorded")
            script = ("import socket,sys,time,pickle\n"
                      "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.setblocking(False)\n"
                      "got=n=0\n"
                      "for p in pickle.load(open('packets','rb')):\n"
                      "  s.sendto(p,(sys.argv[1],int(sys.argv[2])));n+=len(p)\n"
                      "  try:\n    got+=len(s.recv(65536))\n  except BlockingIOError: pass\n"
                      "time.sleep(.3)\n"
                      "try:\n  while True: got+=len(s.recv(65536))\n"
                      "except BlockingIOError: pass\nprint(n,got)\n")
            import pickle
            rng = random.Random(3)
            changed = []
            for packet in packets:
                changed.append(packet)
                changed.append(packet[:rng.randrange(len(packet) + 1)])
                flipped = bytearray(packet)
                if flipped:
                    flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
                changed.append(bytes(flipped))
            (evil.directory / "packets").write_bytes(pickle.dumps(changed))
            sent, got = map(int, evil.output(
                sys.executable, "-c", script, mesh.a.address, port).split())
            if got:
                raise Failure(f"{got} bytes were sent to the replaying machine")
            mesh.fetch("after", file)
            return f"{len(changed)} packets, {sent} bytes, " + unharmed(agent, lines, megabytes)

        report.step("20,000 packets of garbage at an agent", udp)
        report.step("a recorded session replayed, cut and changed", replay)
        report.step("garbage, half TLS, bad messages and silence at the server", tcp)
        report.step("everything still works", lambda: mesh.fetch("last", file))
    report.finish()


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
