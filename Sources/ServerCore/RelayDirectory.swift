/// Which clients are relays, which of them a pair may use, and the one-time
/// tokens that let it in. spec/inp2p.md "Relay" and F5; docs/protocol/relay.md.
/// It never offers a relay to itself, tells nobody the name of a node of another
/// mesh, and keeps nothing on disk: relays announce themselves at every login.
#if canImport(Bytes)
  package import Bytes
#endif
#if canImport(Crypto)
  internal import Crypto
#endif
#if canImport(Relay)
  internal import Relay
#endif
#if canImport(Signaling)
  package import Signaling
#endif

package enum RelayDirectoryLimits {
  /// Relays of all meshes.
  package static let relays = 4_096
  /// Round trips kept of one node.
  package static let measurements = 64
  /// Both ends asking within this time get the same session.
  package static let crossing = TimeAmount.seconds(5)
  package static let grants = 16_384
  /// How long a grant holds, seconds.
  package static let validitySeconds: UInt64 = 60
  /// Above this a relay is offered only when there is no other.
  package static let crowded: UInt16 = 950
  /// Loads that differ by less count as the same: then the round trip decides.
  package static let loadStep: UInt16 = 250
}

/// A relay as the directory knows it.
package struct DirectoryRelay: Sendable, Equatable {
  /// The server's number of its node.
  package var member: UInt32
  package var mesh: Int
  package var name: String
  package var key: [UInt8]
  package var report: RelayReport
  /// Of its process: another one knows nothing of former guests.
  package var incarnation: UInt64
  /// Where it may be reached.
  package var facts: CandidateFacts
  /// Between server and relay.
  package var roundTrip: TimeAmount

  package init(
    member: UInt32, mesh: Int, name: String, key: [UInt8], report: RelayReport,
    incarnation: UInt64 = 0, facts: CandidateFacts, roundTrip: TimeAmount
  ) {
    self.member = member
    self.mesh = mesh
    self.name = name
    self.key = key
    self.report = report
    self.incarnation = incarnation
    self.facts = facts
    self.roundTrip = roundTrip
  }
}

/// One end of a pair that wants a relay.
package struct DirectoryNode: Sendable {
  package var member: UInt32
  package var name: String
  package var key: [UInt8]
  package var facts: CandidateFacts
  /// Between server and node.
  package var roundTrip: TimeAmount

  package init(
    member: UInt32, name: String, key: [UInt8], facts: CandidateFacts, roundTrip: TimeAmount
  ) {
    self.member = member
    self.name = name
    self.key = key
    self.facts = facts
    self.roundTrip = roundTrip
  }
}

