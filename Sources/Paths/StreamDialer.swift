/// When a node dials TCP to one peer, and where: after UDP has had its chance,
/// in an agreed order where NATs stand between, a few times and no more. A plain
/// value per peer; it opens nothing itself and never dials what
/// `CandidateRules.tcpRefusal` refuses (its owner checks before it names a
/// candidate). DESIGN §2 "TCP: simultaneous open from the port STUN saw";
/// docs/protocol/punching.md "TCP".
///
/// ```
///   waiting ──start──► dialling ──opened──► over (the owner has it)
///      ▲                  │ refused, silent
///      └── three times ───┴───────────────► over (until the next start)
/// ```
///
/// Through NATs an attempt is one connection that goes on being asked for, for
/// two minutes if need be and through any number of starts: what opened our NAT
/// is followed there by its numbers, and another connection of the same ends
/// would not fit the hole that the first has made.

#if canImport(Bytes)
  package import Bytes
#endif

/// An endpoint of the peer at which a TCP connection may be tried.
package struct StreamCandidate: Hashable, Sendable {
  package var endpoint: Endpoint
  package var kind: CandidateKind
  /// `.tcpDirect` or `.tcpPunch`.
  package var tier: Tier

  package init(endpoint: Endpoint, kind: CandidateKind, tier: Tier) {
    self.endpoint = endpoint
    self.kind = kind
    self.tier = tier
  }
}

/// What the dialer wants done.
package enum StreamDialAction: Hashable, Sendable {
  /// Connect from the listening port. `opened` or `failed` with the number
  /// follows, unless it is cancelled before.
  case dial(number: UInt32, Endpoint)
  /// Give the attempt up; nothing need be told about it.
  case cancel(number: UInt32)
  /// A NAT of ours has to be passed: find out where TCP leaves it.
  case learnMapping
}

package enum StreamLimits {
  /// Endpoints of one peer that are dialled.
  package static let candidates = 8
  /// Attempts at one endpoint after one agreed start; through NATs it is one.
  package static let attempts = 3
  /// What one SYN counts in the probe budget: IP and TCP heads, options.
  package static let synBytes = 60
  /// When Linux sends the SYNs of an attempt: doubling from a second, and since
  /// 6.5 four more at the beginning. What either does is counted.
  package static let syns: [TimeAmount] = [0, 1, 2].map { TimeAmount.seconds($0) }
  package static let punchSyns: [TimeAmount] = [
    0, 1, 2, 3, 4, 5, 7, 11, 15, 19, 31, 35, 63, 67,
  ].map { TimeAmount.seconds($0) }
  /// A SYN due so soon may still leave after the attempt was given up.
  package static let synSlack = TimeAmount.milliseconds(20)
}

package enum StreamTunables {
  /// UDP gets so long from the agreed start before TCP is tried.
  package static let datagramsFirst = TimeAmount.milliseconds(400)
  /// Through NATs one end goes first: its connection opens its own NAT and ends
  /// at the other's, and the second's comes in through the hole. No opener with a
  /// short life can do that as for datagrams: routers follow a connection by its
  /// sequence numbers. The second is told by the first, through the server; a word
  /// that does not come is waited for so long after the start.
  package static let withoutWord = TimeAmount.seconds(5)
  /// An attempt without an answer ends after this: the kernel has repeated it once.
  package static let attemptTime = TimeAmount.milliseconds(2_500)
  /// The same through NATs: as long as Linux repeats a SYN (tcp_syn_retries) and
  /// its routers remember it (nf_conntrack_tcp_timeout_syn_sent).
  package static let punchTime = TimeAmount.seconds(125)
  /// Between two attempts at one endpoint.
  package static let pause = TimeAmount.milliseconds(400)
  /// A connection that nothing authentic answers on is closed: where both ends
  /// have one, the one of the deciding end lives.
  package static let trialTime = TimeAmount.seconds(4)
  /// A TCP path is closed when a UDP one has been used for so long: the relay is
  /// warm anyway, and one connection less is one less for routers to remember.
  package static let rest = TimeAmount.seconds(60)
}

