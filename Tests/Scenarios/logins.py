"""Who may come in: tokens, names, keys, clocks; and that the token stays secret."""

import shutil
import time

from harness import BIN, Failure, Lab, Report, enter_namespaces, wait_for
from mesh import TOKEN, Mesh


def main():
    enter_namespaces()
    report = Report()
    if not Lab.available():
        report.skip("logins", "no network namespaces here")
        report.finish()
    with Lab("logins") as lab:
        mesh = Mesh(lab)
        c = lab.host("c")
        server = mesh.server_host.address

        def agent(host, name, token, *extra, log="other.log", wrap=(), env=None):
            return host.spawn(
                *wrap, BIN / "inp2pc", "-serverhost", server, "-node", name, "-token", token,
                "-config", host.directory / f"{log}.json", "-listen",
                f"127.0.0.1:{agent.port}", "-log-level", "debug", *extra, log=log, env=env)
        agent.port = 7800

        def attempt(name, token, words, log):
            agent.port += 1
            process = agent(c, name, token, log=log)
            wait_for(f"refusal with {words!r}", lambda: words in process.text(), within=15)
            if not process.alive():
                raise Failure("a refused login ended the agent")
            process.terminate()

        def wrong_token():
            attempt("nodeX", "999", "does not accept this token", "wrong.log")
            if mesh.health()["nodes"] != 2:
                raise Failure("a node too many")

        def five_wrong():
            for index in range(5):
                agent.port += 1
                process = agent(c, f"nodeX{index}", str(1000 + index), log=f"wrong{index}.log")
                wait_for("refusal", lambda: "login refused" in process.text(), within=15)
                process.terminate()
            attempt("nodeX", "999", "too many failed logins", "throttled.log")

        def other_key():
            attempt("nodeA", TOKEN, "martlet server forget nodeA", "taken.log")

        def same_key():
            agent.port += 1
            state = c.directory / "copy"
            shutil.copytree(mesh.a.directory / ".inp2p" / "nodeA", state)
            (state / "lock").unlink()
            process = agent(c, "nodeA", TOKEN, "-data", state, log="copy.log")
            wait_for("the newer session", lambda: "connected to" in process.text())
            wait_for("the older is told", lambda: "took over" in mesh.agents["a"].text())
            process.terminate()
            wait_for("the older is back", lambda: mesh.health()["nodes"] == 2, within=12)

        def forgotten():
            mesh.agents["a"].terminate()
            mesh.server_host.run(
                BIN / "martlet", "server", "forget", "nodeA", "-data",
                mesh.server_host.directory / "state")
            agent.port += 1
            process = agent(c, "nodeA", TOKEN, log="heir.log")
            wait_for("the name is free", lambda: "connected to" in process.text())
            process.terminate()
            mesh.server_host.run(
                BIN / "martlet", "server", "forget", "nodeA", "-data",
                mesh.server_host.directory / "state")
            mesh.start_agent(mesh.a)
            mesh.wait_online(2)

        def wrong_clock():
            mesh.agents["b"].terminate()
            mesh.start_agent(
                mesh.b, wrap=("faketime", "-f", "-10y"), env={"FAKETIME_DONT_FAKE_MONOTONIC": "1"})
            mesh.wait_online(2)
            started = time.monotonic()
            wait_for("a session", lambda: mesh.a.run(
                BIN / "martlet", "ping", "-count", "1", "nodeB", check=False).returncode == 0,
                within=10)
            return f"session after {time.monotonic() - started:.1f} s"

        def secrets():
            mesh.agents["b"].terminate()  # its process is faketime's
            mesh.start_agent(mesh.b)
            mesh.wait_online(2)
            for process in [mesh.server, *mesh.agents.values()]:
                if TOKEN in process.text():
                    raise Failure(f"the token is in {process.log}")
                if process.alive():
                    words = open(f"/proc/{process.pid}/cmdline", "rb").read()
                    if TOKEN.encode() in words:
                        raise Failure(f"the token is in the process list: {words}")

        report.step("a wrong token is refused, and the agent stays", wrong_token)
        report.step("a name of another key is refused, and the way out is named", other_key)
        report.step("the same key again replaces the older session", same_key)
        report.step("a forgotten name is free", forgotten)
        report.step("a clock ten years back", wrong_clock)
        report.step("the token is in no log and no process list", secrets)
        report.step("five wrong tokens are followed by a delay", five_wrong)
        if report.failed:
            lab.show_logs()
    report.finish()


if __name__ == "__main__":
    main()
