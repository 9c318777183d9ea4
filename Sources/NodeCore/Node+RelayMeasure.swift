/// How far relays are: PINGs on the control channel of connections to them, what is
/// told to the server, and when a pair is asked for again because of it.
/// docs/protocol/relay.md "How the ends use it".

#if canImport(Bytes)
  package import Bytes
  internal import Mux
  internal import Paths
  internal import Relay
  internal import Signaling
#endif

/// A round trip to a relay.
struct MeasuredRelay {
  var microseconds: UInt32
  var at: Instant
}

extension Node {
  /// A PING on the control channel; its answer says how far the relay is.
  func askRelay(_ number: UInt32, now: Instant) {
    guard let link = relayLinks[number] else { return }
    // Before it is open the same again: whichever copy is answered will do.
    let former = link.isOpen ? nil : link.question
    let nonce = former?.nonce ?? random.next()
    relayLinks[number]?.question = (nonce, now, former != nil)
    if link.isOpen {
      relayLinks[number]?.asked += 1
      relayLinks[number]?.askAt = now + RelayTunables.answerTime
    }
    emit(.sendRelay(connection: number, RelayQuestion.frame(nonce, kind: link.kind)))
  }

  /// A PONG on the control channel of a connection to a relay.
  package func relayPong(connection: UInt32, _ body: RawSpan, now: Instant) {
    clock = now
    guard let link = relayLinks[connection], let question = link.question,
      RelayQuestion.nonce(of: body) == question.nonce
    else { return }
    relayLinks[connection]?.question = nil
    if !question.isRepeated {
      relayLinks[connection]?.roundTrip = min(now - question.at, link.roundTrip ?? .hours(1))
    }
    if !link.isOpen { relayOpened(connection, now: now) }
    relayLinks[connection]?.askAt = now + RelayTunables.measurePause
    if link.asked >= RelayTunables.measurePings { relayIsMeasured(connection, now: now) }
    settle(now: now)
  }

  func relayIsMeasured(_ number: UInt32, now: Instant) {
    guard let link = relayLinks[number] else { return }
    relayLinks[number]?.askAt = .distantFuture
    if let roundTrip = link.roundTrip {
      if relayMeasured[link.relay] == nil, relayMeasured.count >= RelayTunables.measured {
        forgetMeasurements(now: now)
        if relayMeasured.count >= RelayTunables.measured { relayMeasured.removeAll() }
      }
      relayMeasured[link.relay] = MeasuredRelay(
        microseconds: UInt32(clamping: roundTrip.nanoseconds / 1_000), at: now)
      relaysUntold.insert(link.relay)
    }
    guard link.measureUntil != nil else { return }
    relayLinks[number]?.measureUntil = nil
    releaseLink(number)
    tellMeasurements(now: now)
  }

  private func forgetMeasurements(now: Instant) {
    relayMeasured = relayMeasured.filter { now - $0.value.at < RelayTunables.measureMemory }
  }

  /// Round trips to all that are offered, where they are not known. More than one:
  /// the server shall know both ends' before it is asked again.
  func measure(_ offers: [RelayOffer], for peer: Peer, now: Instant) {
    guard offers.count > 1 else { return }
    forgetMeasurements(now: now)
    var isNews = false
    for offer in offers where relayMeasured[offer.relay] == nil {
      guard
        peer.paths.settings.allowedTiers.allows(offer.isSuper ? .superRelay : .privateRelay),
        mayUse(offer.relay, for: peer),
        relayLink(to: offer, forSeat: false, now: now) != nil
      else { continue }
      isNews = true
    }
    guard isNews, now - peer.relays.comparedAt >= RelayTunables.measureMemory else { return }
    peer.relays.comparedAt = now
    peer.relays.wantsBetter = true
    wantRelay(
      for: peer, after: RelayTunables.measureTime + RelayTunables.compareDelay, now: now)
  }

  /// Of several that are measured at once the last one brings the news.
  func tellMeasurements(now: Instant) {
    guard !relayLinks.values.contains(where: { $0.measureUntil != nil }) else { return }
    let news = relaysUntold.sorted { $0.lexicographicallyPrecedes($1) }
    relaysUntold.removeAll()
    guard isOnline, !news.isEmpty else { return }
    queue(
      ClientEnvelope(
        request: 0,
        message: .relayMeasured(
          news.prefix(RelaySignalLimits.measurements).compactMap { relay in
            relayMeasured[relay].map {
              RelayMeasurement(relay: relay, microseconds: $0.microseconds)
            }
          })))
  }

  /// For a request: the newest first.
  func newestMeasurements(now: Instant) -> [RelayMeasurement] {
    relayMeasured.filter { now - $0.value.at < RelayTunables.measureMemory }
      .sorted { a, b in
        a.value.at != b.value.at
          ? a.value.at > b.value.at : a.key.lexicographicallyPrecedes(b.key)
      }
      .prefix(RelaySignalLimits.measurements)
      .map { RelayMeasurement(relay: $0.key, microseconds: $0.value.microseconds) }
  }
}

/// The PING by which a relay is measured.
enum RelayQuestion {
  /// Of the frame.
  static let bytes = CarrierFrame.headBytes + 8

  static func frame(_ nonce: UInt64, kind: LegKind) -> [UInt8] {
    var body: [UInt8] = []
    body.appendUInt64(nonce)
    return CarrierFrame.bytes(channel: kind.controlChannel, kind: .ping, body: body)
  }

  static func nonce(of body: RawSpan) -> UInt64? {
    var reader = ByteReader(body)
    guard let nonce = reader.uint64(), reader.isAtEnd else { return nil }
    return nonce
  }
}
