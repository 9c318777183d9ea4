/// Who is no longer a member, while sessions live: eviction lists passed on
/// between peers, and certificates whose time ends. Time here is the authority's,
/// never the local clock's. DESIGN §3; docs/protocol/paths.md "EVICTIONS".
///
/// The side with the lower number is responsible: it states its number until it
/// has the list. The other answers a lower number with the whole list, at most
/// once a second.

#if canImport(Bytes)
  internal import Bytes
  internal import Mux
  internal import Paths
  internal import Signaling
#endif

/// What two peers know of each other's lists.
struct EvictionExchange {
  /// The number the peer last told.
  var told: UInt64?
  /// When our number is stated next, and how often yet.
  var stateAt: Instant?
  var statementsLeft = 0
  /// The whole list is to be sent.
  var sendsList = false
  var listSentAt = Instant.distantPast

  /// A list on its way here, and which of its parts have come.
  var number: UInt64 = 0
  var list: [UInt8] = []
  var arrived: Set<Int> = []

  /// Takes one part; the list when it is whole.
  mutating func take(_ message: EvictionsMessage) -> [UInt8]? {
    if message.number != number || message.total != list.count {
      number = message.number
      list = [UInt8](repeating: 0, count: message.total)
      arrived = []
    }
    guard arrived.insert(message.offset).inserted else { return nil }
    list.replaceSubrange(message.offset..<message.offset + message.part.count, with: message.part)
    guard arrived.count * EvictionsMessage.partBytes >= list.count else { return nil }
    defer {
      number = 0
      list = []
      arrived = []
    }
    return list
  }
}

// MARK: Between peers

extension Node {
  private var evictionNumber: UInt64 { evictions?.number ?? 0 }

  /// A HELLO or a statement told which list the peer has.
  func heardEvictions(_ number: UInt64, from peer: Peer, isStatement: Bool, now: Instant) {
    peer.evictions.told = number
    if number < evictionNumber {
      if now - peer.evictions.listSentAt >= NodeLimits.evictionsRetry {
        peer.evictions.sendsList = true
      }
    } else if number > evictionNumber, peer.evictions.stateAt == nil {
      peer.evictions.statementsLeft = NodeLimits.evictionStatements
      // Our own HELLO says it as well: the list may be on its way already.
      peer.evictions.stateAt = isStatement ? now : now + NodeLimits.evictionsRetry
    }
    touch(peer)
  }

  func receive(_ message: EvictionsMessage, from peer: Peer, now: Instant) {
    guard message.total > 0 else {
      heardEvictions(message.number, from: peer, isStatement: true, now: now)
      return
    }
    peer.evictions.told = message.number
    guard message.number > evictionNumber, let list = peer.evictions.take(message) else { return }
    receiveEvictions(list, now: now)
  }

  /// Takes a list from the server, the disk or a peer.
  func receiveEvictions(_ bytes: [UInt8], now: Instant) {
    guard !bytes.isEmpty, let authority else { return }
    do throws(EvictionFault) {
      let list = try EvictionList(verifying: bytes, authority: authority)
      guard list.number > evictionNumber else { return }
      evictions = list
      observe(list.issuedAt, now: now)
      emit(.store(.evictions(bytes)))
    } catch {
      drops.badSignal += 1
      return
    }
    for peer in peers where !peer.isRemoved && !peer.certificate.isEmpty {
      guard let certificate = certificate(of: peer) else { continue }
      if evictions?.evicts(certificate) == true {
        log(.info, "evicted", "\(peer.name) is no longer a member")
        removePeer(peer, now: now)
      } else if peer.connectedSince != nil, (peer.evictions.told ?? 0) < evictionNumber {
        // The peer asks for it if it has it not from the server by now.
        peer.evictions.statementsLeft = NodeLimits.evictionNews
        peer.evictions.stateAt = now
        touch(peer)
      }
    }
  }

