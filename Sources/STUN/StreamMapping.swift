/// Finds out where TCP from the agent's listening port leaves the NAT: one
/// question to each TCP port of the server, from that port. What was asked stays
/// open for a while, because a mapping lives while a connection uses it. Bounded:
/// two connections, one question each at a time. RFC 8489 §6.2.2; RFC 5382;
/// docs/protocol/stun.md "The mapping of TCP".
///
/// ```
///   idle ──ask──► asking ──answer──► held ──8 s──► idle
///                    └──── 2 s, failed ──────────►┘
/// ```

#if canImport(Bytes)
  package import Bytes
#endif

package enum StreamMappingEvent: Equatable, Sendable {
  /// Open a TCP connection from the listening port; tell `connected` or `failed`.
  case dial(connection: UInt32, Endpoint)
  case send(connection: UInt32, [UInt8])
  /// Not wanted any more; nothing need be told about it.
  case hangUp(connection: UInt32)
  /// The outside endpoint, as the first port that answered saw it.
  case mapped(Endpoint)
  /// Nobody answered.
  case silent
}

package enum StreamMappingTunables {
  package static let answerTime = TimeAmount.seconds(2)
  /// Less than the server allows a connection (docs/protocol/stun.md).
  package static let heldTime = TimeAmount.seconds(8)
}

package struct StreamMapping: Sendable {
  private struct Line {
    var connection: UInt32
    var transaction: STUNTransaction
    var decoder = STUNStream()
    var isOver = false
  }

  private let server: NATProbeServer
  private var random: SeededRandom
  private var lines: [Line] = []
  private var lastConnection: UInt32 = 0
  private var hasAnswer = false
  private var hasTold = false
  private var due = Instant.distantFuture
  private var events: [StreamMappingEvent] = []

  package init(server: NATProbeServer, random: SeededRandom) {
    self.server = server
    self.random = random
  }

  /// Asks anew. What was asked before is hung up: the same two ends cannot be
  /// connected twice.
  package mutating func ask(now: Instant) {
    stop()
    hasAnswer = false
    hasTold = false
    due = now + StreamMappingTunables.answerTime
    for port in server.tcp {
      lastConnection &+= 1
      lines.append(Line(connection: lastConnection, transaction: STUNTransaction(&random)))
      events.append(.dial(connection: lastConnection, Endpoint(server.address, port)))
    }
  }

  package mutating func stop() {
    for line in lines where !line.isOver { events.append(.hangUp(connection: line.connection)) }
    lines.removeAll()
    due = .distantFuture
  }

  package mutating func connected(_ connection: UInt32, now: Instant) {
    guard let index = index(connection) else { return }
    let message = STUNMessage(.request, lines[index].transaction)
    events.append(.send(connection: connection, message.encode()))
  }

  package mutating func received(_ bytes: RawSpan, on connection: UInt32, now: Instant) {
    guard let index = index(connection) else { return }
    var line = lines[index]
    let transaction = line.transaction
    var mapped: Endpoint?
    let goesOn = line.decoder.receive(bytes) { bytes in
      guard case .success(let message) = STUNMessage.decode(bytes),
        message.transaction == transaction, message.kind == .success,
        message.notUnderstood.isEmpty
      else { return false }
      mapped = message.reflexive
      return true
    }
    lines[index] = line
    if let mapped, mapped.port != 0, mapped.address.isV4 == server.address.isV4,
      !mapped.address.isUnspecified, !mapped.address.isMulticast, !hasAnswer
    {
      hasAnswer = true
      hasTold = true
      due = now + StreamMappingTunables.heldTime
      events.append(.mapped(mapped))
    }
    if !goesOn {
      events.append(.hangUp(connection: connection))
      end(index)
    }
  }

  /// A connection could not be made, or has ended.
  package mutating func failed(_ connection: UInt32, now: Instant) {
    guard let index = index(connection) else { return }
    end(index)
  }

  package var nextDeadline: Instant { due }

  package mutating func advance(to now: Instant) {
    guard now >= due else { return }
    stop()
    tellSilence()
  }

  package mutating func pollEvent() -> StreamMappingEvent? {
    events.isEmpty ? nil : events.removeFirst()
  }

  // MARK: -

  private func index(_ connection: UInt32) -> Int? {
    lines.firstIndex { $0.connection == connection && !$0.isOver }
  }

  private mutating func end(_ index: Int) {
    lines[index].isOver = true
    guard lines.allSatisfy(\.isOver) else { return }
    lines.removeAll()
    due = .distantFuture
    tellSilence()
  }

  private mutating func tellSilence() {
    guard !hasAnswer, !hasTold else { return }
    hasTold = true
    events.append(.silent)
  }
}
