import NAT
import Testing

/// What theory says is written down here pair by pair for the rows that
/// RECIPES R10 names, so that a change of the derivation cannot pass unseen.
@Suite struct PunchTheoryTests {
  @Test func theoryIsTheSameBothWays() {
    for a in NATKind.all {
      for b in NATKind.all {
        #expect(
          PunchTheory.expected(a, b) == PunchTheory.expected(b, a), "\(a.name) and \(b.name)")
      }
    }
  }

  @Test func conesPunchEachOther() {
    let cones: [NATKind] = [
      .firewalled, .addressRestricted, .portRestricted, .portRestrictedRandomPort,
      .masqueradeOpen, .doubleNAT,
    ]
    for a in cones {
      for b in cones {
        #expect(PunchTheory.expected(a, b) == .punched, "\(a.name) and \(b.name)")
      }
      #expect(PunchTheory.expected(a, .open) == .direct)
      #expect(PunchTheory.expected(a, .fullCone) == .direct)
    }
  }

  @Test func symmetricReachesWhoeverFiltersByAddressOnly() {
    for kind in [NATKind.symmetricRandom, .symmetricSequential] {
      #expect(PunchTheory.expected(kind, .open) == .direct)
      #expect(PunchTheory.expected(kind, .fullCone) == .direct)
      #expect(PunchTheory.expected(kind, .addressRestricted) == .punched)
      #expect(PunchTheory.expected(kind, .portRestricted) == .guessed)
    }
    #expect(PunchTheory.expected(.symmetricRandom, .symmetricRandom) == .relayed)
    #expect(PunchTheory.expected(.symmetricRandom, .symmetricSequential) == .relayed)
    #expect(PunchTheory.expected(.symmetricSequential, .symmetricSequential) == .relayed)
  }

  /// A connection from another port is another connection: nothing to guess.
  @Test func withoutUDPConnectionsGoWhereBothPortsAreKnown() {
    for kind in [NATKind.udpBlocked, .firewalled, .addressRestricted, .portRestricted, .doubleNAT] {
      #expect(PunchTheory.expected(.udpBlocked, kind) == .tcpPunched, "\(kind.name)")
    }
    #expect(PunchTheory.expected(.udpBlocked, .open) == .tcpDirect)
    #expect(PunchTheory.expected(.udpBlocked, .fullCone) == .tcpPunched)
    #expect(PunchTheory.expected(.udpBlocked, .symmetricRandom) == .relayed)
    #expect(PunchTheory.expected(.udpBlocked, .symmetricSequential) == .relayed)
    // It does what theory says, and still there is something to improve.
    #expect(PunchTheory.verdict(here: .udpBlocked, there: .open) == .udpBlockedHere)
  }

  @Test func withoutAnyPortOrACommonFamilyThereIsTheRelay() {
    for kind in NATKind.all {
      #expect(PunchTheory.expected(.onlyTCP443, kind) == .relayed)
      if !kind.hasIPv6 { #expect(PunchTheory.expected(.onlyIPv6, kind) == .relayed) }
    }
    #expect(PunchTheory.expected(.onlyIPv6, .onlyIPv6) == .punched)
  }

  @Test func namesAreUnique() {
    #expect(Set(NATKind.all.map(\.name)).count == NATKind.all.count)
    for kind in NATKind.all { #expect(NATKind.named(kind.name) == kind) }
  }

  /// The server's STUN ports answer somebody, so it is not they that are shut.
  @Test func whoHearsNothingOfPortsThatAnswerTheOtherIsBlocked() {
    let known = NATFacts(
      mapping: .addressAndPortDependent, filtering: .addressAndPortDependent)
    let blocked = NATFacts(mapping: .unknown, filtering: .unknown, isUDPBlocked: true)
    for other in [known, blocked] {
      #expect(PathVerdict.silent(here: .unknown, there: other) == .udpBlockedHere)
      #expect(PathVerdict.silent(here: other, there: .unknown) == .udpBlockedThere)
      #expect(PathVerdict.silent(here: other, there: nil) == nil, "not told is not silent")
    }
    #expect(PathVerdict.silent(here: known, there: known) == nil)
    #expect(PathVerdict.silent(here: .unknown, there: .unknown) == .natUnknown)
    #expect(PathVerdict.silent(here: .unknown, there: nil) == .natUnknown)
  }

  @Test func theReasonIsTheSameSeenFromTheOtherEnd() {
    let mirrored: [PathVerdict: PathVerdict] = [
      .udpBlockedHere: .udpBlockedThere, .udpBlockedThere: .udpBlockedHere,
    ]
    for a in NATKind.all {
      for b in NATKind.all where a.passesUDP || b.passesUDP {
        let here = PunchTheory.verdict(here: a, there: b)
        #expect(
          PunchTheory.verdict(here: b, there: a) == mirrored[here] ?? here,
          "\(a.name) and \(b.name)")
      }
    }
    // Neither can tell its own network from a server with closed ports.
    #expect(PunchTheory.verdict(here: .onlyTCP443, there: .onlyTCP443) == .natUnknown)
    #expect(PunchTheory.verdict(here: .onlyTCP443, there: .udpBlocked) == .udpBlockedHere)
    // STUN over TCP is at 27180 and 27181; a network that lets only these out knows.
    var stunOnly = NATKind.onlyTCP443
    stunOnly.tcpPorts = [27_180]
    #expect(PunchTheory.verdict(here: stunOnly, there: stunOnly) == .udpBlockedHere)
    stunOnly.tcpPorts = [27_182]
    #expect(PunchTheory.verdict(here: stunOnly, there: stunOnly) == .natUnknown)
  }
}
