"""The quick starts of INP2P and ZTM, typed literally: one machine, one directory."""

import json
import time

from harness import BIN, Failure, Lab, Report, enter_namespaces, wait_for


def main():
    enter_namespaces()
    report = Report()
    if not Lab.available():
        report.skip("quickstart", "no network namespaces here: the ports of the quick start may be taken")
        report.finish()
    for insecure in ((), ("-insecure",)):
        with Lab("quick") as lab:
            one = lab.host("m")
            run(report, one, insecure)
    report.finish()


def run(report, m, insecure):
    title = "with -insecure" if insecure else "with TLS"
    here = m.directory
    get = lambda url: m.output("curl", "-s", "-m", "3", url)  # noqa: E731
    ztm = lambda *words, **k: m.run(BIN / "ztm", *words, **k)  # noqa: E731

    def server():
        m.spawn(BIN / "inp2ps", "-token", "12345678", "-ws-port", "27183", "-stun-udp1", "27182",
                "-stun-udp2", "27183", "-stun-tcp1", "27180", "-stun-tcp2", "27181",
                "-data", here / "server")
        health = wait_for("health", lambda: get("http://localhost:27183/api/v1/health"))
        if health != '{"status":"ok","version":"0.1.0","nodes":0}':
            raise Failure(health)

    def agents():
        for name, extra in (("nodeA", ["-relay"]), ("nodeB", [])):
            m.spawn(BIN / "inp2pc", "-serverhost", "localhost", "-serverport", "27183", "-node",
                    name, "-token", "12345678", *extra, "-config", "config.json", "-newconfig",
                    *insecure, log=f"{name}.log")
            # The second one finds the API's port taken and says which it took.
            wait_for("API", lambda: get("http://localhost:7777/api/status"))
        wait_for("both online", lambda: json.loads(
            get("http://localhost:27183/api/v1/health"))["nodes"] == 2)
        status = json.loads(wait_for("API", lambda: get("http://localhost:7777/api/status")))
        if status["status"] != "ok" or not status["meshes"][0]["connected"]:
            raise Failure(status)

    def web():
        (here / "www").mkdir()
        (here / "www" / "hello").write_text("hello from afar\n")
        m.spawn("python3", "-m", "http.server", "8080", "--bind", "127.0.0.1", "-d", here / "www")
        wait_for("web server", lambda: get("http://127.0.0.1:8080/hello"))

    def tunnel():
        table = ztm("get", "ep").stdout.decode()
        ids = {line.split()[0]: line for line in table.splitlines()[1:]}
        if set(ids) != {"nodeA", "nodeB"} or "(local)" not in ids["nodeA"]:
            raise Failure(table)
        endpoints = json.loads(get("http://localhost:7777/api/meshes/default/endpoints"))
        far = next(e["id"] for e in endpoints if e["name"] == "nodeB")
        # nodeB's API took the next free port and said so.
        other = "127.0.0.1:7778"
        near = ztm("tunnel", "open", "inbound", "my-tunnel", "--listen", "0.0.0.0:9000",
                   "--exits", far)
        if "udp is not active yet" not in near.stdout.decode():
            raise Failure(near.stdout)
        ztm("tunnel", "open", "outbound", "my-tunnel", "--targets", "127.0.0.1:8080",
            env={"ZTM_AGENT": f"http://{other}"})
        wait_for("curl through the tunnel",
                 lambda: get("http://127.0.0.1:9000/hello") == "hello from afar\n", within=5)

    def shows():
        for words, wanted in (
                (("get", "mesh"), ("NAME", "default", "nodeA", "Connected")),
                (("get", "app"), ("tunnel", "builtin, running")),
                (("tunnel", "get", "tunnel"), ("tcp/my-tunnel", "nodeA", "nodeB")),
                (("tunnel", "get", "inbound"), ("tcp/my-tunnel", "0.0.0.0:9000")),
                (("tunnel", "get", "outbound"), ("NAME", "TARGETS")),
                (("tunnel", "describe", "inbound", "tcp/my-tunnel"), ("Listens:", "0.0.0.0:9000")),
                (("tunnel", "describe", "tunnel", "tcp/my-tunnel"), ("Tunnel: tcp/my-tunnel",)),
                (("log", "app", "tunnel"), ("listening on 0.0.0.0:9000 started",)),
                (("version",), ("0.1.0",)), (("app", "install", "tunnel"), ("built in",))):
            text = ztm(*words).stdout.decode()
            for word in wanted:
                if word not in text:
                    raise Failure(f"ztm {' '.join(words)}: no {word!r} in\n{text}")
        inbound = json.loads(
            get("http://localhost:7777/api/meshes/default/apps/ztm/tunnel/api/inbound"))
        if inbound[0]["listens"][0]["port"] != 9000 or not inbound[0]["listens"][0]["open"]:
            raise Failure(inbound)

    def refusals():
        for words in (("tunnel", "close", "inbound", "nothing"),
                      ("tunnel", "open", "inbound", "x", "--listen", "0.0.0.0:9000"),
                      ("tunnel", "open", "inbound", "y", "--listen", "1.2.3.4:70000"),
                      ("tunnel", "open", "inbound", "z", "--listen", "9100", "--exits", "nobody"),
                      ("--mesh", "other", "get", "ep"), ("nonsense",)):
            result = ztm(*words, check=False)
            if result.returncode == 0 or result.stdout or b"ztm" not in result.stderr:
                raise Failure(f"ztm {' '.join(words)}: {result}")

    def app():
        path = here / "config.json"
        config = json.loads(path.read_text())
        config["apps"] = [{
            "appName": "web", "protocol": "tcp", "srcPort": 9300, "peerNode": "nodeB",
            "dstHost": "localhost", "dstPort": 8080, "whitelist": "127.0.0.1", "enabled": True}]
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(config))
        beside.rename(path)
        wait_for("curl through the app",
                 lambda: get("http://127.0.0.1:9300/hello") == "hello from afar\n", within=6)
        # Half-written: the running apps stay.
        path.write_text('{"apps":[{"appName":')
        time.sleep(1.5)
        if get("http://127.0.0.1:9300/hello") != "hello from afar\n":
            raise Failure("a broken file stopped a running app")

    def close():
        ztm("tunnel", "close", "inbound", "my-tunnel")
        if m.run("curl", "-s", "-m", "2", "http://127.0.0.1:9000/", check=False).returncode == 0:
            raise Failure("a closed tunnel still answers")

    report.step(f"{title}: server as typed", server)
    report.step(f"{title}: two agents in one directory", agents)
    web()
    report.step(f"{title}: a tunnel by ztm, curl through it", tunnel)
    report.step(f"{title}: what ztm shows", shows)
    report.step(f"{title}: what ztm refuses", refusals)
    report.step(f"{title}: an app in config.json, live", app)
    report.step(f"{title}: the tunnel is closed", close)


if __name__ == "__main__":
    main()
