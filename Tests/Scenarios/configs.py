"""Files, ports and flags that are not as they should be."""

import json
import os
import socket

from harness import BIN, Failure, Lab, Report, wait_for


class Loopback(Lab):
    """No namespaces: only programs that start and stop on this machine."""

    @staticmethod
    def available():
        return False


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def main():
    report = Report()
    with Loopback("configs") as lab:
        m = lab.host("m")
        here = m.directory
        agent = [BIN / "inp2pc", "-serverhost", "127.0.0.1", "-serverport", "1", "-node", "n",
                 "-token", "5"]

        def expect(status, words, *arguments, env=None):
            result = m.run(*arguments, check=False, timeout=15, env=env)
            text = (result.stdout + result.stderr).decode()
            if result.returncode != status or words not in text:
                raise Failure(f"{arguments}: status {result.returncode}\n{text}")

        def flags():
            for arguments in (["-token", "abc"], ["-token", "-1"], [], ["-token"],
                              ["-token", "18446744073709551616"], ["-nonsense"],
                              ["-token", "1", "-ws-port", "65536"],
                              ["-token", "1", "-ws-port", ""]):
                result = m.run(BIN / "inp2ps", *arguments, check=False)
                if result.returncode != 2 or result.stdout or b"-token" not in result.stderr:
                    raise Failure(f"inp2ps {arguments}: {result}")
            expect(0, "-ws-port", BIN / "inp2ps", "-h")
            expect(2, "-serverhost", BIN / "inp2pc", "-node", "x", "-token", "1")
            expect(0, "13333283586479230977", BIN / "martlet", "token", "1234", "56789")

        def ports():
            with socket.socket() as taken:
                taken.bind(("127.0.0.1", 0))
                taken.listen()
                port = taken.getsockname()[1]
                expect(1, f"-listen 127.0.0.1:{port}", *agent, "-config", "c1.json", "-listen",
                       f"127.0.0.1:{port}")
            with socket.socket(socket.AF_INET6) as taken:
                taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                taken.bind(("::", 0))
                taken.listen()
                port = taken.getsockname()[1]
                expect(1, f"-ws-port {port}", BIN / "inp2ps", "-token", "1", "-ws-port", port,
                       "-data", here / "sd")

        def files():
            (here / "broken.json").write_text('{"network":{"node":')
            expect(2, "broken.json", *agent, "-config", "broken.json")
            if (here / "broken.json").read_text() != '{"network":{"node":':
                raise Failure("a broken file was changed")
            (here / "dir.json").mkdir()
            expect(1, "dir.json", *agent, "-config", "dir.json")

        def saved():
            port = free_port()
            process = m.spawn(*agent, "-config", "sub/new.json", "-newconfig", "-listen",
                              f"127.0.0.1:{port}", log="a.log")
            wait_for("config", lambda: (here / "sub" / "new.json").exists())
            config = json.loads((here / "sub" / "new.json").read_text())
            if config["network"]["node"] != "n" or os.stat(here / "sub/new.json").st_mode & 0o77:
                raise Failure(config)
            state = here / "sub" / ".inp2p" / "n"
            wait_for("state", lambda: (state / "state.json").exists())
            if os.stat(state).st_mode & 0o77 or os.stat(state / "state.json").st_mode & 0o77:
                raise Failure("the state can be read by others")
            expect(1, "another agent", *agent, "-config", "sub/new.json", "-listen",
                   f"127.0.0.1:{free_port()}")
            if process.terminate() != 0:
                raise Failure("SIGTERM: exit status is not 0")

        def server_stops():
            port = free_port()
            process = m.spawn(BIN / "inp2ps", "-token", "1", "-ws-port", port, "-data",
                              here / "server")
            wait_for("health", lambda: m.run(
                "curl", "-s", "-m", "1", f"http://127.0.0.1:{port}/api/v1/health",
                check=False).returncode == 0)
            expect(1, "another server", BIN / "inp2ps", "-token", "1", "-ws-port", free_port(),
                   "-data", here / "server")
            if process.terminate() != 0:
                raise Failure("SIGTERM: exit status is not 0")

        report.step("flags that are wrong", flags)
        report.step("ports in use are named", ports)
        report.step("files that cannot be used stay as they are", files)
        report.step("what is written, where, and for whom", saved)
        report.step("one server per state directory; SIGTERM ends it well", server_stops)
    report.finish()


if __name__ == "__main__":
    main()
