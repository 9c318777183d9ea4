/// Bytes in: frames of TCP connections, datagrams of UDP sources, and the
/// requests among them. Whatever breaks the rules of a leg ends it; whatever a
/// stranger sends costs a counter, or one answer that is no larger.
#if canImport(Bytes)
  package import Bytes
  internal import Crypto
  internal import Mux
#endif

/// Who asks: a TCP connection, or a UDP source that has a leg or none.
struct RelayAsker {
  let kind: LegKind
  let source: RelaySource
  /// Nil: a UDP source without a leg.
  let connection: RelayConnection?
}

extension RelayNode {
  /// Bytes of a TCP connection, in order, cut anywhere.
  package func receive(connection id: UInt32, _ bytes: RawSpan, now: Instant) {
    guard let connection = connections[id], connection.kind == .tcp, !connection.isClosing else {
      return
    }
    connection.heard = now
    var offset = 0
    if connection.decoder.bufferedCount == 0 {
      // Whole frames are taken where they lie.
      while bytes.byteCount - offset >= CarrierFrame.headBytes {
        guard let head = head(of: bytes, at: offset, connection, now: now) else { return }
        let start = offset + CarrierFrame.headBytes
        guard bytes.byteCount - start >= head.length else { break }
        offset = start + head.length
        receive(head, bytes.extracting(start..<offset), connection, now: now)
        if connection.isClosing { break }
      }
    }
    if offset < bytes.byteCount, !connection.isClosing {
      connection.decoder.append(bytes.extracting(offset..<bytes.byteCount))
      takeBuffered(connection, now: now)
    }
    drainRouter(now: now)
  }

  private func head(
    of bytes: RawSpan, at offset: Int, _ connection: RelayConnection, now: Instant
  ) -> CarrierFrame? {
    let head: CarrierFrame?
    do throws(CarrierFailure) {
      head = try CarrierFrame(headOf: bytes.extracting(offset..<bytes.byteCount))
    } catch {
      head = nil
    }
    guard let head, isAllowed(head, connection) else {
      breaksRules(connection, now: now)
      drainRouter(now: now)
      return nil
    }
    return head
  }

  private func takeBuffered(_ connection: RelayConnection, now: Instant) {
    var isGood = true
    var hasMore = true
    while hasMore, isGood, !connection.isClosing {
      do throws(CarrierFailure) {
        hasMore = try connection.decoder.next { head, body in
          guard isAllowed(head, connection) else {
            isGood = false
            return
          }
          receive(head, body.bytes, connection, now: now)
        }
      } catch {
        isGood = false
      }
    }
    if connection.owner == nil, connection.decoder.bufferedCount > limits.pendingBytes {
      isGood = false
    }
    guard !connection.isClosing else { return }
    if !isGood { breaksRules(connection, now: now) }
  }

  /// Before it is let in a connection may ask, and keep alive.
  private func isAllowed(_ head: CarrierFrame, _ connection: RelayConnection) -> Bool {
    if head.channel == RelayWire.controlChannel {
      switch head.kind {
      case .open, .ping, .pong: return true
      case .data, .end, .refuse: return false
      }
    }
    return connection.owner != nil && head.kind != .open
  }

  private func breaksRules(_ connection: RelayConnection, now: Instant) {
    statistics.malformed += 1
    close(connection, now: now)
  }

  private func receive(
    _ head: CarrierFrame, _ body: RawSpan, _ connection: RelayConnection, now: Instant
  ) {
    switch head.kind {
    case .open:
      receiveRequest(
        body, RelayAsker(kind: .tcp, source: connection.source, connection: connection), now: now)
    case .ping:
      connection.pong = CarrierFrame.bytes(
        channel: head.channel, kind: .pong, body: [UInt8](body))
      readyStreams.append(connection.id)
    case .pong: break
    case .data, .end, .refuse:
      router.receiveFrame(connection: connection.id, head, body, now: now)
    }
  }

  // MARK: UDP

  /// Whether a datagram is one of relays: the top bit of its first byte.
  package static func isRelayDatagram(firstByte: UInt8) -> Bool { firstByte & 0x80 != 0 }

