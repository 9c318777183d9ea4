/// When TCP is dialled: after UDP's chance, in the agreed order, within the
/// budget; and that what opened a NAT is not given up for another of its kind.
import Bytes
import Paths
import Testing

private let start = Instant(nanoseconds: 1_000_000_000)
private let peer = IPAddress(203, 0, 113, 7)
private let open = StreamCandidate(
  endpoint: Endpoint(peer, 4000), kind: .host, tier: .tcpDirect)
private let hidden = StreamCandidate(
  endpoint: Endpoint(peer, 5000), kind: .serverReflexive, tier: .tcpPunch)

private struct End {
  var dialer = StreamDialer()
  var budget = ProbeBudget()
  var number: UInt32 = 100
  var now = start
  var actions: [(at: TimeAmount, action: StreamDialAction)] = []

  mutating func begin(urgent: Bool = false, second: Bool = false) {
    dialer.begin(at: now, isUrgent: urgent, isSecond: second, budget: &budget, now: now)
  }

  mutating func run(for amount: TimeAmount) {
    let end = now + amount
    while true {
      while let action = dialer.poll(lastNumber: &number, budget: &budget, now: now) {
        actions.append((now - start, action))
      }
      let next = max(now, dialer.nextDeadline)
      guard next <= end else { break }
      now = next
    }
    now = end
  }

  var dials: [(at: Double, number: UInt32, endpoint: Endpoint)] {
    actions.compactMap {
      guard case .dial(let number, let endpoint) = $0.action else { return nil }
      return ($0.at.inMilliseconds, number, endpoint)
    }
  }
  var cancelled: [UInt32] {
    actions.compactMap {
      guard case .cancel(let number) = $0.action else { return nil }
      return number
    }
  }
}

@Test func datagramsGetTheirChanceFirst() {
  var end = End()
  end.dialer.setCandidates([open, hidden], now: start)
  end.begin()
  end.run(for: .seconds(1))
  #expect(end.dials.map(\.at) == [400, 400])
  #expect(end.actions.first?.action == .learnMapping)
  var urgent = End()
  urgent.dialer.setCandidates([open], now: start)
  urgent.begin(urgent: true)
  urgent.run(for: .seconds(1))
  #expect(urgent.dials.map(\.at) == [0])
}

@Test func aPathInTimeMeansThatNothingIsDialled() {
  var end = End()
  end.dialer.setCandidates([open, hidden], now: start)
  end.begin()
  end.run(for: .milliseconds(300))
  end.dialer.stop()
  end.run(for: .minutes(5))
  #expect(end.actions.isEmpty)
  #expect(end.dialer.nextDeadline == .distantFuture)
}

@Test func throughNATsOneEndGoesFirst() {
  var end = End()
  end.dialer.setCandidates([open, hidden], now: start)
  end.begin(urgent: true, second: true)
  end.run(for: .seconds(1))
  #expect(end.dials.map(\.endpoint) == [open.endpoint])
  #expect(!end.dialer.isPunching)
  end.dialer.peerIsDialling(now: end.now)
  end.run(for: .milliseconds(1))
  #expect(end.dials.map(\.endpoint) == [open.endpoint, hidden.endpoint])
  #expect(end.dialer.isPunching && end.dialer.punches == 1)
  var first = End()
  first.dialer.setCandidates([hidden], now: start)
  first.begin(urgent: true)
  first.run(for: .milliseconds(1))
  #expect(first.dials.map(\.at) == [0] && first.dialer.isPunching)
}

/// The word may be lost with the server; and who is first may turn out late.
@Test func theSecondEndDoesNotWaitForEver() {
  var end = End()
  end.dialer.setCandidates([hidden], now: start)
  end.begin(urgent: true, second: true)
  end.run(for: .seconds(9))
  #expect(end.dials.map(\.at) == [5_000])
  var other = End()
  other.dialer.setCandidates([hidden], now: start)
  other.begin(urgent: true, second: true)
  other.run(for: .seconds(1))
  other.dialer.setSecond(false, now: other.now)
  other.run(for: .seconds(1))
  #expect(other.dials.map(\.at) == [1_000])
}

/// It turns out that everybody reaches the peer: nobody's word is needed.
@Test func whatNeedsNoHoleAfterAllIsDialledAtOnce() {
  var end = End()
  var host = open
  host.tier = .tcpPunch
  end.dialer.setCandidates([host], now: start)
  end.begin(urgent: true, second: true)
  end.run(for: .seconds(1))
  end.dialer.setCandidates([open], now: end.now)
  end.run(for: .milliseconds(1))
  #expect(end.dials.map(\.at) == [1_000])
}

