"""A server and two agents as a user would start them, with tunnels opened by
`ztm`, for the benchmarks. Everything ends with the benchmark."""
import json
import os
import pathlib
import shutil
import tempfile

import common
from common import BIN, free_ports, output_of, start, stop, wait_until

TOKEN = "12345678"


class Agent:
    def __init__(self, mesh, name, space, environment, flags=(), token=TOKEN):
        self.mesh, self.name, self.space = mesh, name, space
        api, self.port = free_ports(2)
        self.address = f"127.0.0.1:{api}"
        directory = mesh.directory / name
        directory.mkdir()
        self.log = directory / "log"
        self.command = [
            BIN / "inp2pc", "-serverhost", mesh.host, "-serverport", mesh.port, "-node", name,
             "-token", token, *mesh.stun, "-config", directory / "config.json", "-newconfig",
             "-data", directory / "data", "-listen", self.address, "-port", self.port,
             *mesh.agent_flags, *flags]
        # This machine's own router is no part of a measurement.
        self.environment = {"HOME": str(directory), "INP2P_NO_PORT_MAPPING": "true", **environment}
        self.begin()

    def begin(self):
        """Starts it, for the first time or again."""
        self.process = start(self.command, self.space, self.log, self.environment, cwd=self.log.parent)

    def end(self):
        """As by a user who stops it."""
        stop(self.process)

    def run(self, program, *words, check=True):
        return output_of(["env", f"ZTM_AGENT={self.address}", f"HOME={self.log.parent}",
                          BIN / program, *words], self.space, check=check)

    def status(self):
        try:
            return json.loads(self.run("martlet", "status", "--json"))
        except (RuntimeError, ValueError):
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with status {self.process.returncode}: "
                                   f"{self.log.read_text(errors='replace')[-800:]}") from None
            return None

    def connected(self):
        status = self.status()
        return bool(status and status["meshes"] and status["meshes"][0]["connected"])

    def peer(self, name):
        for peer in (self.status() or {}).get("peers", []):
            if peer["name"] == name:
                return peer
        return {}

    def largest_packet(self, peer):
        """Bytes of the path in use to `peer`."""
        paths = json.loads(self.run("martlet", "why", peer, "--json")).get("paths", [])
        return next((p["maximumPacket"] for p in paths if p["primary"]), 0)

    def ping(self, peer, count):
        """Round trips of the session in milliseconds."""
        answers = json.loads(self.run("martlet", "ping", peer, "-count", count, "--json"))
        return [a["rttMs"] for a in answers if "rttMs" in a]


class Mesh:
    """`tier` is what the two agents must agree on before anything is measured."""

    def __init__(self, tier="udp-direct", host="127.0.0.1", spaces=(None, None, None),
                 environment=None, agent_flags=(), tokens=()):
        """`tokens`: of further meshes on the server."""
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="martlet-bench-"))
        self.host, self.tier, self.agent_flags = host, tier, list(agent_flags)
        self.port, udp1, tcp1, tcp2 = map(str, free_ports(4))
        self.stun = ["-stun-udp1", udp1, "-stun-udp2", self.port, "-stun-tcp1", tcp1, "-stun-tcp2", tcp2]
        self.environment = environment or {}
        self.agents = []
        self.server = start(
            [BIN / "inp2ps", "-token", ",".join([TOKEN, *tokens]), "-ws-port", self.port, *self.stun,
             "-data", self.directory / "server"],
            spaces[0], self.directory / "server.log", {"HOME": str(self.directory)})
        self.a = self.agent("near", spaces[1], wait=False)
        self.b = self.agent("far", spaces[2], wait=False)
        for agent in (self.a, self.b):
            self.wait_connected(agent)

    def agent(self, name, space, *flags, token=TOKEN, wait=True):
        """One more agent, once the server has welcomed it."""
        agent = Agent(self, name, space, self.environment, flags, token)
        self.agents.append(agent)
        if wait:
            self.wait_connected(agent)
        return agent

    def wait_connected(self, agent):
        wait_until(f"{agent.name} reaches the server (see {self.directory})", agent.connected, 20)

    def settle(self, seconds=20, far=None):
        """Waits for the wanted path between the two; how long it took is not measured."""
        far = far or self.b

        def settled():
            self.a.run("martlet", "ping", far.name, "-count", "1", check=False)
            return (self.a.peer(far.name).get("tier") == self.tier
                    and far.peer("near").get("tier") == self.tier)
        try:
            wait_until("path", settled, seconds, 0.3)
        except RuntimeError:
            raise RuntimeError(
                f"no {self.tier} path within {seconds} s, but {self.a.peer(far.name).get('tier')}: "
                + self.a.run("martlet", "why", far.name, check=False)[:1500]) from None

    def tunnel(self, name, target_port, target_host="127.0.0.1", far=None):
        """Opens tcp/NAME by ztm; the port to connect to beside agent A."""
        listen = free_ports(1)[0]
        far = far or self.b
        far.run("ztm", "tunnel", "open", "outbound", f"tcp/{name}", "--targets",
                   f"{target_host}:{target_port}")
        self.a.run("ztm", "tunnel", "open", "inbound", f"tcp/{name}", "--listen",
                   f"127.0.0.1:{listen}", "--exits", far.name)
        return listen

    def close(self):
        for process in [agent.process for agent in self.agents] + [self.server]:
            stop(process)
        if not os.environ.get("KEEP"):
            shutil.rmtree(self.directory, ignore_errors=True)
