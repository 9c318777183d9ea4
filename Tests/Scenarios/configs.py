"""Flags, configuration files, ports and directories as people get them wrong:
every refusal has its words and its status, and no file of theirs is harmed.
"""

import json
import re
import signal
import socket
import subprocess
import time

from harness import BIN, Failure, Lab, Report, enter_namespaces, require_lab, wait_for

TOKEN = "83746510293847"
BAD_NUMBERS = ("", "abc", "-1", "18446744073709551616", "1.5", "0x10", " 1")
BAD_PORTS = ("", "http", "-1", "65536", "99999999999999999999", "27183x")
BAD_TOKENS = BAD_NUMBERS
PORT_FLAG = re.compile(r"^  -([a-z0-9-]+) PORT ", re.M)


# A second server on the machine, all of it elsewhere.
SECOND_PORTS = ("-ws-port", "27283", "-stun-udp1", "27282", "-stun-udp2", "27283",
                "-stun-tcp1", "27280", "-stun-tcp2", "27281")


class Configs:
    def __init__(self, lab):
        self.lab = lab
        self.box = lab.host("box")
        self.server = self.start_server("state")
        self.count = 0

    def start_server(self, state, *more):
        process = self.box.spawn(
            BIN / "inp2ps", "-token", TOKEN, "-data", state, *more, log=f"inp2ps-{state}.log")
        wait_for("the server", lambda: self.nodes() is not None)
        return process

    def nodes(self):
        return self.box.json(
            "curl", "-sf", "-m", "2", "http://127.0.0.1:27183/api/v1/health")["nodes"]

    def home(self):
        self.count += 1
        directory = self.box.directory / f"home{self.count}"
        directory.mkdir()
        return directory

    def node(self, home):
        return f"node-{home.name}"

    def words(self, home):
        """Names belong to keys: each home has a name of its own."""
        return ("-serverhost", "127.0.0.1", "-node", self.node(home), "-token", TOKEN)

    def agent(self, home, *more, flags=True, prefix=(), **keywords):
        words = self.words(home) if flags else ()
        return self.box.spawn(
            *prefix, BIN / "inp2pc", *words, *more, cwd=home, log=home / "log", **keywords)

    def online(self, process, home):
        def there():
            if not process.alive():
                raise Failure(f"ended with {process.popen.returncode}: {process.text()}")
            return "connected to" in process.text()

        try:
            wait_for("the agent online", there, 10)
        except Failure as failure:
            raise Failure(f"{failure}\n{process.text()}") from None

    def refused(self, status, words, *arguments, cwd=None, env=None):
        """The program must end at once, say `words` on stderr and nothing else."""
        try:
            result = self.box.run(*arguments, check=False, timeout=8, cwd=cwd, env=env)
        except subprocess.TimeoutExpired as runs:
            raise Failure(f"{arguments[0].name} {arguments[1:]} runs: {runs.stderr}") from None
        said = result.stderr.decode(errors="replace")
        if result.returncode != status or result.stdout:
            raise Failure(
                f"{arguments}: status {result.returncode}, not {status}; {said} {result.stdout}")
        for word in words:
            if word not in said:
                raise Failure(f"{arguments}: {word!r} is not in {said!r}")
        return said

    def alone(self, step):
        """Whatever happens, the next step finds no agent of this one."""
        before = len(self.lab.processes)
        try:
            return step()
        finally:
            for process in self.lab.processes[before:]:
                if process is not self.server and process.alive():
                    process.terminate()

    # Flags

    def token_flags(self):
        host = ("-serverhost", "127.0.0.1", "-node", "x")
        for program, rest in (("inp2ps", ("-data", "never")), ("inp2pc", host)):
            self.refused(2, ["-token", "Usage"], BIN / program, *rest)
            self.refused(2, ["token"], BIN / program, *rest, "-token")
            for value in BAD_TOKENS:
                self.refused(2, ["-token", "Usage"], BIN / program, *rest, f"-token={value}")
                self.refused(2, ["-token"], BIN / program, *rest, "-token", value)
                if value:
                    said = self.refused(
                        2, ["INP2P_TOKEN"], BIN / program, *rest, env={"INP2P_TOKEN": value})
                    if value in said.split("\n")[0] and len(value) > 3:
                        raise Failure(f"a mistyped token is repeated: {said.splitlines()[0]}")
        if (self.box.directory / "never").exists():
            raise Failure("a refused server made its directory")
        for value in ("0", "18446744073709551615"):
            process = self.agent(
                self.home(), "-serverhost", "127.0.0.1", "-node", "x", "-token", value, flags=False)
            wait_for("a token at the edge is taken", lambda: "refused" in process.text())
            process.terminate()

    def port_flags(self):
        count = 0
        for program, rest in (
                ("inp2ps", ("-token", "1", "-data", "never")),
                ("inp2pc", ("-serverhost", "h", "-node", "x", "-token", "1"))):
            usage = self.box.output(BIN / program, "-h")
            flags = PORT_FLAG.findall(usage)
            if len(flags) < 5:
                raise Failure(f"-h names only {flags}")
            for flag in flags:
                for value in BAD_PORTS:
                    self.refused(
                        2, [f"-{flag}", "Usage"], BIN / program, *rest, f"-{flag}", value)
                    count += 1
                self.refused(2, [flag], BIN / program, *rest, f"--{flag}")
            self.refused(2, ["nonsense"], BIN / program, *rest, "-nonsense")
            self.refused(2, ["word"], BIN / program, *rest, "word")
        return f"{count} bad values"

    def other_flags(self):
        rest = ("-serverhost", "h", "-node", "x", "-token", "1")
        for flag, value in (("-insecure=maybe", None), ("-log-level", "loud"), ("-bw", "-1"),
                            ("-bw", "much"), ("-allow", "everything"), ("-listen", "nowhere"),
                            ("-listen", "127.0.0.1:65536"), ("-node", ""), ("-serverhost", ""),
                            ("-proxy", "socks://x")):
            words = [flag] if value is None else [flag, value]
            self.refused(2, [flag.split("=")[0]], BIN / "inp2pc", *rest, *words)
        for program in ("inp2ps", "inp2pc", "martlet"):
            version = self.box.run(BIN / program, "-version" if program != "martlet" else "version")
            if not re.search(r"\d+\.\d+\.\d+", version.stdout.decode()):
                raise Failure(f"{program} -version: {version.stdout}")
        for spelling in (("--serverhost", "127.0.0.1", "--node=n1", f"-token={TOKEN}",
                          "--insecure=false", "-relay=true"),):
            home = self.home()
            process = self.agent(home, *spelling, flags=False)
            self.online(process, home)
            process.terminate()

    # config.json

    def missing(self):
        """Created when missing, 0600; enough by itself afterwards."""
        home = self.home()
        process = self.agent(home, "-config", "sub/c.json")
        self.online(process, home)
        process.terminate()
        path = home / "sub" / "c.json"
        if not (home / "sub" / ".inp2p" / self.node(home)).is_dir():
            raise Failure("the state is not beside the configuration")
        if path.stat().st_mode & 0o777 != 0o600:
            raise Failure(f"mode {path.stat().st_mode:o}")
        before = path.read_bytes()
        if [name.name for name in (home / "sub").iterdir() if "c.json" in name.name] != ["c.json"]:
            raise Failure(f"something is left beside it: {list(home.iterdir())}")
        process = self.agent(home, "-config", "sub/c.json", flags=False)
        self.online(process, home)
        process.terminate()
        if path.read_bytes() != before:
            raise Failure("a second start changed the file")

    def damaged(self):
        whole = json.dumps({"network": {
            "token": int(TOKEN), "node": "node", "serverHost": "127.0.0.1"}, "apps": []}).encode()
        home = self.home()
        path = home / "config.json"
        for cut in (1, len(whole) // 2, len(whole) - 1, 0):
            path.write_bytes(whole[:cut])
            self.refused(2, ["config.json"], BIN / "inp2pc", cwd=home)
            if path.read_bytes() != whole[:cut]:
                raise Failure("the damaged file was changed")
        for content, word in (
                (b'{"network":{"token":"abc"}}', "token"),
                (b'{"network":{"serverPort":70000}}', "serverPort"),
                (b'{"network":[]}', "network"), (b"[]", "config.json"), (b"\xff\xfe", "config.json"),
                (b'{"apps":[{"srcPort":1}]}', "app"),
                (b"[" * 100_000, "config.json"), (b"\0" * 5_000_000, "config.json")):
            path.write_bytes(content)
            result = self.box.run(
                BIN / "inp2pc", "-serverhost", "127.0.0.1", *(
                    () if word == "token" else ("-token", TOKEN)), "-node", "n",
                check=False, cwd=home, timeout=10)
            said = result.stderr.decode(errors="replace")
            if result.returncode not in (1, 2) or word.lower() not in said.lower():
                raise Failure(f"{content[:60]}: status {result.returncode}, {said[:300]}")
            if TOKEN in said:
                raise Failure("the token is said")
            if path.read_bytes() != content:
                raise Failure("the damaged file was changed")

    def unreadable(self):
        home = self.home()
        (home / "config.json").mkdir()
        self.refused(1, ["config.json"], BIN / "inp2pc", "-serverhost", "h", "-node", "n",
                     "-token", "1", cwd=home)

    def foreign(self):
        """Keys in any case, a token as text, unknown keys: OpenP2P files load."""
        home = self.home()
        content = json.dumps({
            "Network": {"Token": TOKEN, "Node": "foreign", "ServerHost": "127.0.0.1",
                        "ServerPort": 27183, "UDPPort1": 27182, "User": "x"},
            "Apps": None, "LogLevel": 1, "Unknown": {"a": [1]}}).encode()
        (home / "config.json").write_bytes(content)
        process = self.agent(home, flags=False)
        self.online(process, home)
        process.terminate()
        if (home / "config.json").read_bytes() != content:
            raise Failure("the file was changed")

    def read_only(self):
        """The old file stays byte for byte; the agent says so and runs."""
        home = self.home()
        old = b'{"network":{"node":"old"},  "apps":[]}\n'
        (home / "config.json").write_bytes(old)
        script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && cd "$0" && exec "$@"'
        log = self.box.directory / "read-only.log"
        process = self.box.spawn(
            "sh", "-c", script, home, BIN / "inp2pc", "-serverhost", "127.0.0.1", "-node", "ro",
            "-token", TOKEN, "-newconfig", log=log)
        self.online(process, home)
        said = process.text()
        if process.terminate() != 0:
            raise Failure("SIGTERM: status not 0")
        if (home / "config.json").read_bytes() != old or len(list(home.iterdir())) != 1:
            raise Failure("the read-only directory was changed")
        if "config.json cannot be written" not in said or "memory" not in said:
            raise Failure(f"it does not say so: {said}")

    def edited_badly(self):
        """A half-written file while running: the apps stay; then a good one counts."""
        home = self.home()
        process = self.agent(home)
        self.online(process, home)
        path = home / "config.json"
        good = json.loads(path.read_text())
        app = {"appName": "a", "protocol": "tcp", "srcPort": 9401, "peerNode": "far",
               "dstHost": "127.0.0.1", "dstPort": 1}
        good["apps"] = [app]
        path.write_text(json.dumps(good))
        wait_for("the app's port", lambda: self.listens(9401))
        path.write_text("")
        time.sleep(1.2)
        path.write_text(json.dumps(good)[:-20])
        wait_for("a word about it", lambda: "the running apps stay" in process.text())
        if not self.listens(9401):
            raise Failure("the running app was dropped")
        good["apps"] = [app, dict(app, srcPort=9401, appName="b")]
        path.write_text(json.dumps(good))
        time.sleep(1.3)
        if not self.listens(9401) or not process.alive():
            raise Failure("two apps on one port ended the first")
        good["apps"] = [dict(app, srcPort=9402)]
        path.write_text(json.dumps(good))
        wait_for("the new app's port", lambda: self.listens(9402))
        wait_for("the old app's port closed", lambda: not self.listens(9401))
        path.unlink()
        time.sleep(1.2)
        if not self.listens(9402):
            raise Failure("a removed file took the apps away")
        process.terminate()

    def listens(self, port):
        try:
            self.box.connect(port).close()
        except ConnectionRefusedError:
            return False
        except ConnectionResetError:
            pass  # accepted, and then there was no peer
        return True

    # State

    def state(self):
        home = self.home()
        process = self.agent(home)
        self.online(process, home)
        self.refused(
            1, ["another agent", "-data", str(process.pid)], BIN / "inp2pc",
            *self.words(home), cwd=home)
        process.kill()
        process = self.agent(home)
        self.online(process, home)
        process.terminate()
        path = home / ".inp2p" / self.node(home) / "state.json"
        good = path.read_bytes()
        if path.stat().st_mode & 0o077 or path.parent.stat().st_mode & 0o077:
            raise Failure("the state is open to others")
        for content in (good[:len(good) // 2], b"", b"[]", b"null", b'{"key":"00"}'):
            path.write_bytes(content)
            self.refused(
                1, ["state.json", "left as it is"], BIN / "inp2pc", *self.words(home), cwd=home)
            if path.read_bytes() != content:
                raise Failure("the damaged state was changed")
        path.write_bytes(good)
        process = self.agent(home)
        self.online(process, home)
        process.terminate()

    def server_state(self):
        self.refused(
            1, ["another server", "-data"], BIN / "inp2ps", "-token", TOKEN, "-data", "state",
            "-ws-port", "27283")
        broken = self.box.directory / "broken"
        broken.mkdir()
        (broken / "server.db").write_bytes(b"this is no database" * 100)
        self.refused(
            1, ["server.db"], BIN / "inp2ps", "-token", TOKEN, "-data", "broken", "-ws-port",
            "27283")
        if (broken / "server.db").read_bytes() != b"this is no database" * 100:
            raise Failure("the damaged database was changed")

    # Ports

    def ports(self):
        self.refused(
            1, ["-ws-port", "27183"], BIN / "inp2ps", "-token", TOKEN, "-data", "other")
        for at, flag in enumerate(("-stun-udp1", "-stun-udp2", "-stun-tcp1", "-stun-tcp2")):
            port = {"-stun-udp1": "27182", "-stun-udp2": "27183", "-stun-tcp1": "27180",
                    "-stun-tcp2": "27181"}[flag]
            ports = list(SECOND_PORTS)
            ports[3 + 2 * at] = port
            self.refused(1, [flag, port], BIN / "inp2ps", "-token", TOKEN, "-data", "other", *ports)
        taken = self.box.listen(7901)
        udp = self.box.socket(socket.SOCK_DGRAM)
        udp.bind(("0.0.0.0", 7902))
        rest = ("-serverhost", "127.0.0.1", "-node", "p", "-token", TOKEN)
        self.refused(1, ["-listen", "7901"], BIN / "inp2pc", *rest, "-listen", "127.0.0.1:7901",
                     cwd=self.home())
        self.refused(1, ["-port", "7902"], BIN / "inp2pc", *rest, "-port", "7902",
                     cwd=self.home())
        taken.close()
        udp.close()

    def next_port(self):
        """Not given and taken: the next free one, said, and kept."""
        taken = self.box.listen(7777)
        home = self.home()
        process = self.agent(home)
        self.online(process, home)
        if "127.0.0.1:7778" not in process.text():
            raise Failure(f"it does not say 127.0.0.1:7778: {process.text()}")
        udp = self.wireguard_port(7778)
        process.terminate()
        taken.close()
        process = self.agent(home)
        self.online(process, home)
        if not self.listens(7778) or self.wireguard_port(7778) != udp:
            raise Failure("the ports were not kept")
        process.terminate()

    def wireguard_port(self, api):
        return json.loads(
            self.box.output("curl", "-sf", f"http://127.0.0.1:{api}/api/wg"))["port"]

    # Signals

    def signals(self):
        home = self.home()
        for number in (signal.SIGTERM, signal.SIGINT):
            process = self.agent(home)
            self.online(process, home)
            process.popen.send_signal(number)
            if (status := process.popen.wait(5)) != 0:
                raise Failure(f"agent, signal {number}: status {status}")
        # Also while the server cannot be reached, and hung up on (SIGHUP ends it at most).
        process = self.agent(home, "-serverport", "1")
        wait_for("it says that nothing answers", lambda: "server" in process.text())
        if process.terminate(5) != 0:
            raise Failure("agent without a server: status not 0")
        server = self.box.spawn(
            BIN / "inp2ps", "-token", "5", "-data", "second", *SECOND_PORTS, log="second.log")
        wait_for("a second server", lambda: self.listens(27283))
        idle = self.box.connect(27283)
        server.popen.send_signal(signal.SIGINT)
        if server.popen.wait(5) != 0:
            raise Failure("server, SIGINT: status not 0")
        idle.close()
        if self.server.terminate(5) != 0:
            raise Failure("server, SIGTERM: status not 0")
        self.server = self.start_server("state")

    def secret(self):
        """The token is in no process list, however it was spelled."""
        for spelling in (("-token", TOKEN), (f"-token={TOKEN}",), (f"--token={TOKEN}",)):
            home = self.home()
            process = self.agent(
                home, "-serverhost", "127.0.0.1", "-node", self.node(home), *spelling, flags=False)
            self.online(process, home)
            words = open(f"/proc/{process.pid}/cmdline", "rb").read()
            if TOKEN.encode() in words:
                raise Failure(f"{words}")
            if TOKEN in process.text():
                raise Failure("the token is in the log")
            process.terminate()
        home = self.home()
        process = self.agent(
            home, "-serverhost", "127.0.0.1", "-node", "s2", flags=False,
            env={"INP2P_TOKEN": TOKEN})
        self.online(process, home)
        process.terminate()
        if TOKEN in (home / "config.json").read_text():
            raise Failure("a token of the environment was written to config.json")


def main():
    enter_namespaces()
    report = Report()
    require_lab(report, "configs")
    with Lab("configs") as lab:
        configs = Configs(lab)
        for name, step in (
                ("tokens, good and bad", configs.token_flags),
                ("ports, good and bad", configs.port_flags),
                ("other flags", configs.other_flags),
                ("a missing file is made", configs.missing),
                ("a damaged file is refused and kept", configs.damaged),
                ("a file that cannot be read", configs.unreadable),
                ("a file of another program", configs.foreign),
                ("a read-only directory stays as it is", configs.read_only),
                ("a file edited badly while the agent runs", configs.edited_badly),
                ("state: one process, and damage is refused", configs.state),
                ("the server's state", configs.server_state),
                ("ports in use", configs.ports),
                ("the next free port, kept", configs.next_port),
                ("signals end with status 0", configs.signals),
                ("the token stays secret", configs.secret)):
            report.step(f"configs: {name}", lambda: configs.alone(step))
    report.finish()


if __name__ == "__main__":
    main()