/// The first hole is known by its connection's numbers: another start must not
/// ask for another connection, nor give this one up.
@Test func aPunchIsOneConnectionThroughAllStarts() {
  var end = End()
  end.dialer.setCandidates([hidden], now: start)
  end.begin(urgent: true)
  end.run(for: .seconds(3))
  end.begin()
  end.run(for: .seconds(5))
  // Not named any more: it may still be met half-way.
  end.dialer.setCandidates([], now: end.now)
  end.begin()
  end.run(for: .seconds(10))
  #expect(end.dials.count == 1)
  #expect(end.cancelled == [])
  end.run(for: .seconds(120))
  #expect(end.cancelled == end.dials.map(\.number))
}

@Test func aRefusedPunchWaitsForTheNextStart() {
  var end = End()
  end.dialer.setCandidates([hidden], now: start)
  end.begin(urgent: true)
  end.run(for: .milliseconds(10))
  let isOurs = end.dialer.failed(number: end.number, now: end.now)
  #expect(isOurs)
  end.run(for: .seconds(12))
  #expect(end.dials.count == 1)
  end.begin(urgent: true)
  end.run(for: .seconds(1))
  #expect(end.dials.count == 2)
}

@Test func anOpenPeerIsDialledThreeTimesAndNoMore() {
  var end = End()
  end.dialer.setCandidates([open], now: start)
  end.begin(urgent: true)
  end.run(for: .minutes(10))
  #expect(end.dials.count == 3)
  #expect(end.cancelled == end.dials.map(\.number))
  #expect(!end.dialer.isDialling)
}

@Test func whatHasOpenedIsTheOwners() {
  var end = End()
  end.dialer.setCandidates([open, hidden], now: start)
  end.begin(urgent: true)
  end.run(for: .milliseconds(10))
  let first = end.dials[0].number
  let opened = [end.dialer.opened(number: first), end.dialer.opened(number: first)]
  #expect(opened == [open, nil])
  let isStillOurs = end.dialer.failed(number: first, now: end.now)
  #expect(!isStillOurs)
  end.dialer.stop()
  end.run(for: .milliseconds(10))
  #expect(end.cancelled == [end.dials[1].number])
}

/// Named after the start: dialled at once by the end that goes first, on its word
/// by the other; long after the start no more.
@Test func lateCandidatesJoinTheRoundThatRuns() {
  for isSecond in [false, true] {
    var end = End()
    end.begin(urgent: true, second: isSecond)
    end.run(for: .milliseconds(50))
    end.dialer.setCandidates([open, hidden], now: end.now)
    end.run(for: .milliseconds(100))
    #expect(
      end.dials.map(\.endpoint)
        == (isSecond ? [open.endpoint] : [open.endpoint, hidden.endpoint]))
    end.dialer.peerIsDialling(now: end.now)
    end.run(for: .milliseconds(1))
    #expect(end.dials.map(\.endpoint) == [open.endpoint, hidden.endpoint])
  }
  var end = End()
  end.begin(urgent: true)
  end.run(for: PathTunables.punchSpan)
  end.dialer.setCandidates([hidden], now: end.now)
  end.run(for: .seconds(1))
  #expect(end.dials.isEmpty)
  end.begin(urgent: true)
  end.run(for: .milliseconds(100))
  #expect(end.dials.count == 1)
}

@Test func whatLeftLongAgoTakesNoRoomFromSyns() {
  var budget = ProbeBudget()
  while budget.take(peer, bytes: 60, now: start) {}
  for (after, isFree) in [(TimeAmount.milliseconds(9_999), false), (.seconds(10), true)] {
    var later = budget
    let isTaken = later.takeConnection(
      peer, start: start + after, offsets: StreamLimits.punchSyns, now: start + after)
    #expect(isTaken == isFree)
  }
}

/// Room is kept until the moment has come, and used once.
@Test func theRoomOfSynsIsKeptForThem() {
  for wait in [0, 70, 900, 4_000, 4_999] as [Int64] {
    var end = End()
    end.dialer.setCandidates([hidden], now: start)
    end.begin(urgent: true, second: true)
    // Datagrams take what is left.
    var others = 0
    while end.budget.take(peer, bytes: 60, now: end.now) { others += 1 }
    #expect(others == 13)
    end.run(for: .milliseconds(wait))
    end.dialer.peerIsDialling(now: end.now)
    end.run(for: .seconds(1))
    #expect(end.dials.map(\.at) == [Double(wait)], "after \(wait) ms")
    end.dialer.stop()
    end.now += .minutes(2)
    // Nothing is left behind.
    var free = 0
    while end.budget.take(peer, bytes: 60, now: end.now) { free += 1 }
    #expect(free == PathLimits.probesPerAddress, "after \(wait) ms")
  }
}

/// Many ports of one address are one address.
@Test func synsAreProbesOfTheBudget() {
  var end = End()
  end.dialer.setCandidates(
    (0..<20).map {
      StreamCandidate(endpoint: Endpoint(peer, 6000 + UInt16($0)), kind: .host, tier: .tcpDirect)
    }, now: start)
  end.begin(urgent: true)
  end.run(for: .milliseconds(9_900))
  #expect(end.dials.count * StreamLimits.syns.count <= PathLimits.probesPerAddress)
  #expect(end.dials.count > 0)
}

