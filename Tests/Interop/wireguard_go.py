"""wireguard-go against an agent: who initiates, and both at once; 260 s each, so
that at least two rekeys pass. Needs root, wireguard-go and wireguard-tools.

    python3 Tests/Interop/wireguard_go.py [SECONDS]
"""

import pathlib
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "Scenarios"))
from harness import BIN, Failure, Lab, Report, enter_namespaces, wait_for  # noqa: E402

SECONDS = int(sys.argv[1]) if len(sys.argv) > 1 else 260


def handshake(host, device):
    text = host.output("wg", "show", device, "latest-handshakes")
    return int(text.split()[-1]) if text.split() else 0


def run(lab, mode):
    """mode: "ours", "theirs" or "both" initiate."""
    agent, stock = lab.host("a"), lab.host("w")
    # Control sockets are files: the names differ though the namespaces do, too.
    device = f"wg-{mode}"
    agent.spawn(BIN / "inp2ps", "-token", "77", "-ws-port", "27183", "-data", agent.directory / "s")
    agent.spawn(
        BIN / "inp2pc", "-serverhost", "127.0.0.1", "-node", "a", "-token", "77", "-insecure",
        "-newconfig", "-port", "4500", "-log-level", "debug")
    wait_for("agent", lambda: agent.json(BIN / "martlet", "wg", "key", "-json"))
    key = agent.json(BIN / "martlet", "wg", "key", "-json")["publicKey"]
    private = stock.output("wg", "genkey").strip()
    (stock.directory / "key").write_text(private)
    public = stock.output("sh", "-c", "wg pubkey < key").strip()
    stock.spawn("wireguard-go", "-f", device, env={"LOG_LEVEL": "error"})
    wait_for(device, lambda: stock.run("ip", "link", "show", device, check=False).returncode == 0)
    stock.run("ip", "addr", "add", "10.99.0.2/24", "dev", device)
    stock.run("ip", "link", "set", device, "up")
    peer = ["peer", key, "allowed-ips", "10.99.0.0/24"]
    if mode in ("theirs", "both"):
        peer += ["endpoint", f"{agent.address}:4500", "persistent-keepalive", "25"]
    stock.run("wg", "set", device, "private-key", "key", "listen-port", "51820", *peer)
    ours = ["-endpoint", f"{stock.address}:51820"] if mode in ("ours", "both") else []
    agent.run(BIN / "martlet", "wg", "add", *ours, "stock", public)
    started = time.monotonic()
    wait_for(f"{mode}: first handshake", lambda: handshake(stock, device) > 0, within=15)
    first = time.monotonic() - started
    if mode == "ours":
        stock.run("wg", "set", device, "peer", key, "persistent-keepalive", "25")
    seen = set()
    while time.monotonic() - started < SECONDS:
        seen.add(handshake(stock, device))
        # Inner packets are counted and dropped until the virtual network exists.
        stock.run("ping", "-c", "1", "-W", "1", "10.99.0.1", check=False)
        time.sleep(1)
    age = time.time() - handshake(stock, device)
    if age > 150:
        raise Failure(f"{mode}: the last handshake is {age:.0f} s old")
    if SECONDS >= 250 and len(seen) < 3:
        raise Failure(f"{mode}: only {len(seen) - 1} rekeys")
    transfer = stock.output("wg", "show", device, "transfer").split()
    return (f"first handshake after {first:.1f} s, {len(seen) - 1} rekeys, "
            f"received {transfer[1]} bytes, sent {transfer[2]}")


def main():
    enter_namespaces()
    report = Report()
    if not Lab.available():
        report.skip("wireguard-go", "no network namespaces here")
        report.finish()
    threads = []
    for mode in ("ours", "theirs", "both"):
        def work(mode=mode):
            with Lab(f"wg-{mode}") as lab:
                report.step(f"wireguard-go, {mode} initiate", lambda: run(lab, mode))
        threads.append(threading.Thread(target=work))
        threads[-1].start()
        time.sleep(0.5)
    for thread in threads:
        thread.join()
    report.finish()


if __name__ == "__main__":
    main()
