/// Finds out what the network does to our packets, for one address family: the
/// outside endpoint of the main socket at once, then mapping, filtering, port
/// preservation, allocator step and hairpin, or that UDP is blocked. Bounded: at
/// most `NATProbeLimits.attempts` times ten small questions and a few with a short
/// time to live (HopProbe), all to the server
/// (two packets of 20 bytes, repeated, go to our own outside endpoints, and one
/// question to the second address that the server names). It believes only
/// answers with its own 96-bit transaction from the endpoint it asked.
/// RFC 8489 §6.2, RFC 5780 §4; docs/protocol/stun.md "Finding out".
///
/// ```
///   idle ── start ──→ probing ──→ idle (event: finished)
///     └──── refresh ──→ refreshing ──→ idle (event: refreshed)
/// ```

#if canImport(Bytes)
  package import Bytes
#endif

/// A NAT probe. After any mutation drain `pollTransmit` and `pollEvent`.
package struct NATProbe: Sendable {
  enum Phase { case idle, probing, refreshing }

  /// What a question is for.
  enum Role: Equatable {
    /// Main socket to the first port, second port, second address.
    case mainFirst, mainSecond, mainOther
    /// An auxiliary socket's mapping.
    case auxiliary(Int)
    /// Of a socket that is new: where an allocator that counts stands now.
    case counter
    /// Answer from the server's other port; from its other address and port.
    case changePort, changeBoth
  }

  enum Outcome: Equatable {
    case waiting
    case answered(Endpoint)
    case refused
    case silent
  }

  /// One question.
  struct Ask {
    var role: Role
    var socket: UInt32
    var destination: Endpoint
    /// Where its answer must come from.
    var source: Endpoint
    var transaction: STUNTransaction
    var timeout: TimeAmount
    var attempts = 0
    var firstSent: Instant
    var lastSent: Instant
    var due: Instant
    var outcome = Outcome.waiting
  }

  /// Main and last auxiliary socket send to each other's outside endpoints.
  struct Hairpin {
    var auxiliary: UInt32
    var mainMapped: Endpoint
    var auxiliaryMapped: Endpoint
    var mainToken: STUNTransaction
    var auxiliaryToken: STUNTransaction
    var attempts = 0
    var due: Instant
    /// Nil: not decided.
    var works: Bool?
  }

  struct Stream {
    var connection: UInt32
    var transaction: STUNTransaction
    var decoder = STUNStream()
    var mapped: Endpoint?
    var isOver = false
  }

  package let settings: NATProbeSettings
  /// What the last finished probe found; `refresh` compares with it.
  package internal(set) var report: NATProbeReport?
  package internal(set) var drops = NATProbeDrops()

  var random: SeededRandom
  var phase = Phase.idle
  var started = Instant.distantPast
  var asks: [Ask] = []
  var hairpin: Hairpin?
  /// Runs beside the rest once the server has answered.
  var hops: HopProbe?
  var streams: [Stream] = []
  var hasDialled = false
  var lastConnection: UInt32 = 0
  var roundTrip: TimeAmount?
  /// The second address the server names.
  var other: Endpoint?
  /// The `mapped` event of this run has been told.
  var hasToldMapped = false
  /// So has the `learnt` event.
  var hasToldLearnt = false
  /// And all but the routers.
  private var hasToldFacts = false
  private var transmits: [NATProbeTransmit] = []
  private var events: [NATProbeEvent] = []

  package init(settings: NATProbeSettings, random: SeededRandom) {
    self.settings = settings
    self.random = random
  }

  package var isRunning: Bool { phase != .idle }

  // MARK: Commands

  /// Begins a whole probe; one that runs is given up without an event.
  package mutating func start(now: Instant) {
    stop()
    phase = .probing
    started = now
    let server = settings.server
    let first = Endpoint(server.address, server.udp1)
    let second = Endpoint(server.address, server.udp2)
    // One after the other and in this order: the allocator's step shows in it.
    ask(.mainFirst, from: settings.main.number, first, now: now)
    ask(.mainSecond, from: settings.main.number, second, now: now)
    for (index, socket) in settings.auxiliary.enumerated() {
      ask(.auxiliary(index), from: socket.number, first, now: now)
    }
  }

  /// Asks both UDP ports for the main socket's mapping again, which also keeps
  /// it open. The event `refreshed` follows, in less than 4 s.
  /// - Parameter counter: a new socket, behind a NAT that maps anew for every
  ///   destination and counts: its mapping is what `mapped` tells then. The main
  ///   socket's stays what it was while others move the counter on.
  /// - Returns: false while something else runs: nothing has been done.
  @discardableResult
  package mutating func refresh(counter: UInt32? = nil, now: Instant) -> Bool {
    guard phase == .idle else { return false }
    clear()
    phase = .refreshing
    started = now
    let server = settings.server
    ask(.mainFirst, from: settings.main.number, Endpoint(server.address, server.udp1), now: now)
    ask(.mainSecond, from: settings.main.number, Endpoint(server.address, server.udp2), now: now)
    if let counter {
      ask(.counter, from: counter, Endpoint(server.address, server.udp1), now: now)
    }
    return true
  }

  /// Gives up what runs, without an event but `hangUp`.
  package mutating func stop() {
    hangUpAll()
    clear()
    roundTrip = nil
    phase = .idle
  }

  /// Takes a STUN message (`STUNMessage.isSTUN`) that came in at `socket`.
  package mutating func receive(
    _ bytes: RawSpan, from source: Endpoint, socket: UInt32, now: Instant
  ) {
    guard let transaction = STUNMessage.transaction(of: bytes) else {
      drops.malformed &+= 1
      return
    }
    if hops?.reached(transaction, from: source, socket: socket) == true
      || receiveToken(transaction, bytes, socket: socket)
    {
      settle(now)
      return
    }
    guard let index = asks.firstIndex(where: { $0.transaction == transaction }),
      asks[index].outcome == .waiting
    else {
      drops.unknown &+= 1
      return
    }
    guard case .success(let message) = STUNMessage.decode(bytes) else {
      drops.malformed &+= 1
      return
    }
    receive(message, for: index, from: source, socket: socket, now: now)
    settle(now)
  }

  /// A router says, by ICMP, that a datagram from `socket` to `destination` died
  /// there because its time to live was over.
  package mutating func expired(
    at router: IPAddress, destination: Endpoint, socket: UInt32, now: Instant
  ) {
    guard
      hops?.expired(at: router, destination: destination, socket: socket, random: &random) == true
    else { return }
    settle(now)
  }

  // MARK: Time and drain

  package var nextDeadline: Instant {
    guard phase != .idle else { return .distantFuture }
    var next = started + NATProbeLimits.whole
    for ask in asks where ask.outcome == .waiting { next = min(next, ask.due) }
    if let hairpin, hairpin.works == nil { next = min(next, hairpin.due) }
    if let hops, !hops.isOver { next = min(next, hops.due) }
    if phase == .probing, !hasHeardUDP {
      if !hasDialled, !settings.server.tcp.isEmpty {
        next = min(next, started + NATProbeTunables.streamsAfter)
      } else if hasHeardTCP {
        next = min(next, started + NATProbeTunables.blockedAfter)
      }
    }
    return next
  }

  package mutating func advance(to now: Instant) {
    guard phase != .idle else { return }
    for index in asks.indices where asks[index].outcome == .waiting && asks[index].due <= now {
      if asks[index].attempts < allowedAttempts {
        transmit(index, now: now)
      } else {
        asks[index].outcome = .silent
      }
    }
    advanceHairpin(now)
    hops?.advance(to: now, random: &random)
    if phase == .probing, !hasHeardUDP, !hasDialled, !settings.server.tcp.isEmpty,
      now >= started + NATProbeTunables.streamsAfter
    {
      dialStreams()
    }
    settle(now)
  }

  package mutating func pollTransmit() -> NATProbeTransmit? {
    transmits.isEmpty ? nil : transmits.removeFirst()
  }

  package mutating func pollEvent() -> NATProbeEvent? {
    events.isEmpty ? nil : events.removeFirst()
  }

  // MARK: Inside

  var allowedAttempts: Int {
    phase == .refreshing ? NATProbeLimits.refreshAttempts : NATProbeLimits.attempts
  }

  mutating func queue(_ transmit: NATProbeTransmit) { transmits.append(transmit) }
  mutating func tell(_ event: NATProbeEvent) { events.append(event) }

  mutating func clear() {
    asks.removeAll(keepingCapacity: true)
    hairpin = nil
    hops = nil
    hasToldFacts = false
    streams.removeAll()
    hasDialled = false
    hasToldMapped = false
    hasToldLearnt = false
    other = nil
    transmits.removeAll()
  }

  /// After anything has changed: what follows from it, and whether it is over.
  mutating func settle(_ now: Instant) {
    let isTimeUp = now >= started + NATProbeLimits.whole
    switch phase {
    case .idle: return
    case .refreshing:
      if isTimeUp || !isWaiting { finishRefresh() }
    case .probing:
      beginHairpin(now)
      if isTimeUp { concludeSilence(now) }
      if !hasToldLearnt, areMappingsSeen {
        hasToldLearnt = true
        tell(.learnt(verdict().facts))
      }
      let isBlocked =
        !hasHeardUDP && hasHeardTCP && now >= started + NATProbeTunables.blockedAfter
      if isTimeUp { hops?.finish() }
      while let transmit = hops?.pollTransmit(now: now) { queue(transmit) }
      let isWaitingForRouters = hops.map { !$0.isOver } ?? false
      if isDecided, isWaitingForRouters, !hasToldFacts {
        hasToldFacts = true
        tell(.learnt(verdict().facts))
      }
      if isTimeUp || isBlocked || isDecided && !isWaitingForRouters { finishProbe() }
    }
  }

  private var isWaiting: Bool { asks.contains { $0.outcome == .waiting } }

  /// All that mapping and step are judged by has been answered: a round trip
  /// after the start, long before silence has proven what is filtered.
  private var areMappingsSeen: Bool {
    asks.allSatisfy { ask in
      switch ask.role {
      case .mainFirst, .mainSecond, .auxiliary:
        if case .answered = ask.outcome { true } else { false }
      case .mainOther, .changePort, .changeBoth, .counter: true
      }
    }
  }

  private var isDecided: Bool {
    guard !isWaiting, hairpin.map({ $0.works != nil }) ?? true else { return false }
    return hasHeardUDP || settings.server.tcp.isEmpty
      || hasDialled && streams.allSatisfy(\.isOver)
  }

  private mutating func finishProbe() {
    let result = verdict()
    report = result
    hangUpAll()
    clear()
    phase = .idle
    tell(.finished(result))
  }
}