/// In no ten seconds more than twenty packets, the kernel's repeats included,
/// whatever datagrams want beside them.
@Test func synsThatAreStillToComeLeaveNoRoomForOthers() {
  var random = SeededRandom(testSeed: 11)
  for seed in 1...20 {
    var budget = ProbeBudget()
    var sent: [Instant] = []
    var now = start
    while now < start + .minutes(3) {
      now += .milliseconds(Int64(random.next() % 400))
      if random.next() % 40 == 0 {
        let begin = now + .milliseconds(400)
        let offsets = random.next() % 2 == 0 ? StreamLimits.syns : StreamLimits.punchSyns
        if budget.takeConnection(peer, start: begin, offsets: offsets, now: now) {
          sent += offsets.map { begin + $0 }
        }
      } else if budget.take(peer, bytes: 60, now: now) {
        sent.append(now)
      }
    }
    sent.sort()
    for (i, first) in sent.enumerated() {
      let count = sent[i...].prefix { $0 - first < PathLimits.budgetWindow }.count
      #expect(count <= PathLimits.probesPerAddress, "seed \(seed)")
    }
    #expect(sent.count > 100, "seed \(seed)")
  }
}

/// What never leaves must not keep others from leaving.
@Test func synsThatNeverLeaveAreGivenBack() {
  /// Datagrams that the budget still lets through.
  func room(_ end: End) -> Int {
    var budget = end.budget
    var count = 0
    while budget.take(peer, bytes: 60, now: end.now) { count += 1 }
    return count
  }
  var end = End()
  end.dialer.setCandidates([hidden], now: start)
  end.begin()
  end.run(for: .milliseconds(100))
  #expect(room(end) < PathLimits.probesPerAddress - 5)
  // UDP was faster: not one of them leaves.
  end.dialer.stop()
  end.run(for: .milliseconds(1))
  #expect(room(end) == PathLimits.probesPerAddress)

  // Given up on the way: those of 0.4, 1.4 and 2.4 s have left.
  end.begin()
  end.run(for: .milliseconds(2_500))
  end.dialer.stop()
  end.run(for: .milliseconds(1))
  #expect(room(end) == PathLimits.probesPerAddress - 3)

  // Refused, and opened: the kernel repeats neither.
  end.run(for: .seconds(20))
  end.begin(urgent: true)
  end.run(for: .milliseconds(10))
  let isOurs = end.dialer.failed(number: end.number, now: end.now)
  #expect(isOurs)
  end.run(for: .milliseconds(1))
  #expect(room(end) == PathLimits.probesPerAddress - 1)
  end.begin(urgent: true)
  end.run(for: .milliseconds(10))
  #expect(end.dialer.opened(number: end.number) == hidden)
  end.run(for: .milliseconds(1))
  #expect(room(end) == PathLimits.probesPerAddress - 2)
}

/// Though nobody has asked in between what the address may get.
@Test func connectionsFindTheRoomThatTimeHasMade() {
  var budget = ProbeBudget()
  for _ in 0..<PathLimits.probesPerAddress { _ = budget.take(peer, bytes: 60, now: start) }
  let offsets = StreamLimits.punchSyns
  let early = start + .milliseconds(9_900)
  let isEarly = budget.takeConnection(peer, start: early, offsets: offsets, now: early)
  #expect(!isEarly)
  #expect(budget.nextFree(peer, now: early) == start + PathLimits.budgetWindow)
  let late = start + PathLimits.budgetWindow
  let isLate = budget.takeConnection(peer, start: late, offsets: offsets, now: late)
  #expect(isLate)
}

/// Paid for, then we stood still: its SYNs leave later than was said, and count
/// at the time at which they leave.
@Test func aConnectionThatBeginsLateIsCountedWhenItBegins() {
  for pause: Int64 in [0, 1, 30, 900, 3_000, 9_000, 12_000, 56_000] {
    var end = End()
    end.dialer.setCandidates([hidden], now: start)
    end.begin()
    end.now += .milliseconds(400 + pause)
    end.run(for: .zero)
    #expect(end.dials.map(\.at) == [Double(400 + pause)])
    let begin = end.now
    var packets = StreamLimits.punchSyns.count { $0 < PathLimits.budgetWindow }
    while end.now < begin + PathLimits.budgetWindow {
      if end.budget.take(peer, bytes: 60, now: end.now) { packets += 1 }
      end.now += .milliseconds(50)
    }
    #expect(packets <= PathLimits.probesPerAddress, "\(pause) ms late")
    #expect(packets >= PathLimits.probesPerAddress - 4, "\(pause) ms late")
  }
}
