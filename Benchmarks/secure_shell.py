"""sshd and ssh with keys that live as long as the benchmark. No benchmark by itself."""
import os
import pathlib
import signal
import subprocess
import tempfile
import threading
import time

from common import output_of, start, stop, wait_until


class SecureShell:
    """An sshd in `space` that lets its own key in and nothing else."""

    def __init__(self, space, port):
        if not os.path.exists("/usr/sbin/sshd"):
            raise RuntimeError("no sshd (Debian package openssh-server)")
        self.space, self.port = space, port
        self.scratch = tempfile.TemporaryDirectory(prefix="martlet-ssh-")
        self.directory = pathlib.Path(self.scratch.name)
        for key in ("host", "user"):
            output_of(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.directory / key])
        (self.directory / "config").write_text(
            f"Port {port}\nHostKey {self.directory}/host\nPidFile none\n"
            f"AuthorizedKeysFile {self.directory}/user.pub\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nPermitRootLogin yes\n")
        os.makedirs("/run/sshd", exist_ok=True)
        start(["/usr/sbin/sshd", "-D", "-e", "-f", self.directory / "config"], space,
              self.directory / "sshd.log")
        wait_until("sshd", lambda: f":{port} " in output_of(["ss", "-Hltn"], space), 10)
        self.user = output_of(["id", "-un"]).strip()

    def client(self, host, port, *words):
        """The command of an ssh that trusts this server."""
        return ["ssh", "-F", "none", "-p", port, "-i", self.directory / "user", "-o", "IdentitiesOnly=yes",
                "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o",
                "BatchMode=yes", "-o", "LogLevel=ERROR", *words, f"{self.user}@{host}"]

    def forward(self, space, host, forwards, cipher):
        """`ssh -L` with `forwards` (local port, port beside sshd), once it listens."""
        words = ["-N", "-o", "ExitOnForwardFailure=yes", "-c", cipher]
        for local, there in forwards:
            words += ["-L", f"127.0.0.1:{local}:127.0.0.1:{there}"]
        log = self.directory / f"ssh-{forwards[0][0]}.log"
        start(self.client(host, self.port, *words), space, log)
        try:
            wait_until("ssh", lambda: f":{forwards[-1][0]} " in output_of(["ss", "-Hltn"], space), 15)
        except RuntimeError:
            raise RuntimeError(f"ssh: {log.read_text()[-300:]} sshd: "
                               f"{(self.directory / 'sshd.log').read_text()[-300:]}") from None


class Typist:
    """Somebody who types into an ssh session: a character, its echo, the next one PAUSE
    later; `times` has when each was typed and how many seconds its echo took."""

    PAUSE = 0.1

    def __init__(self, shell, space, host, port):
        self.process = start(
            shell.client(host, port, "-tt") + ["stty raw -echo && echo ready && exec cat"], space,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)
        line = self.process.stdout.readline()
        if line.strip() != b"ready":
            raise RuntimeError(f"ssh: {line.decode(errors='replace').strip()}")
        self.times, self.failure, self.running = [], None, True
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        number = 0
        while self.running:
            letter = bytes([97 + number % 26])
            number += 1
            typed = time.monotonic()
            try:
                self.process.stdin.write(letter)
                echo = self.process.stdout.read(1)
            except (OSError, ValueError) as failure:
                echo, self.failure = None, str(failure)
            if echo != letter:
                self.failure = self.failure or f"typed {letter!r}, came {echo!r}"
                return
            self.times.append((typed, time.monotonic() - typed))
            time.sleep(self.PAUSE)

    def end(self, patience=30):
        """Stops typing; what went wrong, or None."""
        self.running = False
        self.thread.join(patience)
        if self.thread.is_alive():
            self.failure = f"no echo for {patience} s"
        stop(self.process, signal.SIGKILL)
        return self.failure
