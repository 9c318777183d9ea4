/// The TCP ports that peers may dial through a NAT.
import Bytes
import ServerCore
import Signaling
import Testing

private let start = Instant(nanoseconds: 1_000_000_000)
private let home = IPAddress(203, 0, 113, 1)

@Test func aPortIsVouchedForOneMinute() {
  var sources = StreamSources()
  sources.note(Endpoint(home, 41_000), now: start)
  #expect(sources.ports(of: home, now: start + .seconds(60)) == [41_000])
  #expect(sources.ports(of: home, now: start + .seconds(61)) == [])
  #expect(sources.ports(of: IPAddress(203, 0, 113, 2), now: start) == [])
}

@Test func theNewestPortsOfAnAddressAreKept() {
  var sources = StreamSources()
  for port in UInt16(2_000)..<2_100 { sources.note(Endpoint(home, port), now: start) }
  let ports = sources.ports(of: home, now: start)
  #expect(ports.count == StreamSourceLimits.portsPerAddress)
  #expect(ports.last == 2_099)
}

@Test func noMoreAddressesAreRememberedThanThereIsRoomFor() {
  var sources = StreamSources()
  for number in 0..<UInt32(StreamSourceLimits.addresses) {
    sources.note(Endpoint(IPAddress(v4: 0x0a00_0000 + number), 5_000), now: start)
  }
  sources.note(Endpoint(home, 41_000), now: start)
  #expect(sources.ports(of: home, now: start) == [])
  sources.note(Endpoint(home, 41_000), now: start + .seconds(61))
  #expect(sources.ports(of: home, now: start + .seconds(61)) == [41_000])
}

@Test func aSeenPortMayBeToldAtTheAddressItWasSeenAt() {
  var owner = CandidateFacts(seenAt: home, interfaces: [], port: 5_000)
  let receiver = CandidateFacts(seenAt: IPAddress(198, 51, 100, 1), interfaces: [], port: 5_000)
  func allows(_ text: String) -> Bool {
    CandidateRule.allows(
      SignalledCandidate(
        kind: .serverReflexive, transport: .tcp, endpoint: Endpoint(text) ?? .none),
      of: owner, to: receiver)
  }
  #expect(!allows("203.0.113.1:41000"))
  owner.streamPorts = [41_000, 22]
  #expect(allows("203.0.113.1:41000"))
  #expect(!allows("203.0.113.2:41000"))
  #expect(!allows("203.0.113.1:41001"))
  #expect(!allows("203.0.113.1:22"))
}
