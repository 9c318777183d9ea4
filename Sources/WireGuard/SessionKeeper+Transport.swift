/// The packet path: seal and open, in place and without allocation
/// (whitepaper §5.4.6). Everything else in this module exists for these two.

#if canImport(Bytes)
  package import Bytes
  internal import Crypto
#endif

extension SessionKeeper {
  /// Largest plaintext of a packet of `size` bytes on the wire: header and tag
  /// take 32, and the rest is filled in steps of 16.
  package static func largestPlaintext(packetSize size: Int) -> Int {
    max(0, (size - MessageSize.transportHeader - MessageSize.tag) & ~15)
  }

  /// Appends one sealed packet to `output`. `body` gets an output span whose free
  /// capacity is exactly what fits (`largestPlaintext` of the free capacity) and
  /// writes the plaintext; padding, sealing and counting are done here. When it
  /// writes nothing, nothing is appended and no counter is used.
  ///
  /// Past 120 s on a keypair this also starts the next handshake.
  package func seal(
    _ handle: PeerHandle, into output: inout OutputRawSpan, now: Instant,
    _ body: (inout OutputRawSpan) -> Void
  ) -> SealOutcome {
    guard let peer = find(handle) else { return .noKeys }
    guard let keypair = peer.current, keypair.canSeal(now) else {
      if peer.kind == .stock { want(peer, now: now) }
      return .noKeys
    }
    let limit = Self.largestPlaintext(packetSize: output.freeCapacity)
    guard limit > 0 else { return .nothing }
    let start = output.byteCount
    // Taken before `body` runs, so that no two packets can ever share it.
    let counter = keypair.counter
    keypair.counter = counter &+ 1
    writeHeader(keypair.remoteIndex, counter, into: &output)
    let written = output.appendNested(limit: limit, body)
    if written == 0 {
      output.removeLast(MessageSize.transportHeader)
      if keypair.counter == counter &+ 1 { keypair.counter = counter }
      return .nothing
    }
    output.writeZeros((-written & 15) + MessageSize.tag)
    let count = output.byteCount - start
    var bytes = output.mutableBytes
    var sealed = bytes.extracting((start + MessageSize.transportHeader)..<(start + count))
    keypair.sealing.seal(counter: counter, &sealed)
    peer.counters.sealedPackets &+= 1
    peer.counters.sealedBytes &+= UInt64(count)
    if now >= keypair.rekeyAt || counter >= WireGuardConstants.rekeyAfterMessages {
      want(peer, now: now)
    }
    if peer.kind == .stock {
      packetSent(to: peer, now: now)
      if peer.timers.initiateAt == .distantFuture {
        peer.timers.initiateAt =
          now + WireGuardConstants.keepaliveTimeout + WireGuardConstants.rekeyTimeout + jitter()
        note(peer.timers.initiateAt)
      }
    }
    return .sealed(keypair.id, counter: counter)
  }

  /// Appends an empty packet: 32 bytes that say only that we live.
  package func sealKeepalive(
    _ handle: PeerHandle, into output: inout OutputRawSpan, now: Instant
  ) -> SealOutcome {
    guard let peer = find(handle), output.freeCapacity >= MessageSize.keepalive,
      let bytes = keepalive(to: peer, now: now), let keypair = peer.current
    else { return .noKeys }
    output.write(bytes.span.bytes)
    return .sealed(keypair.id, counter: keypair.counter - 1)
  }

  func keepalive(to peer: SessionPeer, now: Instant) -> [UInt8]? {
    guard let keypair = peer.current, keypair.canSeal(now) else {
      if peer.kind == .stock { want(peer, now: now) }
      return nil
    }
    let counter = keypair.counter
    keypair.counter = counter &+ 1
    var bytes: [UInt8] = []
    bytes.appendUInt32(MessageType.transport.byteSwapped)
    bytes.appendUInt32(keypair.remoteIndex.byteSwapped)
    bytes.appendUInt64LittleEndian(counter)
    bytes += [UInt8](repeating: 0, count: MessageSize.tag)
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    var sealed = raw.extracting(MessageSize.transportHeader..<MessageSize.keepalive)
    keypair.sealing.seal(counter: counter, &sealed)
    peer.counters.sealedPackets &+= 1
    peer.counters.sealedBytes &+= UInt64(MessageSize.keepalive)
    if peer.kind == .stock { packetSent(to: peer, now: now) }
    if now >= keypair.rekeyAt { want(peer, now: now) }
    return bytes
  }

  private func writeHeader(_ index: UInt32, _ counter: UInt64, into output: inout OutputRawSpan) {
    output.writeUInt32LittleEndian(MessageType.transport)
    output.writeUInt32LittleEndian(index)
    output.writeUInt64LittleEndian(counter)
  }

  func receiveTransport(_ packet: inout MutableRawSpan, now: Instant) -> Receipt {
    let count = packet.byteCount
    guard let (index, counter) = Self.header(of: packet.bytes),
      let keypair = table.keypair(index)
    else { return drop(.unknownIndex) }
    guard now < keypair.expiresAt, counter < WireGuardConstants.rejectAfterMessages else {
      return drop(.expired)
    }
    guard keypair.window.admits(counter) || acceptsReplaysForTest else { return drop(.replayed) }
    var sealed = packet.extracting(MessageSize.transportHeader..<count)
    guard keypair.opening.open(counter: counter, &sealed) else { return drop(.notAuthentic) }
    guard keypair.window.mark(counter) || acceptsReplaysForTest else { return drop(.replayed) }
    let peer = keypair.peer
    keypair.lastReceived = now
    peer.counters.openedPackets &+= 1
    peer.counters.openedBytes &+= UInt64(count)
    peer.lastReceived = now
    if !keypair.confirmed {
      confirm(keypair, now: now)
    } else if peer.current !== keypair {
      choose(keypair, now: now)
    }
    if peer.kind == .stock { stockReceived(keypair, data: count > MessageSize.keepalive, now: now) }
    if count == MessageSize.keepalive {
      return .keepalive(peer.handle, keypair.id, counter: counter)
    }
    return .data(
      peer.handle, keypair.id,
      payload: MessageSize.transportHeader..<(count - MessageSize.tag), counter: counter,
      current: peer.current === keypair)
  }

  private static func header(of bytes: RawSpan) -> (UInt32, UInt64)? {
    var reader = ByteReader(bytes)
    guard reader.skip(4), let index = reader.uint32LittleEndian(),
      let counter = reader.uint64LittleEndian()
    else { return nil }
    return (index, counter)
  }
}
