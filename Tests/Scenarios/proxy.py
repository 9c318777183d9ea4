"""A network that lets nothing out but an HTTP proxy: the agent reaches a server
whose name only the proxy knows, and carries a tunnel through its relay, then
through a relay that another node is."""

import base64
import pathlib
import select

from harness import BIN, Failure, Lab, Report, enter_namespaces, require_lab, wait_for
from mesh import TOKEN, Mesh, sha

NAME, PORT, RELAY_PORT = "server.inside", 3128, 27185
USER, PASSWORD = "ann", "s3cret@home"


class Proxy:
    """CONNECT and nothing else, for those who know the password."""

    def __init__(self, host, server):
        self.host, self.asked = host, []
        self.ways = {f"{NAME}:27183": (server, 27183)}
        self.listener = host.serve(PORT, self.handle, address=host.address)

    def handle(self, sock):
        head = b""
        while b"\r\n\r\n" not in head:
            piece = sock.recv(1)
            if not piece:
                return
            head += piece
        lines = head.decode().split("\r\n")
        wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if f"Proxy-Authorization: {wanted}" not in lines:
            sock.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            return
        self.asked.append(lines[0])
        way = self.ways.get(lines[0].removeprefix("CONNECT ").removesuffix(" HTTP/1.1"))
        if way is None:
            sock.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            return
        far = self.host.socket()
        far.connect(way)
        sock.sendall(b"HTTP/1.1 200 Connection established\r\nVia: nobody\r\n\r\n")
        ends = {sock: far, far: sock}
        while True:
            for ready in select.select(list(ends), [], [])[0]:
                data = ready.recv(65536)
                if not data:
                    return
                ends[ready].sendall(data)


def main():
    enter_namespaces()
    report = Report()
    require_lab(report, "proxy")
    with Lab("proxy") as lab:
        mesh = Mesh(lab)
        c, p, r = lab.host("c"), lab.host("p"), lab.host("r")
        proxy = Proxy(p, mesh.server_host.address)
        c.run("nft", "table inet only {\n chain out { type filter hook output priority 0;\n"
              f"  oif lo accept; ip daddr {p.address} tcp dport {PORT} accept; drop; }}\n}}")
        source = mesh.web(5 << 20)

        def agent(url, log, *extra):
            return c.spawn(
                BIN / "inp2pc", "-serverhost", NAME, "-node", "nodeC", "-token", TOKEN, "-proxy",
                url, "-config", "config.json", "-log-level", "debug", *extra, log=log)

        def refused():
            process = agent(f"http://{p.address}:{PORT}", "refused.log", "-data", "other")
            wait_for("the proxy's word", lambda: "wants a name and a password" in process.text())
            if not process.alive():
                raise Failure("the agent has ended")
            process.terminate()

        def online():
            process = agent(
                f"http://{USER}:{PASSWORD.replace('@', '%40')}@{p.address}:{PORT}/", "inp2pc.log")
            mesh.agents["c"] = process
            mesh.wait_online(3)
            wait_for("signalling and relay leg", lambda: len(proxy.asked) >= 2)
            shown = pathlib.Path(f"/proc/{process.pid}/cmdline").read_bytes()
            if b"s3cret" in shown or "s3cret" in process.text():
                raise Failure("the proxy's password shows")

        def download():
            mesh.ztm(mesh.b, "tunnel", "open", "outbound", "tcp/web", "--targets", "127.0.0.1:8000")
            mesh.ztm(c, "tunnel", "open", "inbound", "tcp/web", "--listen", "127.0.0.1:9000")
            target = c.directory / "file"
            c.run("curl", "-s", "-m", "50", "--retry", "5", "--retry-connrefused", "-o", target,
                  "http://127.0.0.1:9000/file")
            if sha(target) != sha(source):
                raise Failure("the bytes differ")
            tier = mesh.peer(c, "nodeB")["tier"]
            if tier != "server-relay":
                raise Failure(f"{tier}, though only the proxy leads out")

        def relay():
            """Dials to it go through the proxy as well."""
            proxy.ways[f"{r.address}:{RELAY_PORT}"] = (r.address, RELAY_PORT)
            mesh.start_agent(r, "-relay", "-bw", "100")
            mesh.wait_tier(c, "nodeB", "private-relay", within=30)
            target = c.directory / "again"
            c.run("curl", "-s", "-m", "50", "-o", target, "http://127.0.0.1:9000/file")
            if sha(target) != sha(source):
                raise Failure("the bytes differ")
            if not any(f"{r.address}:{RELAY_PORT}" in line for line in proxy.asked):
                raise Failure(f"the proxy was asked for {proxy.asked}")
            tier = mesh.peer(c, "nodeB")["tier"]
            if tier != "private-relay":
                raise Failure(f"on {tier} afterwards")

        report.step("a proxy that wants a password", refused)
        if report.step("online through it, its password nowhere to be seen", online):
            report.step("5 MB through the server's relay", download)
            report.step("and through a node's relay", relay)
        if report.failed:
            lab.show_logs()
    report.finish()


if __name__ == "__main__":
    main()
