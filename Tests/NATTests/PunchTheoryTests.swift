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

  @Test func withoutUDPOrACommonFamilyThereIsTheRelay() {
    for kind in NATKind.all {
      #expect(PunchTheory.expected(.udpBlocked, kind) == .relayed)
      #expect(PunchTheory.expected(.onlyTCP443, kind) == .relayed)
      if !kind.hasIPv6 { #expect(PunchTheory.expected(.onlyIPv6, kind) == .relayed) }
    }
    #expect(PunchTheory.expected(.onlyIPv6, .onlyIPv6) == .punched)
  }

  @Test func namesAreUnique() {
    #expect(Set(NATKind.all.map(\.name)).count == NATKind.all.count)
    for kind in NATKind.all { #expect(NATKind.named(kind.name) == kind) }
  }
}
