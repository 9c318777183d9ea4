/// How large a packet a path carries. On UDP a search with probes (RFC 8899)
/// over inner sizes that are multiples of 64: 1200-byte datagrams are assumed
/// and confirmed, the size of an ordinary link is tried at once beside it, 548
/// is the fallback, and a doubt about the present size is settled by a probe
/// of that size. On streams the size follows the delivery rate (DESIGN §1.2).
/// It never sends: the owner asks `nextProbe` and reports answers.

#if canImport(Bytes)
  import Bytes
#endif

/// RFC 8899 §5 for one UDP path; sizes are plaintext bytes.
struct PacketSizeSearch: Sendable {
  /// A probe on its way.
  struct Outstanding: Sendable {
    var size: Int
    var challenge: UInt64
    var sentAt: Instant
    var deadline: Instant
  }
  /// What an answer or a time-out led to.
  enum Outcome: Equatable, Sendable {
    case nothing
    /// `current` grew or shrank.
    case changed
    /// The present size is answered: no black hole.
    case verified
    /// The present size is not answered while small pings are.
    case blackHole
    /// Not even the smallest size is answered while small pings are.
    case exhausted
  }

  static let base = PathSizes.inner(ofDatagram: PathSizes.baseDatagram)
  static let minimum = PathSizes.inner(ofDatagram: PathSizes.minimumDatagram)
  private static let step = PathSizes.innerStep

  /// What may be used now.
  private(set) var current = base
  /// Largest size answered; 0 = none since the last doubt.
  private(set) var confirmed = 0
  /// Smallest size known to fail.
  private(set) var failing: Int
  private(set) var ceiling: Int
  private(set) var isComplete = false
  private var raiseAt = Instant.distantFuture

  // Two probes at most: one that tests what is in use (the base at the start,
  // the present size when in doubt), one that reaches for more.
  private var check: Outstanding?
  private var checkTries = 0
  private var checkStarted = Instant.distantPast
  private var checkWanted = true
  private var isDoubt = false
  private var reach: Outstanding?
  private var reachTries = 0
  private var reachSize = 0
  private var latestTimeout = PathTunables.sizeTimeoutFloor

  init(maximumDatagram: Int) {
    let limit = min(PathSizes.inner(ofDatagram: maximumDatagram), 65_472)
    ceiling = max(Self.minimum, limit)
    failing = ceiling + Self.step
    current = min(Self.base, ceiling)
  }

  /// The next size to probe now, if any. `mayRaise`: the pair is in use, so a
  /// wider path is worth looking for.
  mutating func nextProbe(mayRaise: Bool, now: Instant) -> Int? {
    if mayRaise, isComplete, now >= raiseAt {
      isComplete = false
      failing = ceiling + Self.step
      raiseAt = .distantFuture
      reachSize = min(current + Self.step, ceiling)
      reachTries = 0
      if confirmed == 0 { checkWanted = true }
    }
    if check == nil, checkWanted { return current }
    if reach == nil, !isComplete, confirmed > 0 || reachSize == 0 {
      if reachSize == 0 || reachSize <= confirmed || reachSize >= failing {
        chooseReach()
      }
      if isComplete {
        if raiseAt == .distantFuture { raiseAt = now + PathTunables.sizeRaise }
        return nil
      }
      return reachSize
    }
    return nil
  }

  /// The probe asked for has left.
  mutating func sent(size: Int, challenge: UInt64, timeout: TimeAmount, now: Instant) {
    latestTimeout = max(timeout, PathTunables.sizeTimeoutFloor)
    let probe = Outstanding(
      size: size, challenge: challenge, sentAt: now, deadline: now + latestTimeout)
    if size == current, checkWanted, check == nil {
      check = probe
      if checkTries == 0 { checkStarted = now }
      checkTries += 1
    } else {
      reach = probe
      reachTries += 1
    }
  }

  /// A size probe was answered; nil when the challenge is not ours.
  mutating func answered(challenge: UInt64, size: Int, now: Instant) -> (
    outcome: Outcome, sentAt: Instant
  )? {
    if let probe = check, probe.challenge == challenge {
      guard size >= probe.size else { return (.nothing, probe.sentAt) }
      let doubted = isDoubt
      check = nil
      checkWanted = false
      checkTries = 0
      isDoubt = false
      confirmed = max(confirmed, probe.size)
      return (doubted ? .verified : .nothing, probe.sentAt)
    }
    if let probe = reach, probe.challenge == challenge {
      guard size >= probe.size else { return (.nothing, probe.sentAt) }
      reach = nil
      reachTries = 0
      confirmed = max(confirmed, probe.size)
      if probe.size >= failing { failing = min(ceiling, probe.size) + Self.step }
      chooseReach()
      if isComplete { raiseAt = now + PathTunables.sizeRaise }
      guard probe.size > current else { return (.nothing, probe.sentAt) }
      current = probe.size
      checkWanted = false
      check = nil
      isDoubt = false
      return (.changed, probe.sentAt)
    }
    return nil
  }

  /// Data on this path goes unacknowledged: test the present size.
  mutating func doubt() {
    guard !isDoubt else { return }
    isDoubt = true
    checkWanted = true
    check = nil
    checkTries = 0
  }

  var isInDoubt: Bool { isDoubt }

  /// True when only a small ping can tell whether the size or the path fails.
  func needsSmallPing(lastAnswered small: Instant) -> Bool {
    checkTries > 0 && checkWanted && (isDoubt || checkTries > 1 || check == nil)
      && small < checkStarted
  }

