/// What we may send to addresses that have not answered: one table for the
/// whole node, because it must hold whoever asks (DESIGN §2). Counted per IP
/// address over an exact sliding window, so that listing many ports of one
/// victim gains nothing.

#if canImport(Bytes)
  package import Bytes
#endif

/// At most 20 packets and 3,000 bytes to one unanswered IP address in any 10 s.
package struct ProbeBudget: Sendable {
  private struct Window: Sendable {
    var times = InlineArray<20, Instant>(repeating: .distantPast)
    var sizes = InlineArray<20, Int32>(repeating: 0)
    var head = 0
    var count = 0
    var bytes = 0

    mutating func expire(_ now: Instant) {
      while count > 0, now - times[head] >= PathLimits.budgetWindow {
        bytes -= Int(sizes[head])
        head = (head + 1) % PathLimits.probesPerAddress
        count -= 1
      }
    }
  }

  private var windows: [IPAddress: Window] = [:]
  /// Guessed ports, per address: when the window began, packets in it.
  private var guesses: [IPAddress: (since: Instant, packets: Int)] = [:]

  package init() {}

  /// Addresses remembered now.
  package var addressCount: Int { windows.count }

  /// Takes room for one packet of `bytes` (as on the carrier); false when the
  /// address has had enough.
  package mutating func take(_ address: IPAddress, bytes: Int, now: Instant) -> Bool {
    if windows[address] == nil {
      if windows.count >= PathLimits.budgetAddresses { purge(now) }
      guard windows.count < PathLimits.budgetAddresses else { return false }
    }
    return take(&windows[address, default: Window()], bytes, now)
  }

  private func take(_ window: inout Window, _ bytes: Int, _ now: Instant) -> Bool {
    window.expire(now)
    guard window.count < PathLimits.probesPerAddress,
      window.bytes + bytes <= PathLimits.bytesPerAddress
    else { return false }
    let slot = (window.head + window.count) % PathLimits.probesPerAddress
    window.times[slot] = now
    window.sizes[slot] = Int32(bytes)
    window.count += 1
    window.bytes += bytes
    return true
  }

  /// Takes room for a round of `packets` guesses at one address; all or none.
  package mutating func takeGuesses(
    _ address: IPAddress, packets: Int, now: Instant
  ) -> Bool {
    if guesses[address] == nil, guesses.count >= PathLimits.guessAddresses {
      guesses = guesses.filter { now - $0.value.since < PathLimits.guessWindow }
      guard guesses.count < PathLimits.guessAddresses else { return false }
    }
    var window = guesses[address] ?? (now, 0)
    if now - window.since >= PathLimits.guessWindow { window = (now, 0) }
    guard window.packets + packets <= PathLimits.guessesPerAddress else { return false }
    window.packets += packets
    guesses[address] = window
    return true
  }

  /// When there may be room again for a packet to `address`.
  package func nextFree(_ address: IPAddress, now: Instant) -> Instant {
    guard let window = windows[address], window.count > 0 else {
      return now + .seconds(1)
    }
    return max(now + .milliseconds(10), window.times[window.head] + PathLimits.budgetWindow)
  }

  private mutating func purge(_ now: Instant) {
    windows = windows.filter { entry in
      var window = entry.value
      window.expire(now)
      return window.count > 0
    }
  }
}