package struct RelayDirectory: Sendable {
  private struct Pair: Hashable {
    let low: UInt32
    let high: UInt32
  }
  /// What was given to a pair.
  private struct Given {
    var session: UInt64
    /// Who is leg 0.
    var first: UInt32
    var expiry: UInt64
    var only: String
    var relays: [[UInt8]]
    var until: Instant
  }

  private let root: [UInt8]
  private let salt: UInt32
  private var day: UInt64
  private var relays: [UInt32: DirectoryRelay] = [:]
  private var measured: [UInt32: [[UInt8]: UInt32]] = [:]
  private var given: [Pair: Given] = [:]
  private var random: SeededRandom

  /// - Parameter seed: 32 random bytes.
  package init(seed: [UInt8], unixSeconds: UInt64) {
    random = SeededRandom(seed: seed)
    root = random.bytes(32)
    salt = UInt32(truncatingIfNeeded: random.next())
    day = unixSeconds / 86_400
  }

  // MARK: Who is one

  package var count: Int { relays.count }
  package func relay(member: UInt32) -> DirectoryRelay? { relays[member] }
  /// Numbers of the nodes that are relays, in order.
  package var members: [UInt32] { relays.keys.sorted() }

  /// A node says that it is a relay, or what has changed about it.
  /// - Returns: whether others should hear of it.
  package mutating func announce(_ relay: DirectoryRelay) -> Bool {
    let old = relays[relay.member]
    guard old != nil || relays.count < RelayDirectoryLimits.relays else { return false }
    relays[relay.member] = relay
    return old?.report.isSuper != relay.report.isSuper || old?.incarnation != relay.incarnation
  }

  /// - Returns: what it was, if it was one.
  package mutating func withdraw(member: UInt32) -> DirectoryRelay? {
    relays.removeValue(forKey: member)
  }

  /// A node went offline: what it measured is old when it comes back.
  package mutating func forget(member: UInt32) { measured[member] = nil }

  /// Round trips that a node has measured itself.
  package mutating func learn(_ measurements: [RelayMeasurement], from member: UInt32) {
    guard !measurements.isEmpty else { return }
    var known = measured[member] ?? [:]
    for entry in measurements
    where known[entry.relay] != nil || known.count < RelayDirectoryLimits.measurements {
      known[entry.relay] = entry.microseconds
    }
    measured[member] = known
  }

  // MARK: Secrets

  /// The keys of one-time tokens of one relay, newest first. They follow from
  /// a random root of this process and the day.
  package func secrets(of relay: [UInt8]) -> [SignalledRelaySecret] {
    [day, day == 0 ? 0 : day - 1].map { secret(of: relay, day: $0) }
  }

  private func secret(of relay: [UInt8], day: UInt64) -> SignalledRelaySecret {
    var bytes = Array("martlet relay secret v1".utf8)
    bytes.appendUInt64(day)
    return SignalledRelaySecret(
      number: salt &+ UInt32(truncatingIfNeeded: day),
      key: HMACSHA256.authenticate(key: root, bytes + relay))
  }

  /// A new day has new secrets; tokens follow when the relays have been told.
  /// - Returns: whether relays must be told now.
  package mutating func rotate(unixSeconds: UInt64) -> Bool {
    let today = unixSeconds / 86_400
    guard today != day else { return false }
    day = today
    return true
  }

  // MARK: Choice

  /// What a pair may use: one grant for the asker, one for its peer.
  /// - Parameters:
  ///   - hasToken: the mesh has a token, so that its own relays need no other.
  ///   - only: the one relay wanted, by its node's name; empty: any.
  package mutating func offer(
    to asker: DirectoryNode, and peer: DirectoryNode, mesh: Int, hasToken: Bool, only: String,
    exclusions: [[UInt8]], unixSeconds: UInt64, now: Instant
  ) -> (asker: RelayGrant, peer: RelayGrant) {
    let pair = Pair(low: min(asker.member, peer.member), high: max(asker.member, peer.member))
    var entry: Given
    if let known = given[pair], now < known.until, known.expiry > unixSeconds, known.only == only,
      !known.relays.contains(where: exclusions.contains),
      known.relays.contains(where: { key in relays.values.contains { $0.key == key } })
    {
      entry = known
    } else {
      var session = random.next()
      while session == 0 { session = random.next() }
      entry = Given(
        session: session, first: asker.member,
        expiry: unixSeconds + RelayDirectoryLimits.validitySeconds, only: only,
        relays: choose(asker, peer, mesh: mesh, only: only, exclusions: exclusions),
        until: now + RelayDirectoryLimits.crossing)
      keep(entry, pair, now: now)
    }
    let chosen = entry.relays.compactMap { key in relays.values.first { $0.key == key } }
    func grant(to node: DirectoryNode, about other: DirectoryNode) -> RelayGrant {
      let leg: UInt8 = node.member == entry.first ? 0 : 1
      return RelayGrant(
        peer: other.name, session: entry.session, leg: leg, expiry: entry.expiry,
        offers: chosen.map { relay in
          RelayOffer(
            relay: relay.key, isSuper: relay.report.isSuper,
            load: relay.report.load, endpoints: Self.endpoints(of: relay, for: node),
            admission: relay.mesh == mesh && hasToken
              ? .code
              : oneTime(relay, entry, leg: leg, from: node.key, to: other.key))
        })
    }
    return (grant(to: asker, about: peer), grant(to: peer, about: asker))
  }

  private func oneTime(
    _ relay: DirectoryRelay, _ entry: Given, leg: UInt8, from: [UInt8], to: [UInt8]
  ) -> RelayOffer.Admission {
    let secret = secret(of: relay.key, day: day)
    let token = RelayToken(
      secret: RelaySecret(number: secret.number, key: secret.key), session: entry.session,
      leg: leg, relay: relay.key, from: from, to: to, expiry: entry.expiry)
    return .oneTime(secretNumber: token.secretNumber, code: token.code)
  }

  private mutating func keep(_ entry: Given, _ pair: Pair, now: Instant) {
    if given.count >= RelayDirectoryLimits.grants {
      given = given.filter { $0.value.until > now }
    }
    // Without room both ends may get sessions of their own: one is used.
    guard given.count < RelayDirectoryLimits.grants || given[pair] != nil else { return }
    given[pair] = entry
  }

  /// Keys of the relays for a pair, best first: own mesh before strangers', the
  /// less loaded, the nearer.
  private func choose(
    _ asker: DirectoryNode, _ peer: DirectoryNode, mesh: Int, only: String, exclusions: [[UInt8]]
  ) -> [[UInt8]] {
    struct Rank {
      var key: [UInt8]
      var layer: Int
      var load: UInt16
      var roundTrip: Int64
      var exactLoad: UInt16
    }
    var ranks: [Rank] = []
    for relay in relays.values {
      guard relay.mesh == mesh || relay.report.isSuper, relay.member != asker.member,
        relay.member != peer.member, relay.key != asker.key, relay.key != peer.key,
        !exclusions.contains(relay.key), relay.report.load < 1_000,
        only.isEmpty || relay.mesh == mesh && relay.name == only,
        !Self.endpoints(of: relay, for: asker).isEmpty,
        !Self.endpoints(of: relay, for: peer).isEmpty
      else { continue }
      // Private relays are for their mesh alone; a super one of it comes after.
      let layer = relay.mesh == mesh && !relay.report.isSuper ? 0 : 1
      let load = relay.report.load
      ranks.append(
        Rank(
          key: relay.key, layer: load >= RelayDirectoryLimits.crowded ? layer + 2 : layer,
          load: load / RelayDirectoryLimits.loadStep,
          roundTrip: roundTrip(asker, relay) + roundTrip(peer, relay), exactLoad: load))
    }
    ranks.sort { a, b in
      if a.layer != b.layer { return a.layer < b.layer }
      if a.load != b.load { return a.load < b.load }
      if a.roundTrip != b.roundTrip { return a.roundTrip < b.roundTrip }
      if a.exactLoad != b.exactLoad { return a.exactLoad < b.exactLoad }
      return a.key.lexicographicallyPrecedes(b.key)
    }
    return ranks.prefix(RelaySignalLimits.offers).map(\.key)
  }

  /// Nanoseconds: measured, or what it would be by way of the server.
  private func roundTrip(_ node: DirectoryNode, _ relay: DirectoryRelay) -> Int64 {
    if let known = measured[node.member]?[relay.key] { return Int64(known) * 1_000 }
    return node.roundTrip.nanoseconds + relay.roundTrip.nanoseconds
  }

  /// Where a node may try: as the server sees the relay, and its interfaces
  /// where the rules on candidates let them be told.
  private static func endpoints(
    of relay: DirectoryRelay, for node: DirectoryNode
  ) -> [SignalledCandidate] {
    var result: [SignalledCandidate] = []
    for (transport, port) in [
      (SignalledCandidate.Transport.tcp, relay.report.tcpPort),
      (.udp, relay.report.udpPort),
    ] where port != 0 {
      var facts = relay.facts
      facts.port = port
      let seen = facts.seenAt
      let addresses = facts.interfaces.contains(seen) ? facts.interfaces : [seen] + facts.interfaces
      for address in addresses where result.count < RelaySignalLimits.endpoints {
        let candidate = SignalledCandidate(
          kind: address == seen ? .serverReflexive : .host, transport: transport,
          endpoint: Endpoint(address, port))
        if CandidateRule.allows(candidate, of: facts, to: node.facts) { result.append(candidate) }
      }
    }
    return result
  }
}
