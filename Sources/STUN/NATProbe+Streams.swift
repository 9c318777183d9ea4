/// The TCP half of a NAT probe, used only while UDP is silent: both TCP ports of
/// the server, one question each. The driver owns the connections.
/// RFC 8489 §6.2.2; docs/protocol/stun.md.

#if canImport(Bytes)
  package import Bytes
#endif

extension NATProbe {
  var hasHeardTCP: Bool { streams.contains { $0.mapped != nil } }

  /// A connection of a `dial` event is there.
  package mutating func connected(_ connection: UInt32, now: Instant) {
    guard let index = streams.firstIndex(where: { $0.connection == connection && !$0.isOver })
    else { return }
    let message = STUNMessage(.request, streams[index].transaction)
    tell(.send(connection: connection, message.encode()))
  }

  /// Bytes came on a connection of a `dial` event, in pieces of any size.
  package mutating func received(_ bytes: RawSpan, on connection: UInt32, now: Instant) {
    guard let index = streams.firstIndex(where: { $0.connection == connection && !$0.isOver })
    else { return }
    var stream = streams[index]
    let transaction = stream.transaction
    var mapped: Endpoint?
    let goesOn = stream.decoder.receive(bytes) { bytes in
      guard case .success(let message) = STUNMessage.decode(bytes),
        message.transaction == transaction, message.kind == .success,
        message.notUnderstood.isEmpty
      else { return false }
      mapped = message.reflexive
      return false
    }
    if let mapped, isPlausible(mapped) { stream.mapped = mapped }
    if !goesOn {
      if stream.mapped == nil { drops.useless &+= 1 }
      stream.isOver = true
      tell(.hangUp(connection: connection))
    }
    streams[index] = stream
    settle(now)
  }

  /// A connection of a `dial` event could not be made, or has ended.
  package mutating func failed(_ connection: UInt32, now: Instant) {
    guard let index = streams.firstIndex(where: { $0.connection == connection && !$0.isOver })
    else { return }
    streams[index].isOver = true
    settle(now)
  }

  mutating func dialStreams() {
    hasDialled = true
    for port in settings.server.tcp {
      lastConnection &+= 1
      streams.append(
        Stream(connection: lastConnection, transaction: STUNTransaction(&random)))
      tell(.dial(connection: lastConnection, Endpoint(settings.server.address, port)))
    }
  }

  mutating func hangUpAll() {
    for index in streams.indices where !streams[index].isOver {
      streams[index].isOver = true
      tell(.hangUp(connection: streams[index].connection))
    }
  }
}
