/// What we may send to addresses that have not answered: one table for the
/// whole node, because it must hold whoever asks (DESIGN §2). Counted per IP
/// address over an exact sliding window, so that listing many ports of one
/// victim gains nothing.

#if canImport(Bytes)
  package import Bytes
#endif

/// At most 20 packets and 3,000 bytes to one unanswered IP address in any 10 s.
/// Behind a NAT some of that room is the openers': a probe that waits for room comes
/// later, an opener that comes later is of no use, and the pings of the other end
/// take our router's port away until then.
package struct ProbeBudget: Sendable {
  private struct Window: Sendable {
    var times = InlineArray<20, Instant>(repeating: .distantPast)
    var sizes = InlineArray<20, Int32>(repeating: 0)
    var areOpeners = InlineArray<20, Bool>(repeating: false)
    var head = 0
    var count = 0
    var bytes = 0
    var openers = 0

    mutating func expire(_ now: Instant) {
      while count > 0, now - times[head] >= PathLimits.budgetWindow {
        bytes -= Int(sizes[head])
        if areOpeners[head] { openers -= 1 }
        head = (head + 1) % PathLimits.probesPerAddress
        count -= 1
      }
    }

    /// Whether `packets` more, of so many bytes in all, fit that are no openers.
    func holds(_ packets: Int, bytes more: Int, keepingRoom: Bool) -> Bool {
      let kept = keepingRoom ? max(0, PathLimits.openersPerAddress - openers) : 0
      return count + packets + kept <= PathLimits.probesPerAddress
        && bytes + more + kept * PathTunables.openerBytes <= PathLimits.bytesPerAddress
    }
  }

  private var windows: [IPAddress: Window] = [:]
  /// When the kernel will send SYNs that were asked for: they count before they
  /// leave, because nobody can hold them back.
  private var expected: [IPAddress: [Instant]] = [:]
  /// Room kept for SYNs that are waited with.
  private struct Hold: Hashable {
    var packets: Int
    var until: Instant
  }
  private var held: [IPAddress: [Hold]] = [:]
  /// Rounds of guessed ports, per address: when room was taken, packets.
  private var guesses: [IPAddress: [(at: Instant, packets: Int)]] = [:]
  /// Pairs that were refused room for a round at an address and ask again, in the
  /// order in which they began to.
  private var guessLines: [IPAddress: [(pair: UInt64, packets: Int, askedAt: Instant)]] = [:]

  /// Openers may be wanted: a NAT stands before us, or may.
  package var keepsOpenerRoom: Bool

  package init(keepsOpenerRoom: Bool = false) { self.keepsOpenerRoom = keepsOpenerRoom }

  /// Addresses remembered now.
  package var addressCount: Int { windows.count }
  /// Addresses at which pairs wait for room to guess.
  package var guessLineCount: Int { guessLines.count }

  /// Takes room for one packet of `bytes` (as on the carrier); false when the
  /// address has had enough. An opener may take the room that is kept for openers.
  package mutating func take(
    _ address: IPAddress, bytes: Int, isOpener: Bool = false, now: Instant
  ) -> Bool {
    if windows[address] == nil {
      if windows.count >= PathLimits.budgetAddresses { purge(now) }
      guard windows.count < PathLimits.budgetAddresses else { return false }
    }
    let ahead = settle(address, now: now)
    var window = windows[address] ?? Window()
    defer { windows[address] = window }
    window.expire(now)
    let room = ahead * StreamLimits.synBytes + bytes
    guard window.holds(ahead + 1, bytes: room, keepingRoom: keepsOpenerRoom && !isOpener)
    else { return false }
    return take(&window, bytes, isOpener: isOpener, now)
  }

  /// Takes room for the SYNs of one connection, the first at `start`; all or none.
  /// - Parameter offsets: when the kernel sends them, from `start`.
  package mutating func takeConnection(
    _ address: IPAddress, start: Instant, offsets: [TimeAmount], now: Instant
  ) -> Bool {
    if windows[address] == nil {
      if windows.count >= PathLimits.budgetAddresses { purge(now) }
      guard windows.count < PathLimits.budgetAddresses else { return false }
      windows[address] = Window()
    }
    let ahead = settle(address, now: now)
    let soon = offsets.count { start + $0 < now + PathLimits.budgetWindow }
    guard var window = windows[address] else { return false }
    window.expire(now)
    guard
      window.holds(
        ahead + soon, bytes: (ahead + soon) * StreamLimits.synBytes,
        keepingRoom: keepsOpenerRoom)
    else { return false }
    expected[address, default: []] += offsets.map { start + $0 }
    return true
  }

  /// The connection is there or given up: of its SYNs, `start` and `offsets` as
  /// they were taken, those due later than `last` will not leave any more.
  package mutating func returnConnection(
    _ address: IPAddress, start: Instant, offsets: [TimeAmount], after last: Instant
  ) {
    guard var times = expected[address] else { return }
    for offset in offsets where start + offset > last {
      if let i = times.firstIndex(of: start + offset) { times.remove(at: i) }
    }
    expected[address] = times.isEmpty ? nil : times
  }

  /// Keeps room for packets whose moment is not known yet: until `until`, or until
  /// `release` with the same words.
  /// - Returns: false when there is none.
  package mutating func hold(
    _ address: IPAddress, packets: Int, until: Instant, now: Instant
  ) -> Bool {
    if windows[address] == nil {
      if windows.count >= PathLimits.budgetAddresses { purge(now) }
      guard windows.count < PathLimits.budgetAddresses else { return false }
      windows[address] = Window()
    }
    let ahead = settle(address, now: now)
    guard var window = windows[address] else { return false }
    window.expire(now)
    guard
      window.holds(
        ahead + packets, bytes: (ahead + packets) * StreamLimits.synBytes,
        keepingRoom: keepsOpenerRoom)
    else { return false }
    held[address, default: []].append(Hold(packets: packets, until: until))
    return true
  }

  package mutating func release(_ address: IPAddress, packets: Int, until: Instant) {
    let hold = Hold(packets: packets, until: until)
    guard var holds = held[address], let i = holds.firstIndex(of: hold) else { return }
    holds.remove(at: i)
    held[address] = holds.isEmpty ? nil : holds
  }

  /// SYNs that have left by now are packets like others.
  /// - Returns: how many more leave within one window from now, or may.
  private mutating func settle(_ address: IPAddress, now: Instant) -> Int {
    var room = 0
    if let holds = held[address]?.filter({ $0.until > now }) {
      held[address] = holds.isEmpty ? nil : holds
      room = holds.reduce(0) { $0 + $1.packets }
    }
    guard var times = expected[address] else { return room }
    for time in times.sorted() where time <= now {
      guard now - time < PathLimits.budgetWindow else { continue }
      _ = take(&windows[address, default: Window()], StreamLimits.synBytes, time)
    }
    times.removeAll { $0 <= now }
    expected[address] = times.isEmpty ? nil : times
    return room + times.count { $0 < now + PathLimits.budgetWindow }
  }

  private func take(
    _ window: inout Window, _ bytes: Int, isOpener: Bool = false, _ now: Instant
  ) -> Bool {
    window.expire(now)
    guard window.count < PathLimits.probesPerAddress,
      window.bytes + bytes <= PathLimits.bytesPerAddress
    else { return false }
    let slot = (window.head + window.count) % PathLimits.probesPerAddress
    window.times[slot] = now
    window.sizes[slot] = Int32(bytes)
    window.areOpeners[slot] = isOpener
    window.count += 1
    window.bytes += bytes
    if isOpener { window.openers += 1 }
    return true
  }

  /// Takes room for a round of `packets` guesses at one address; all or none, and
  /// none that a pair needs which waits there for longer. `pair` tells pairs apart.
  package mutating func takeGuesses(
    _ address: IPAddress, packets: Int, pair: UInt64, now: Instant
  ) -> Bool {
    if guesses[address] == nil, guesses.count >= PathLimits.guessAddresses {
      guesses = guesses.filter { entry in
        entry.value.contains { now - $0.at < PathLimits.guessWindow }
      }
      guard guesses.count < PathLimits.guessAddresses else { return false }
    }
    var rounds = guesses[address] ?? []
    rounds.removeAll { now - $0.at >= PathLimits.guessWindow }
    var line = guessLines[address] ?? []
    line.removeAll { now - $0.askedAt >= PathLimits.guessPatience }
    let place = line.firstIndex { $0.pair == pair }
    let ahead = line[..<(place ?? line.count)].reduce(0) { $0 + $1.packets }
    let isTaken =
      rounds.reduce(packets) { $0 + $1.packets } + ahead <= PathLimits.guessesPerAddress
    if isTaken {
      if packets > 0 { rounds.append((now, packets)) }
      if let place { line.remove(at: place) }
    } else if let place {
      line[place] = (pair, packets, now)
    } else if line.count < PathLimits.guessLine, mayQueue(at: address, now: now) {
      line.append((pair, packets, now))
    }
    guesses[address] = rounds.isEmpty ? nil : rounds
    guessLines[address] = line.isEmpty ? nil : line
    return isTaken
  }

  /// Addresses at which nobody waits any more are forgotten when there are too many.
  private mutating func mayQueue(at address: IPAddress, now: Instant) -> Bool {
    guard guessLines[address] == nil, guessLines.count >= PathLimits.guessAddresses else {
      return true
    }
    guessLines = guessLines.filter { entry in
      entry.value.contains { now - $0.askedAt < PathLimits.guessPatience }
    }
    return guessLines.count < PathLimits.guessAddresses
  }

  /// So many of a round have not been sent and will not be: a port was hit.
  package mutating func returnGuesses(_ address: IPAddress, packets: Int, takenAt: Instant) {
    guard var rounds = guesses[address],
      let i = rounds.firstIndex(where: { $0.at == takenAt && $0.packets >= packets })
    else { return }
    rounds[i].packets -= packets
    if rounds[i].packets == 0 { rounds.remove(at: i) }
    guesses[address] = rounds.isEmpty ? nil : rounds
  }

  /// When there may be room again for a packet to `address`.
  package func nextFree(_ address: IPAddress, now: Instant) -> Instant {
    guard let window = windows[address], window.count > 0 else {
      return now + .seconds(1)
    }
    let free = window.times[window.head] + PathLimits.budgetWindow
    // SYNs to come take the room, not packets that have left.
    if free <= now, expected[address] != nil || held[address] != nil { return now + .seconds(1) }
    return max(now + .milliseconds(10), free)
  }

  private mutating func purge(_ now: Instant) {
    windows = windows.filter { entry in
      var window = entry.value
      window.expire(now)
      return window.count > 0 || expected[entry.key] != nil || held[entry.key] != nil
    }
  }
}
