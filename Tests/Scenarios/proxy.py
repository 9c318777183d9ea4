"""A network that lets nothing out but an HTTP proxy: the agent reaches a server
whose name only the proxy knows, and carries a tunnel through its relay."""

import base64
import pathlib
import select

from harness import BIN, Failure, Lab, Report, enter_namespaces, require_lab, wait_for
from mesh import TOKEN, Mesh, sha

NAME, PORT = "server.inside", 3128
USER, PASSWORD = "ann", "s3cret@home"


class Proxy:
    """CONNECT and nothing else, for those who know the password."""

    def __init__(self, host, server):
        self.host, self.server, self.asked = host, server, []
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
        if lines[0] != f"CONNECT {NAME}:27183 HTTP/1.1":
            sock.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            return
        far = self.host.socket()
        far.connect((self.server, 27183))
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
        c, p = lab.host("c"), lab.host("p")
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

        report.step("a proxy that wants a password", refused)
        if report.step("online through it, its password nowhere to be seen", online):
            report.step("5 MB through the server's relay", download)
        if report.failed:
            lab.show_logs()
    report.finish()


if __name__ == "__main__":
    main()
