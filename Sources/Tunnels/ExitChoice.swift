/// Which exit an inbound connection leaves by, and when the next one may be
/// tried: only if the open was refused with nothing delivered, or was never
/// sent. Pure; randomness comes in as a `SeededRandom`.

#if canImport(Bytes)
  package import Bytes
#endif

/// Our tunables of exit choice (not of any specification).
package enum ExitTuning {
  /// Round trips this much above the best of their tier count as equal.
  package static let equalRoundTripSlack = TimeAmount.milliseconds(5)
  /// … or this share above it, in percent.
  package static let equalRoundTripPercent: Int64 = 25
  /// An exit that refused goes to the end of the order for so long. It is
  /// never left out: a tunnel opened there a moment ago works at once.
  package static let refusedPenalty = TimeAmount.seconds(10)
  /// Exits tried for one connection.
  package static let maximumAttempts = 8
  /// Remembered refusals.
  package static let maximumMemory = 1024
}

/// An endpoint that could be the exit, as it looks now.
package struct ExitCandidate: Sendable, Hashable {
  package var id: String
  package var name: String
  package var isOnline: Bool
  /// 0 this very endpoint, 1…7 the path's tier, 8 no path yet.
  package var tier: UInt8
  package var roundTrip: TimeAmount?
  /// Connections we carry to it now.
  package var connections: Int
  /// Does it offer the outbound? Nil: not known, worth asking.
  package var offers: Bool?

  package init(
    id: String, name: String, isOnline: Bool, tier: UInt8, roundTrip: TimeAmount? = nil,
    connections: Int = 0, offers: Bool? = nil
  ) {
    self.id = id
    self.name = name
    self.isOnline = isOnline
    self.tier = tier
    self.roundTrip = roundTrip
    self.connections = connections
    self.offers = offers
  }
}

/// Orders exits and remembers who refused what.
package struct ExitChooser: Sendable {
  private struct Refusal: Hashable {
    var exit: String
    var service: OpenRequest
  }
  private var random: SeededRandom
  private var penalties: [Refusal: Instant] = [:]

  package init(random: SeededRandom) { self.random = random }

  /// The exits to try, best first, as indexes of `candidates`. Listed exits,
  /// or without a list every online endpoint not known to lack the service.
  package mutating func order(
    for service: OpenRequest, exits: [EndpointReference], candidates: [ExitCandidate], now: Instant
  ) -> [Int] {
    struct Ranked {
      var index: Int
      var isPenalized: Bool
      var tier: UInt8
      var roundTrip: TimeAmount
      var connections: Int
      var draw: UInt64
    }
    var ranked: [Ranked] = []
    for (index, candidate) in candidates.enumerated() {
      guard candidate.isOnline else { continue }
      if exits.isEmpty {
        guard candidate.offers != false else { continue }
      } else {
        guard exits.contains(where: { $0.matches(id: candidate.id, name: candidate.name) }) else {
          continue
        }
      }
      let until = penalties[Refusal(exit: candidate.id, service: service)] ?? .distantPast
      ranked.append(
        Ranked(
          index: index, isPenalized: until > now, tier: candidate.tier,
          roundTrip: candidate.roundTrip ?? .hours(1), connections: candidate.connections,
          draw: random.next()))
    }
    // Known offers before guesses is not needed: a guess that refuses is
    // penalized. Tier, then round trip:
    ranked.sort {
      if $0.isPenalized != $1.isPenalized { return !$0.isPenalized }
      if $0.tier != $1.tier { return $0.tier < $1.tier }
      return $0.roundTrip < $1.roundTrip
    }
    // Equals of the leader of each group are spread by load, then by lot.
    var start = 0
    while start < ranked.count {
      let leader = ranked[start]
      let limit = max(
        leader.roundTrip + ExitTuning.equalRoundTripSlack,
        leader.roundTrip + leader.roundTrip * ExitTuning.equalRoundTripPercent / 100)
      var end = start + 1
      while end < ranked.count, ranked[end].isPenalized == leader.isPenalized,
        ranked[end].tier == leader.tier, ranked[end].roundTrip <= limit
      { end += 1 }
      ranked[start..<end].sort {
        $0.connections != $1.connections ? $0.connections < $1.connections : $0.draw < $1.draw
      }
      start = end
    }
    return ranked.prefix(ExitTuning.maximumAttempts).map(\.index)
  }

  /// An exit refused this service: ask it last for a while.
  package mutating func refused(_ service: OpenRequest, byExit id: String, now: Instant) {
    if penalties.count >= ExitTuning.maximumMemory {
      penalties = penalties.filter { $0.value > now }
      if penalties.count >= ExitTuning.maximumMemory { penalties.removeAll(keepingCapacity: true) }
    }
    penalties[Refusal(exit: id, service: service)] = now + ExitTuning.refusedPenalty
  }

  /// It opened, or announced the service: trust it again.
  package mutating func succeeded(_ service: OpenRequest, atExit id: String) {
    penalties[Refusal(exit: id, service: service)] = nil
  }

  /// It came online anew: forget all it refused.
  package mutating func forget(exit id: String) {
    penalties = penalties.filter { $0.key.exit != id }
  }
}

/// One connection looking for its exit.
///
///     order ──► trying(exit) ──opened──► carried
///                  │  ▲
///        refused / never sent: next       lost after sending ──► gave up
package struct ExitAttempt: Sendable {
  package enum Outcome: Hashable, Sendable {
    case opened
    /// RST(refused): nothing was delivered.
    case refused(OpenRefusal?)
    /// The session could not take the SYN.
    case neverSent
    /// It waited for a road that the tunnel's policy lets it take.
    case noPermittedRoad
    /// The SYN left and no answer came: it may have been delivered.
    case lost
  }
  package enum Step: Hashable, Sendable {
    case carry
    /// Index into the candidates the order was made from.
    case tryExit(Int)
    case giveUp(TunnelFailure)
  }

  private let order: [Int]
  private var position = 0
  /// The most telling failure so far.
  private var failure = TunnelFailure.noExitOnline
  private var isSettled = false

  package init(order: [Int]) { self.order = order }

  /// Exits tried so far.
  package var attempts: Int { position }

  /// The first step.
  package mutating func start() -> Step { advance() }

  /// What became of the exit last given out.
  package mutating func report(_ outcome: Outcome) -> Step {
    precondition(position > 0 && !isSettled)
    switch outcome {
    case .opened:
      isSettled = true
      return .carry
    case .refused(let reason):
      failure = reason.map(TunnelFailure.init) ?? .refusedOtherwise
      return advance()
    case .neverSent:
      if failure == .noExitOnline { failure = .exitUnreachable }
      return advance()
    case .noPermittedRoad:
      failure = .noPermittedRoad
      return advance()
    case .lost:
      isSettled = true
      return .giveUp(.exitLost)
    }
  }

  private mutating func advance() -> Step {
    guard position < order.count else {
      isSettled = true
      return .giveUp(failure)
    }
    position += 1
    return .tryExit(order[position - 1])
  }
}