  /// One datagram whose first byte has the top bit set.
  /// - Parameter carrier: the local socket and where it came from.
  package func receive(_ datagram: RawSpan, from carrier: Carrier, now: Instant) {
    precondition(carrier.kind == .udp)
    let source = RelaySource(socket: carrier.socket, remote: carrier.remote)
    let connection = connectionOfSource[source].flatMap { connections[$0] }
    var offset = 0
    while offset < datagram.byteCount {
      let head: CarrierFrame?
      do throws(CarrierFailure) {
        head = try CarrierFrame(headOf: datagram.extracting(offset..<datagram.byteCount))
      } catch {
        head = nil
      }
      guard let head, head.channel & RelayWire.udpMark != 0,
        head.length <= datagram.byteCount - offset - CarrierFrame.headBytes
      else {
        statistics.malformed += 1
        return
      }
      let start = offset + CarrierFrame.headBytes
      offset = start + head.length
      let body = datagram.extracting(start..<offset)
      if head.channel == LegKind.udp.controlChannel {
        // One of a stranger's frames is enough to answer.
        if connection == nil, offset < datagram.byteCount {
          statistics.strangers += 1
          return
        }
        receiveControl(
          head, body, RelayAsker(kind: .udp, source: source, connection: connection), now: now)
      } else if let connection, head.kind == .data {
        connection.heard = now
        if connection.unconfirmed > 0 { confirm(connection, channel: head.channel) }
        router.receiveFrame(connection: connection.id, head, body, now: now)
      } else {
        // Anybody can fake a source: on UDP only proofs end a channel.
        statistics.strangers += 1
        return
      }
    }
    drainRouter(now: now)
  }

  private func receiveControl(
    _ head: CarrierFrame, _ body: RawSpan, _ asker: RelayAsker, now: Instant
  ) {
    switch head.kind {
    case .open:
      receiveRequest(body, asker, now: now)
    case .ping:
      if let connection = asker.connection {
        connection.heard = now
      } else if !strangerReplies.take(now: now) {
        statistics.repliesDropped += 1
        return
      }
      send(
        CarrierFrame.bytes(channel: head.channel, kind: .pong, body: [UInt8](body)),
        to: asker.source)
    case .pong:
      asker.connection?.heard = now
    case .data, .end, .refuse:
      statistics.strangers += 1
    }
  }

  // MARK: Requests

  private func receiveRequest(_ body: RawSpan, _ asker: RelayAsker, now: Instant) {
    guard let request = RelayRequest(decoding: body) else {
      statistics.malformed += 1
      // To garbage on UDP there is no answer.
      if let connection = asker.connection, connection.kind == .tcp {
        refuse(.malformed, subject: 0, secret: nil, asker, now: now)
      }
      return
    }
    if asker.kind == .udp, !isCookie(request.cookie, of: asker.source, now: now) {
      sendCookie(asker, now: now)
      return
    }
    asker.connection?.heard = now
    switch request {
    case .join(_, let sealed): join(sealed, asker, now: now)
    case .resume(let proof): resume(proof, asker, now: now)
    case .leave(let proof): leave(proof, asker, now: now)
    }
  }

  /// A cookie is shorter than every request.
  private func sendCookie(_ asker: RelayAsker, now: Instant) {
    guard strangerReplies.take(now: now) else {
      statistics.repliesDropped += 1
      return
    }
    statistics.cookiesSent += 1
    send(
      RelayReply.cookie(cookie(of: asker.source, key: cookieKeys[0])).frame(over: .udp),
      to: asker.source)
  }

  private func cookie(of source: RelaySource, key: [UInt8]) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.appendUInt32(source.socket)
    bytes.appendUInt64(source.remote.address.high)
    bytes.appendUInt64(source.remote.address.low)
    bytes.appendUInt16(source.remote.port)
    return Array(HMACSHA256.authenticate(key: key, bytes).prefix(RelayWire.cookieBytes))
  }

  private func isCookie(_ bytes: [UInt8], of source: RelaySource, now: Instant) -> Bool {
    keepTime(now)
    var found = false
    for key in cookieKeys {
      found = constantTimeEqual(bytes, cookie(of: source, key: key)) || found
    }
    return found
  }

  /// Curve operations are for who does not ask too often.
  func mayAsk(_ asker: RelayAsker, now: Instant) -> Bool {
    let network = Self.network(of: asker.source.remote.address)
    let count = requestsOfNetwork[network] ?? 0
    guard count < limits.requestsPerAddress,
      count > 0 || requestsOfNetwork.count < limits.countedAddresses,
      requests.take(now: now)
    else {
      statistics.requestsDropped += 1
      return false
    }
    requestsOfNetwork[network] = count + 1
    return true
  }

  /// Says no. A TCP connection that carries nothing else is closed with it.
  func refuse(
    _ reason: RelayRefusal, subject: UInt64, secret: [UInt8]?, _ asker: RelayAsker, now: Instant
  ) {
    statistics.refused[Int(reason.rawValue)] += 1
    emit(.refused(reason, asker.source.remote))
    let reply = RelayReply.refused(
      RelayRefusalNotice(reason: reason, subject: subject, secret: secret))
    guard let connection = asker.connection else {
      send(reply.frame(over: .udp), to: asker.source)
      return
    }
    send(reply, to: connection)
    connection.refusals += 1
    if connection.kind == .tcp, connection.legs.isEmpty || connection.refusals > limits.refusals {
      close(connection, now: now)
    }
  }
}
