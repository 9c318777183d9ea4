"""Records packets into a pcap file until SIGTERM; not a scenario.

  capture.py INTERFACE|any FILE [UDP-PORT]

In place of tcpdump: that gives up its rights before it opens the file, which a user
namespace with one user (`unshare -Urnm`) refuses, and it keeps packets back for a
second. With a port only UDP over IPv4 to that port is kept.
"""
import signal
import socket
import struct
import sys
import time

ALL, SNAP = 3, 65_535  # ETH_P_ALL


def wanted(frame, port):
    if port is None:
        return True
    if len(frame) < 42 or frame[12:14] != b"\x08\x00" or frame[23] != 17:
        return False
    head = 14 + (frame[14] & 15) * 4
    return frame[head + 2:head + 4] == struct.pack("!H", port)


def main():
    if len(sys.argv) < 3:  # `make test` starts every file here
        print(__doc__)
        return
    interface, path = sys.argv[1:3]
    port = int(sys.argv[3]) if len(sys.argv) > 3 else None
    listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
    if interface != "any":
        listener.bind((interface, ALL))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with open(path, "wb", buffering=0) as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, SNAP, 1))
        while True:
            frame = listener.recv(SNAP)
            if wanted(frame, port):
                now = time.time()
                file.write(struct.pack(
                    "<IIII", int(now), int(now % 1 * 1e6), len(frame), len(frame)) + frame)


if __name__ == "__main__":
    main()