  /// The path was dead and stands again: confirm what was known, reach anew.
  mutating func restart() {
    check = nil
    checkTries = 0
    checkWanted = true
    isDoubt = false
    reach = nil
    reachTries = 0
    reachSize = 0
    failing = ceiling + Self.step
    isComplete = false
    raiseAt = .distantFuture
  }

  /// Handles probes whose time is up. `small` is when a small ping was last
  /// answered: a size fails only when the path itself was alive meanwhile.
  mutating func expire(small: Instant, now: Instant) -> Outcome {
    var outcome = Outcome.nothing
    if let probe = reach, now >= probe.deadline {
      reach = nil
      if reachTries >= PathTunables.sizeTries {
        failing = min(failing, probe.size)
        reachTries = 0
        chooseReach()
        if isComplete { raiseAt = now + PathTunables.sizeRaise }
      }
    }
    if let probe = check, now >= probe.deadline {
      check = nil
      let tries = isDoubt ? PathTunables.sizeTries - 1 : PathTunables.sizeTries
      if checkTries >= tries {
        checkTries = 0
        if small < checkStarted {
          // Nothing small came back either: says nothing about sizes.
          checkWanted = !isDoubt
          isDoubt = false
        } else {
          outcome = fall(below: probe.size, now: now)
        }
      }
    }
    return outcome
  }

  /// The kernel or a router says that `limit` (UDP payload) is the most; 0 when
  /// it only says that something was too long: the probe that reaches for more,
  /// or else the present size, which is then put to the test.
  mutating func refused(limit: Int) -> Outcome {
    guard limit > 0 else {
      if let probe = reach {
        reach = nil
        failing = min(failing, probe.size)
        chooseReach()
      } else if check == nil {
        doubt()
      }
      return .nothing
    }
    let inner = max(Self.minimum, PathSizes.inner(ofDatagram: limit))
    ceiling = min(ceiling, max(inner, Self.minimum))
    failing = min(failing, inner + Self.step)
    if let probe = reach, probe.size > inner {
      reach = nil
      reachTries = 0
    }
    if let probe = check, probe.size > inner { check = nil }
    chooseReach()
    guard current > inner else { return .nothing }
    current = inner
    confirmed = min(confirmed, inner)
    checkWanted = true
    checkTries = 0
    return .changed
  }

  /// The earliest instant at which there is something to do.
  func nextDeadline(mayRaise: Bool, now: Instant) -> Instant {
    if check == nil, checkWanted { return now }
    if reach == nil, !isComplete, confirmed > 0 || reachSize == 0 { return now }
    var next = isComplete && mayRaise ? raiseAt : Instant.distantFuture
    if let check { next = min(next, check.deadline) }
    if let reach { next = min(next, reach.deadline) }
    return next
  }

  // MARK: -

  /// The present size does not pass: to the base, from there to the minimum.
  private mutating func fall(below size: Int, now: Instant) -> Outcome {
    isDoubt = false
    guard current > Self.minimum else {
      // Even the smallest fails: keep it and ask again later.
      checkWanted = false
      isComplete = true
      raiseAt = now + PathTunables.sizeRaise
      return .exhausted
    }
    let wasInDoubt = confirmed >= size
    current = size > Self.base ? Self.base : Self.minimum
    failing = size
    confirmed = 0
    checkWanted = true
    checkTries = 0
    reach = nil
    reachTries = 0
    reachSize = Self.step  // chosen anew once the check has passed
    isComplete = false
    raiseAt = .distantFuture
    return wasInDoubt ? .blackHole : .changed
  }

  /// The next size to reach for, or completion.
  private mutating func chooseReach() {
    let low = max(confirmed, current)
    reachTries = 0
    guard failing > low + Self.step, low < ceiling else {
      reachSize = 0
      isComplete = true
      return
    }
    isComplete = false
    let common = PathTunables.commonInner
    if common > low, common < failing, failing > ceiling {
      reachSize = common
    } else if failing > ceiling {
      reachSize = ceiling
    } else if low == common, failing == ceiling {
      // Not a jumbo link: most end here, one probe above settles it.
      reachSize = common + Self.step
    } else {
      reachSize = (low + (failing - low) / 2) / Self.step * Self.step
      if reachSize <= low { reachSize = low + Self.step }
    }
  }
}

/// The largest packet on a TCP or relayed carrier: what the path moves in
/// 2 ms, changed only when it matters.
struct StreamPacketSize: Sendable {
  private(set) var current: Int
  private var floor: Int
  private var ceiling: Int

  /// - Parameter limit: largest sealed packet the carrier takes.
  init(isRelay: Bool, limit: Int) {
    let inner = min(PathSizes.largestInner, max(0, limit - PathSizes.sealOverhead))
    ceiling = Self.rounded(isRelay ? min(inner, PathTunables.relayCeiling) : inner)
    floor = min(Self.rounded(PathTunables.streamFloor), ceiling)
    current = min(isRelay ? PathTunables.relayStart : PathTunables.streamStart, ceiling)
  }

  /// True when `current` changed.
  mutating func deliveryRate(_ bytesPerSecond: Double) -> Bool {
    let bytes = bytesPerSecond * PathTunables.streamTime.inSeconds
    guard bytes.isFinite, bytes >= 0 else { return false }
    let wanted = max(floor, min(ceiling, Self.rounded(Int(min(bytes, 1e9)))))
    // A quarter more or less is not worth telling anybody.
    guard wanted * 4 >= current * 5 || wanted * 5 <= current * 4 else { return false }
    guard wanted != current else { return false }
    current = wanted
    return true
  }

  private static func rounded(_ bytes: Int) -> Int {
    bytes / PathSizes.sealPadding * PathSizes.sealPadding
  }
}