package struct StreamDialer: Sendable {
  private enum State: Hashable {
    case waiting
    case dialling(UInt32)
    case over
  }
  private struct Entry {
    var candidate: StreamCandidate
    var state = State.over
    var attempts = 0
    var next = Instant.distantFuture
    /// Room is kept in the budget for its first SYNs until then.
    var heldUntil: Instant?
    /// Its SYNs are taken from the budget; the first left then.
    var paidFrom: Instant?

    var isPunch: Bool { candidate.tier == .tcpPunch }
    var syns: [TimeAmount] { isPunch ? StreamLimits.punchSyns : StreamLimits.syns }
    static let firstPunchSyns = StreamLimits.punchSyns.count { $0 < PathLimits.budgetWindow }
  }

  /// Room of the budget that is not needed any more.
  private enum Unused {
    case hold(IPAddress, until: Instant)
    case connection(IPAddress, start: Instant, offsets: [TimeAmount])
  }

  private var entries: [Entry] = []
  private var cancels: [UInt32] = []
  private var unused: [Unused] = []
  private var wantsMapping = false
  private var start = Instant.distantPast
  private var isStopped = true
  private var isSecond = false
  /// The other end, which is first, has opened its NAT.
  private var hasWord = false
  /// Connections asked for through NATs, ever.
  package private(set) var punches: UInt64 = 0

  package init() {}

  /// Something is tried, or will be.
  package var isDialling: Bool { !isStopped && entries.contains { $0.state != .over } }

  /// Everything there is to ask for through NATs is being asked for: our own lets
  /// the other end in.
  package var isPunching: Bool {
    !isStopped && !entries.contains { $0.isPunch && $0.state == .waiting }
      && entries.contains { if case .dialling = $0.state { $0.isPunch } else { false } }
  }

  /// What is named now joins the round that runs.
  package func isOpen(now: Instant) -> Bool {
    !isStopped && now - start < PathTunables.punchSpan
  }

  /// All endpoints of the peer, best first. New ones join the round that runs.
  package mutating func setCandidates(_ candidates: [StreamCandidate], now: Instant) {
    for i in entries.indices.reversed()
    where !candidates.contains(where: { $0.endpoint == entries[i].candidate.endpoint }) {
      // A connection that is being asked for may still be met half-way.
      if case .dialling = entries[i].state { continue }
      giveBack(i)
      entries.remove(at: i)
    }
    for candidate in candidates {
      if let i = entries.firstIndex(where: { $0.candidate.endpoint == candidate.endpoint }) {
        let isMoved = entries[i].candidate.tier != candidate.tier
        entries[i].candidate = candidate
        // What must wait for the other end, or need not any more.
        if isMoved, entries[i].state == .waiting {
          entries[i].next = max(now, due(candidate))
        }
        continue
      }
      guard entries.count < StreamLimits.candidates else { break }
      var entry = Entry(candidate: candidate)
      if isOpen(now: now) {
        entry.state = .waiting
        entry.next = max(now, due(candidate))
      }
      entries.append(entry)
    }
  }

  /// Both ends begin at `agreed`.
  /// - Parameters:
  ///   - isUrgent: UDP is known to be of no use between the two.
  ///   - isSecond: through NATs the other end goes first.
  package mutating func begin(
    at agreed: Instant, isUrgent: Bool, isSecond: Bool, budget: inout ProbeBudget, now: Instant
  ) {
    start = max(agreed, now) + (isUrgent ? .zero : StreamTunables.datagramsFirst)
    isStopped = false
    wantsMapping = true
    hasWord = false
    self.isSecond = isSecond
    for i in entries.indices {
      if case .dialling = entries[i].state, entries[i].isPunch { continue }
      abandon(i)
      returnUnused(to: &budget, now: now)
      entries[i].attempts = 0
      entries[i].state = .waiting
      entries[i].next = due(entries[i].candidate)
      if entries[i].isPunch { hold(i, budget: &budget, now: now) }
    }
  }

  /// Who goes first through the NATs, as both know by now.
  package mutating func setSecond(_ isSecond: Bool, now: Instant) {
    guard isSecond != self.isSecond else { return }
    self.isSecond = isSecond
    orderAgain(now: now)
  }

  /// The other end's word that it has opened its NAT.
  package mutating func peerIsDialling(now: Instant) {
    guard !hasWord else { return }
    hasWord = true
    orderAgain(now: now)
  }

  /// A path is there, or nobody wants one any more.
  package mutating func stop() {
    isStopped = true
    wantsMapping = false
    for i in entries.indices { abandon(i) }
  }

  package var nextDeadline: Instant {
    guard cancels.isEmpty, unused.isEmpty else { return .distantPast }
    guard !isStopped else { return .distantFuture }
    var next = wantsMapping ? start : Instant.distantFuture
    for entry in entries where entry.state != .over { next = min(next, entry.next) }
    return next
  }

  /// What is due now, or nil. `lastNumber` counts connections of the whole node.
  package mutating func poll(
    lastNumber: inout UInt32, budget: inout ProbeBudget, now: Instant
  ) -> StreamDialAction? {
    returnUnused(to: &budget, now: now)
    if let number = cancels.popLast() { return .cancel(number: number) }
    guard !isStopped else { return nil }
    if wantsMapping, now >= start {
      wantsMapping = false
      return .learnMapping
    }
    for i in entries.indices where entries[i].next <= now {
      switch entries[i].state {
      case .over: continue
      case .waiting:
        giveBack(i)
        returnUnused(to: &budget, now: now)
        guard take(i, budget: &budget, now: now) else { continue }
        if entries[i].isPunch { punches += 1 }
        lastNumber &+= 2
        entries[i].attempts += 1
        entries[i].state = .dialling(lastNumber)
        entries[i].next =
          now + (entries[i].isPunch ? StreamTunables.punchTime : StreamTunables.attemptTime)
        return .dial(number: lastNumber, entries[i].candidate.endpoint)
      case .dialling(let number):
        again(i, now: now)
        return .cancel(number: number)
      }
    }
    return nil
  }

  /// The attempt led to a connection; it is the owner's from now on. Nil: it is
  /// none of this dialer's, or was cancelled.
  package mutating func opened(number: UInt32) -> StreamCandidate? {
    guard let i = index(of: number) else { return nil }
    entries[i].state = .over
    giveBack(i)
    return entries[i].candidate
  }

  /// The attempt failed. False: it was none of this dialer's.
  package mutating func failed(number: UInt32, now: Instant) -> Bool {
    guard let i = index(of: number) else { return false }
    again(i, now: now)
    return true
  }

  // MARK: -

  private func index(of number: UInt32) -> Int? {
    entries.firstIndex { $0.state == .dialling(number) }
  }

  private func due(_ candidate: StreamCandidate) -> Instant {
    guard isSecond, !hasWord, candidate.tier == .tcpPunch else { return start }
    return start + StreamTunables.withoutWord
  }

  private mutating func orderAgain(now: Instant) {
    for i in entries.indices where entries[i].isPunch && entries[i].state == .waiting {
      entries[i].next = max(now, due(entries[i].candidate))
    }
  }

  private mutating func again(_ i: Int, now: Instant) {
    giveBack(i)
    let isAgain = !entries[i].isPunch && entries[i].attempts < StreamLimits.attempts
    entries[i].state = isAgain ? .waiting : .over
    entries[i].next = now + StreamTunables.pause
  }

  private mutating func abandon(_ i: Int) {
    if case .dialling(let number) = entries[i].state { cancels.append(number) }
    entries[i].state = .over
    giveBack(i)
  }

  /// SYNs to an address that has not answered are probes like others.
  private mutating func take(_ i: Int, budget: inout ProbeBudget, now: Instant) -> Bool {
    let address = entries[i].candidate.endpoint.address
    guard budget.takeConnection(address, start: now, offsets: entries[i].syns, now: now) else {
      entries[i].next = max(now + StreamTunables.pause, budget.nextFree(address, now: now))
      return false
    }
    entries[i].paidFrom = now
    return true
  }

  /// The datagrams of a start would leave nothing: a connection that is asked for
  /// too late has missed the other end's.
  private mutating func hold(_ i: Int, budget: inout ProbeBudget, now: Instant) {
    let until = start + StreamTunables.withoutWord + StreamTunables.pause
    if budget.hold(
      entries[i].candidate.endpoint.address, packets: Entry.firstPunchSyns, until: until,
      now: now)
    {
      entries[i].heldUntil = until
    }
  }

  /// The budget is the caller's: it has it back with the next call that names it.
  private mutating func giveBack(_ i: Int) {
    let entry = entries[i]
    let address = entry.candidate.endpoint.address
    if let until = entry.heldUntil { unused.append(.hold(address, until: until)) }
    if let start = entry.paidFrom {
      unused.append(.connection(address, start: start, offsets: entry.syns))
    }
    entries[i].heldUntil = nil
    entries[i].paidFrom = nil
  }

  private mutating func returnUnused(to budget: inout ProbeBudget, now: Instant) {
    while let last = unused.popLast() {
      switch last {
      case .hold(let address, let until):
        budget.release(address, packets: Entry.firstPunchSyns, until: until)
      case .connection(let address, let start, let offsets):
        budget.returnConnection(
          address, start: start, offsets: offsets, after: now + StreamLimits.synSlack)
      }
    }
  }
}