  /// Statement or list, through the path in use only: never to an unproven address.
  func sendEvictions(to peer: Peer, into batch: TransmitBatch, now: Instant) {
    guard let carrier = peer.paths.primary.flatMap({ peer.paths.carrier(of: $0) }) else { return }
    if peer.evictions.sendsList {
      peer.evictions.sendsList = false
      peer.evictions.listSentAt = now
      if let list = evictions {
        let bytes = list.encoded()
        for offset in stride(from: 0, to: bytes.count, by: EvictionsMessage.partBytes) {
          send(
            EvictionsMessage(number: list.number, list: bytes, offset: offset), to: peer, carrier,
            into: batch, now: now)
        }
      }
    }
    guard let at = peer.evictions.stateAt, at <= now else { return }
    peer.evictions.statementsLeft -= 1
    let isEven = peer.evictions.told == evictionNumber
    peer.evictions.stateAt =
      !isEven && peer.evictions.statementsLeft > 0 ? now + NodeLimits.evictionsRetry : nil
    send(EvictionsMessage(stating: evictionNumber), to: peer, carrier, into: batch, now: now)
  }

  private func send(
    _ message: EvictionsMessage, to peer: Peer, _ carrier: Carrier, into batch: TransmitBatch,
    now: Instant
  ) {
    sealUnnumbered(peer, carrier, size: message.byteCount, into: batch, now: now) {
      message.write(into: &$0)
    }
  }
}

// MARK: Certificates end

extension Node {
  /// Whether a certificate still holds. One signed later than any before puts
  /// authority time forward, and then the others are looked at again.
  func accepts(_ certificate: Certificate, now: Instant) -> Bool {
    observe(certificate.issuedAt, now: now)
    guard authorityClock.accepts(certificate, now: now) else { return false }
    expiryAt = min(expiryAt, now + wait(until: certificate.expiresAt, now: now))
    return true
  }

  private func observe(_ signed: UInt64, now: Instant) {
    let before = authorityClock.time(at: now)
    authorityClock.observe(signed, now: now)
    if authorityClock.time(at: now) > before { expiryAt = min(expiryAt, now) }
  }

  /// Until authority time is `seconds`, bounded by the next look.
  private func wait(until seconds: UInt64, now: Instant) -> TimeAmount {
    let time = authorityClock.time(at: now)
    guard seconds > time else { return .zero }
    let longest = UInt64(NodeLimits.expiryLook.nanoseconds / 1_000_000_000)
    return .seconds(Int64(min(seconds - time, longest)))
  }

  private func certificate(of peer: Peer) -> Certificate? {
    do { return try Certificate(decoding: peer.certificate) } catch { return nil }
  }

  /// Ends sessions with members whose certificate is over, unless a new one comes
  /// within the grace; has our own renewed in time; keeps authority time on disk.
  func advanceExpiry(to now: Instant) {
    guard expiryAt <= now else { return }
    let time = authorityClock.time(at: now)
    var next = now + NodeLimits.expiryLook
    if authority != nil { emit(.store(.authorityTime(time))) }
    for peer in peers where !peer.isRemoved && !peer.certificate.isEmpty {
      guard let certificate = certificate(of: peer) else { continue }
      guard time >= certificate.expiresAt else {
        peer.expiredSince = nil
        next = min(next, now + wait(until: certificate.expiresAt, now: now))
        continue
      }
      let since = peer.expiredSince ?? now
      peer.expiredSince = since
      if now - since >= NodeLimits.expiryGrace {
        log(.info, "expired", "the certificate of \(peer.name) is over; the session ends")
        removePeer(peer, now: now)
        emit(.store(.memberRemoved(node: peer.name)))
      } else {
        next = min(next, since + NodeLimits.expiryGrace)
      }
    }
    if let own = ownCertificate, isOnline {
      // The server renews at a login, from this time on.
      let due = own.expiresAt - CertificateLimits.validitySeconds / 2
      if time >= due, now >= renewalAt {
        renewalAt = now + NodeLimits.renewalRetry
        closeSignal("our certificate is due for renewal", now: now)
      } else {
        next = min(next, max(renewalAt, now + wait(until: due, now: now)))
      }
    }
    expiryAt = max(next, now + NodeLimits.expiryPause)
  }
}

// MARK: Sleep

extension Node {
  /// A deadline served this late means that the machine slept; "at once" is none.
  func noteSleep(now: Instant) {
    let due = nextDeadline
    guard due != .distantPast, now > due, now - due > PathTunables.sleepLateness else { return }
    sleptAt = now
  }

  /// How long the streams of a peer without a path wait (DESIGN §1.3): longer
  /// when its paths died in our sleep, or just after it.
  func linger(since dead: Instant) -> TimeAmount {
    guard let sleptAt, sleptAt >= dead - NodeLimits.linger else { return NodeLimits.linger }
    return NodeLimits.lingerAfterSleep
  }
}
