"""The server's STUN ports, asked by others: coturn's clients, and thirty lines
written from RFC 8489 alone. Two addresses, one address, IPv6, TCP; and what they
do with garbage and with too much of everything."""

import os
import random
import shutil
import socket
import struct
import time

from harness import BIN, Failure, Lab, Report, enter_namespaces, require_lab, wait_for

UDP, TCP, WS = (27182, 27183), (27180, 27181), 27183
COOKIE = 0x2112A442
SERVER6, CLIENT6 = "fd77::2", "fd77::3"
LONGEST = 120
# What one source may get, and some for the time it takes.
BURST, PER_SECOND = 300, 50


# Thirty lines from RFC 8489 §5, §14 and RFC 5780 §7.

def request(attributes=b"", kind=0x0001):
    transaction = os.urandom(12)
    return struct.pack("!HHI", kind, len(attributes), COOKIE) + transaction + attributes


def change(flags):
    return struct.pack("!HHI", 0x0003, 4, flags)


def address_of(value, mask=b"\0" * 16):
    family, port = value[1], struct.unpack("!H", value[2:4])[0]
    port ^= struct.unpack("!H", mask[:2])[0]
    raw = bytes(a ^ b for a, b in zip(value[4:], mask))
    return socket.inet_ntop(socket.AF_INET if family == 1 else socket.AF_INET6, raw), port


def parse(answer, question):
    kind, length, cookie = struct.unpack("!HHI", answer[:8])
    if cookie != COOKIE or length != len(answer) - 20 or answer[8:20] != question[8:20]:
        raise Failure(f"not an answer to this: {answer.hex()}")
    found, at = {"kind": kind}, 20
    while at < len(answer):
        name, size = struct.unpack("!HH", answer[at:at + 4])
        value = answer[at + 4:at + 4 + size]
        if len(value) != size:
            raise Failure(f"an attribute runs past the end: {answer.hex()}")
        found[name] = value
        at += 4 + (size + 3) // 4 * 4
    mask = struct.pack("!I", COOKIE) + question[8:20]
    for name, key, key_mask in ((0x0020, "xor", mask), (0x0001, "mapped", b"\0" * 16),
                                (0x802B, "origin", b"\0" * 16), (0x802C, "other", b"\0" * 16)):
        if name in found:
            found[key] = address_of(found[name], key_mask)
    return found


class Scenario:
    def __init__(self, lab):
        self.lab = lab
        self.server_host, self.client, self.third = lab.host("s"), lab.host("c"), lab.host("d")
        for host, address in ((self.server_host, SERVER6), (self.client, CLIENT6)):
            host.run("ip", "addr", "add", f"{address}/64", "dev", "eth0", "nodad")
        self.server = None

    def start(self, *more):
        if self.server:
            if self.server.terminate() != 0:
                raise Failure("the server's status after SIGTERM is not 0")
        self.server = self.server_host.spawn(
            BIN / "inp2ps", "-token", "12345678", "-data", "state", *more)
        wait_for("the server", lambda: "STUN on" in self.server.text())

    @property
    def address(self):
        return self.server_host.address

    def udp(self, host=None, family=socket.AF_INET):
        sock = (host or self.client).socket(socket.SOCK_DGRAM, family)
        sock.settimeout(1)
        if family == socket.AF_INET6:
            sock.bind((CLIENT6, 0))
        else:
            sock.bind(((host or self.client).address, 0))
        return sock

    def ask(self, sock, to, attributes=b"", answer_from=None):
        question = request(attributes)
        sock.sendto(question, to)
        answer, source = sock.recvfrom(2048)
        if source[:2] != (answer_from or to)[:2]:
            raise Failure(f"answered from {source}, not {answer_from or to}")
        if len(answer) > LONGEST:
            raise Failure(f"an answer of {len(answer)} bytes")
        return parse(answer, question)

    def patiently(self, *arguments):
        """As every client does: a question that was lost is asked again."""
        for _ in range(3):
            try:
                return self.ask(*arguments)
            except TimeoutError:
                pass
        return self.ask(*arguments)

    # Others' clients

    def stunclient(self):
        said = []
        for port in UDP:
            for server, us in ((self.address, self.client.address), (SERVER6, CLIENT6)):
                text = self.client.output("turnutils_stunclient", "-p", port, server)
                if "reflexive addr" not in text or us not in text:
                    raise Failure(f"{server} port {port}: {text}")
                said.append(text.strip().splitlines()[-1])
        return f"{len(said)} answers"

    def natdiscovery(self, mapping, filtering, *more):
        text = self.client.output(
            "turnutils_natdiscovery", "-m", "-f", "-p", UDP[0], "-L", self.client.address, *more,
            self.address)
        for words in (mapping, filtering):
            if words not in text:
                raise Failure(f"{words!r} is not in {text}")

    def open_host(self):
        self.natdiscovery("Endpoint Independent Mapping", "Endpoint Independent Filtering")

    def firewalled_host(self):
        self.client.run(
            "nft", "table inet wall {\n chain in {\n type filter hook input priority 0\n"
                   " ct state established accept\n drop\n }\n}")
        try:
            self.natdiscovery(
                "Endpoint Independent Mapping", "Address and Port Dependent Filtering")
        finally:
            self.client.run("nft", "delete table inet wall")

    # From the RFCs

    def plain(self, other=None):
        for port in UDP:
            with self.udp() as sock:
                seen = self.ask(sock, (self.address, port))
                wanted = sock.getsockname()
                if not (seen["kind"] == 0x0101 and seen["xor"] == seen["mapped"] == wanted
                        and seen["origin"] == (self.address, port)):
                    raise Failure(f"{seen}, not {wanted}")
                told = seen.get("other")
                if told != (other and (other, UDP[1 - UDP.index(port)])):
                    raise Failure(f"OTHER-ADDRESS {told}")
            with self.udp(family=socket.AF_INET6) as sock:
                seen = self.ask(sock, (SERVER6, port))
                if seen["xor"] != sock.getsockname()[:2] or "other" in seen:
                    raise Failure(f"IPv6: {seen}")

    def one_address(self):
        self.plain()
        with self.udp() as sock:
            for port, other in (UDP, UDP[::-1]):
                seen = self.ask(sock, (self.address, port), change(2), (self.address, other))
                if seen["xor"] != sock.getsockname():
                    raise Failure(f"{seen}")
                for flags in (4, 6):
                    seen = self.ask(sock, (self.address, port), change(flags))
                    if seen["kind"] != 0x0111 or seen[0x0009][2:4] != b"\4\x14" \
                            or seen[0x000A] != b"\0\3":
                        raise Failure(f"change-ip is not refused with 420: {seen}")

    def two_addresses(self, second):
        self.plain(second)
        places = {(address, port) for address in (self.address, second) for port in UDP}
        with self.udp() as sock:
            for address, port in places:
                for flags in (0, 2, 4, 6):
                    source = ((second if address == self.address else self.address)
                              if flags & 4 else address, UDP[1 - UDP.index(port)]
                              if flags & 2 else port)
                    self.ask(sock, (address, port), change(flags), source)

    def unknown_attribute(self):
        with self.udp() as sock:
            seen = self.ask(sock, (self.address, UDP[0]), struct.pack("!HHI", 0x7001, 4, 0))
            if seen["kind"] != 0x0111 or seen[0x000A] != b"\x70\x01":
                raise Failure(f"{seen}")

    def tcp(self):
        for port in TCP:
            for server, us in ((self.address, self.client.address), (SERVER6, CLIENT6)):
                family = socket.AF_INET6 if ":" in server else socket.AF_INET
                with self.client.socket(family=family) as sock:
                    sock.settimeout(3)
                    sock.connect((server, port))
                    # Whole, then byte by byte, then two at once.
                    for sizes in ([20], [1] * 20, [40]):
                        questions = [request() for _ in range(sum(sizes) // 20)]
                        data = b"".join(questions)
                        for size in sizes:
                            sock.sendall(data[:size])
                            data = data[size:]
                        for question in questions:
                            head = self.exactly(sock, 20)
                            rest = self.exactly(sock, struct.unpack("!H", head[2:4])[0])
                            seen = parse(head + rest, question)
                            if seen["xor"] != sock.getsockname()[:2] or us != seen["xor"][0]:
                                raise Failure(f"{seen}")
                            if len(head + rest) > LONGEST:
                                raise Failure(f"{len(head + rest)} bytes")
                    question = request(change(2))
                    sock.sendall(question)
                    head = self.exactly(sock, 20)
                    seen = parse(
                        head + self.exactly(sock, struct.unpack("!H", head[2:4])[0]), question)
                    if seen["kind"] != 0x0111:
                        raise Failure(f"CHANGE-REQUEST over TCP: {seen}")

    @staticmethod
    def exactly(sock, count):
        data = b""
        while len(data) < count:
            chunk = sock.recv(count - len(data))
            if not chunk:
                raise Failure(f"closed after {len(data)} of {count} bytes")
            data += chunk
        return data

    # Against it

    def garbage(self):
        """Nothing but a request is answered."""
        rng = random.Random(11)
        good = request()
        bad = [b"", good[:19], good[:8], good + b"\0", good + b"\0\0\0\0",
               request(kind=0x0011), request(kind=0x0101), request(kind=0x0111),
               request(kind=0x0003), request(kind=0x4001), good[:4] + b"\0\0\0\0" + good[8:],
               request(b"\x80\x22\x00\x09abcd"), request(b"\x80\x28\0\4\0\0\0\0"),
               request(b"\0\3\0\2\0\0\0\0"), b"\1\0\0\0" + os.urandom(144),
               b"GET / HTTP/1.1\r\n\r\n"]
        bad += [rng.randbytes(rng.randrange(0, 1400)) for _ in range(3000)]
        for _ in range(500):  # a request with one byte of its head wrong
            broken = bytearray(request(rng.randbytes(4 * rng.randrange(0, 4))))
            broken[rng.randrange(1, 8)] ^= rng.randrange(1, 256)
            bad.append(bytes(broken))
        with self.udp(self.third) as sock:
            sock.setblocking(False)
            for at, data in enumerate(bad):
                sock.sendto(data, (self.address, UDP[at % 2]))
                if at % 100 == 0:
                    time.sleep(0.005)
            time.sleep(0.3)
            answers = 0
            try:
                while answer := sock.recv(2048):
                    # Type bits and the transaction may be wrong and the message still right.
                    answers += 1
                    if answer[:2] not in (b"\1\1", b"\1\x11") or len(answer) > LONGEST:
                        raise Failure(f"{answer.hex()}")
            except BlockingIOError:
                pass
        if answers:
            raise Failure(f"{answers} answers to garbage")
        with self.udp() as sock:
            self.ask(sock, (self.address, UDP[0]))
        return f"{len(bad)} packets, no answer"

    def rate(self):
        """A flood from one source gets its share, and others go on."""
        with self.udp(self.third) as flood, self.udp() as other:
            flood.setblocking(False)
            flood.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            time.sleep(1)
            started, sent, got, size = time.monotonic(), 0, 0, 0
            while sent < 20000:
                flood.sendto(request(change(2)), (self.address, UDP[sent % 2]))
                sent += 1
                if sent % 50 == 0:
                    time.sleep(0.002)
                    if sent % 2000 == 0:
                        self.patiently(other, (self.address, UDP[0]))
                try:
                    while answer := flood.recv(2048):
                        got, size = got + 1, max(size, len(answer))
                except BlockingIOError:
                    pass
            time.sleep(0.3)
            try:
                while flood.recv(2048):
                    got += 1
            except BlockingIOError:
                pass
            taken = time.monotonic() - started
        allowed = BURST + PER_SECOND * (taken + 1)
        if not 50 <= got <= allowed or size > LONGEST:
            raise Failure(f"{got} answers in {taken:.1f} s, {allowed:.0f} allowed; {size} bytes")
        return f"{got} of {sent} answered in {taken:.1f} s"

    def tcp_limits(self):
        """Silence, garbage and too many connections end; others are served."""
        def closed(sock, within):
            sock.settimeout(within)
            try:
                while sock.recv(4096):
                    pass
            except ConnectionResetError:
                pass
            except TimeoutError:
                return False
            return True

        for data in (b"GET / HTTP/1.1\r\n\r\n" + b"x" * 20, b"\x16\x03\x01" + b"\0" * 60,
                     struct.pack("!HHI", 1, 0xFFFC, COOKIE) + os.urandom(12),
                     request(kind=0x0001) * 9):
            with self.third.connect(TCP[0], self.address) as sock:
                sock.sendall(data)
                if not closed(sock, 3):
                    raise Failure(f"still open after {data[:8]}")
        many = []
        for number in range(300):
            try:
                many.append(self.third.connect(TCP[number % 2], self.address, timeout=2))
            except (TimeoutError, ConnectionError):
                pass
        time.sleep(0.3)
        open_ = self.server_host.output("ss", "-Htn", "state", "established", "( sport = "
                                        f":{TCP[0]} or sport = :{TCP[1]} )").splitlines()
        if len(open_) > 16:
            raise Failure(f"{len(open_)} connections of one address are open")
        with self.client.connect(TCP[0], self.address) as sock:
            question = request()
            sock.sendall(question)
            head = self.exactly(sock, 20)
            parse(head + self.exactly(sock, struct.unpack("!H", head[2:4])[0]), question)
        started = time.monotonic()
        for sock in many:
            if not closed(sock, 13):
                raise Failure("a silent connection is open after 13 s")
            sock.close()
        return f"{len(open_)} of 300 kept, the last one {time.monotonic() - started:.1f} s"

    def ports(self):
        """Nothing listens but what was named; UDP and TCP share a number."""
        text = self.server_host.output("ss", "-Htuln")
        found = {(line.split()[0], int(line.split()[4].rsplit(":", 1)[1]))
                 for line in text.splitlines()}
        wanted = {("udp", port) for port in UDP} | {("tcp", port) for port in (*TCP, WS)}
        if found != wanted:
            raise Failure(f"{sorted(found ^ wanted)}")
        self.server_host.run("curl", "-sf", f"http://127.0.0.1:{WS}/api/v1/health")

    def refused(self, words, *flags):
        result = self.server_host.run(
            BIN / "inp2ps", "-token", "1", "-data", "other", "-ws-port", "28183", *flags,
            check=False, timeout=8)
        said = result.stderr.decode()
        if result.returncode != 1 or any(word not in said for word in words):
            raise Failure(f"status {result.returncode}: {said}")

    def wrong_address(self):
        self.refused(["-stun-alt-ip", "192.0.2.1", "not an address of this machine"],
                     "-stun-alt-ip", "192.0.2.1")
        self.refused(["-stun-alt-ip", SERVER6, "no other IPv6 address"], "-stun-alt-ip", SERVER6)


def main():
    enter_namespaces()
    report = Report()
    require_lab(report, "stun")
    turnutils = shutil.which("turnutils_stunclient") and shutil.which("turnutils_natdiscovery")
    with Lab("stun") as lab:
        scenario = Scenario(lab)
        scenario.start()
        report.step("one address: plain, change-port, 420", scenario.one_address)
        report.step("TCP ports, by the RFC", scenario.tcp)
        report.step("an attribute nobody knows", scenario.unknown_attribute)
        if turnutils:
            report.step("turnutils_stunclient at both ports, IPv4 and IPv6", scenario.stunclient)
        else:
            report.skip("turnutils_stunclient", "package coturn is not installed")
        report.step("only these ports", scenario.ports)
        report.step("STUN garbage gets no answer", scenario.garbage)
        report.step("the rate of one source", scenario.rate)
        report.step("TCP connections are few and short", scenario.tcp_limits)
        second = "10.77.0.102"
        report.step("a second address that cannot be", scenario.wrong_address)
        scenario.server_host.run("ip", "addr", "add", f"{second}/24", "dev", "eth0")
        scenario.start("-stun-alt-ip", second)
        report.step("two addresses: every change", lambda: scenario.two_addresses(second))
        if turnutils:
            report.step("turnutils_natdiscovery, an open host", scenario.open_host)
            report.step("turnutils_natdiscovery, a firewalled host", scenario.firewalled_host)
        else:
            report.skip("turnutils_natdiscovery", "package coturn is not installed")
    report.finish()


if __name__ == "__main__":
    main()
