import Bytes
import Crypto
import Signaling
import Testing

@Suite struct CertificateTests {
  private let now = Instant(nanoseconds: 0)
  private let wall: UInt64 = 1_700_000_000
  private let key = [UInt8](repeating: 7, count: 32)

  private func authority(
    _ record: CertificateAuthorityRecord = CertificateAuthorityRecord(), seed: UInt8 = 1,
    evictions: EvictionList? = nil, wall: UInt64? = nil
  ) -> CertificateAuthority {
    CertificateAuthority(
      mesh: "default", secret: [UInt8](repeating: seed, count: 32), record: record,
      evictions: evictions, wallClock: wall ?? self.wall, now: now)
  }

  private func subject(_ node: String = "nodeA", key: [UInt8]? = nil) -> CertificateSubject {
    CertificateSubject(
      mesh: "default", node: node, user: "alice", staticKey: key ?? self.key,
      labels: ["home", "größe"], ciphers: [.chaCha20Poly1305, .aes256GCM])
  }

  @Test func issuedCertificatesVerifyAndRoundTrip() throws {
    var authority = authority()
    let certificate = try authority.issue(subject(), wallClock: wall, now: now)
    let bytes = certificate.encoded()
    let read = try Certificate(verifying: bytes, authority: authority.publicKey)
    #expect(read == certificate && read.encoded() == bytes)
    #expect(read.subject == subject() && read.serial == 1 && read.issuedAt == wall)
    #expect(read.expiresAt == wall + CertificateLimits.validitySeconds)
    #expect(bytes.count <= CertificateLimits.byteCount)
    let second = try authority.issue(subject(), wallClock: wall, now: now)
    #expect(second.serial == 2)
    #expect(authority.record(now: now).nextSerial == 3)
  }

  @Test func everyByteIsSignedAndEveryLengthIsExact() throws {
    var authority = authority()
    let bytes = try authority.issue(subject(), wallClock: wall, now: now).encoded()
    for i in bytes.indices {
      var bad = bytes
      bad[i] ^= 1
      #expect(throws: CertificateFault.self, "byte \(i)") {
        try Certificate(verifying: bad, authority: authority.publicKey)
      }
      #expect(throws: CertificateFault.self, "cut to \(i)") {
        try Certificate(decoding: Array(bytes[..<i]))
      }
    }
    #expect(throws: CertificateFault.malformed) { try Certificate(decoding: bytes + [0]) }
    #expect(throws: CertificateFault.badSignature) {
      try Certificate(verifying: bytes, authority: self.authority(seed: 2).publicKey)
    }
  }

  @Test func anEvictionSignatureIsNoCertificateSignature() throws {
    // The context strings keep the two kinds apart even over equal bytes.
    var authority = authority()
    let certificate = try authority.issue(subject(), wallClock: wall, now: now)
    let body = Array(certificate.encoded().dropLast(64))
    let secret = [UInt8](repeating: 1, count: 32)
    let forged = body + Ed25519.sign(Array("martlet evictions v1\0".utf8) + body, secret: secret)
    #expect(throws: CertificateFault.badSignature) {
      try Certificate(verifying: forged, authority: authority.publicKey)
    }
    #expect(throws: CertificateFault.badSignature) {
      try Certificate(
        verifying: body + Ed25519.sign(body, secret: secret), authority: authority.publicKey)
    }
  }

  @Test func limitsAreRefusedWhenIssuing() throws {
    var authority = authority()
    let long = String(repeating: "x", count: 255)
    let cases = [
      CertificateSubject(mesh: "default", node: "", user: "u", staticKey: key),
      CertificateSubject(mesh: "default", node: long + "x", user: "u", staticKey: key),
      CertificateSubject(
        mesh: "default", node: "n", user: "u", staticKey: key,
        labels: [String](repeating: "l", count: 17)),
      CertificateSubject(
        mesh: "default", node: "n", user: "u", staticKey: key,
        labels: [String(repeating: "l", count: 65)]),
      CertificateSubject(
        mesh: "default", node: long, user: long, staticKey: key,
        labels: [String](repeating: String(repeating: "l", count: 64), count: 16)),
    ]
    for (index, subject) in cases.enumerated() {
      #expect(throws: CertificateFault.tooLong, "case \(index)") {
        try authority.issue(subject, wallClock: self.wall, now: self.now)
      }
    }
    // A refused one uses no serial.
    #expect(try authority.issue(subject(), wallClock: wall, now: now).serial == 1)
    let widest = CertificateSubject(mesh: "default", node: long, user: long, staticKey: key)
    #expect(try authority.issue(widest, wallClock: wall, now: now).node == long)
  }

  @Test func bothMustStateAESForAES() {
    let both: CipherSet = [.chaCha20Poly1305, .aes256GCM]
    #expect(both.common(with: both) == .aes256GCM)
    #expect(both.common(with: .chaCha20Poly1305) == .chaCha20Poly1305)
    #expect(CipherSet.chaCha20Poly1305.common(with: both) == .chaCha20Poly1305)
    #expect(CipherSet(rawValue: 0xfd).common(with: both) == .chaCha20Poly1305)
  }

  @Test func authorityTimeNeverGoesBack() throws {
    var clock = AuthorityClock(stored: 1000, now: now)
    #expect(clock.time(at: now) == 1000)
    #expect(clock.time(at: now + .seconds(30)) == 1030)
    clock.observe(500, now: now + .seconds(30))
    #expect(clock.time(at: now + .seconds(30)) == 1030)
    clock.observe(2000, now: now + .seconds(40))
    #expect(clock.time(at: now + .seconds(41)) == 2001)
    #expect(clock.time(at: now) == 2000)
    clock.observe(.max, now: now)
    #expect(clock.time(at: now + .hours(100)) == CertificateLimits.latestSecond)
  }

  @Test func expiryIsJudgedInAuthorityTime() throws {
    var authority = authority()
    let certificate = try authority.issue(subject(), wallClock: wall, now: now)
    // A node whose own clock is years off knows nothing but what was signed.
    var clock = AuthorityClock(stored: 0, now: now)
    let year = TimeAmount.seconds(Int64(CertificateLimits.validitySeconds))
    #expect(clock.accepts(certificate, now: now) == true)
    #expect(clock.accepts(certificate, now: now + year - .seconds(1)) == true)
    #expect(clock.accepts(certificate, now: now + year) == false)
    // A newer certificate of anybody moves time on.
    clock = AuthorityClock(stored: 0, now: now)
    #expect(clock.accepts(certificate, now: now) == true)
    let later = try authority.issue(
      subject("nodeB"), wallClock: wall + CertificateLimits.validitySeconds, now: now)
    #expect(clock.accepts(later, now: now) == true)
    #expect(clock.accepts(certificate, now: now) == false)
  }

  @Test func aServerClockThatJumpsKeepsItsMeshTogether() throws {
    var clock = AuthorityClock(stored: 0, now: now)
    var authority = authority()
    let first = try authority.issue(subject(), wallClock: wall, now: now)
    #expect(clock.accepts(first, now: now) == true)
    // 70 years forward: the old certificate wants renewal; the new one holds.
    let future = wall + 70 * 365 * 86_400
    #expect(authority.needsRenewal(first, wallClock: future, now: now))
    let second = try authority.issue(subject(), wallClock: future, now: now)
    #expect(clock.accepts(second, now: now) == true)
    #expect(clock.accepts(first, now: now) == false)
    // And back, through a restart: still accepted by those who saw the future.
    var restarted = self.authority(authority.record(now: now))
    #expect(!restarted.needsRenewal(second, wallClock: wall, now: now))
    let third = try restarted.issue(subject(), wallClock: wall, now: now)
    #expect(third.serial == second.serial + 1 && third.issuedAt >= second.issuedAt)
    #expect(clock.accepts(third, now: now) == true)
    #expect(clock.accepts(second, now: now) == true)
  }

  @Test func renewalIsDueAtHalfTime() throws {
    var authority = authority()
    let certificate = try authority.issue(subject(), wallClock: wall, now: now)
    let half = CertificateLimits.validitySeconds / 2
    #expect(!authority.needsRenewal(certificate, wallClock: wall + half - 1, now: now))
    #expect(authority.needsRenewal(certificate, wallClock: wall + half, now: now))
    let stranger = self.authority(seed: 9)
    #expect(stranger.needsRenewal(certificate, wallClock: wall, now: now))
  }

  @Test func evictionListsAreNumberedSignedAndPruned() throws {
    var authority = authority()
    #expect(authority.evictions.number == 0 && authority.evictions.entries.isEmpty)
    var certificates: [Certificate] = []
    for i in 0..<5 {
      certificates.append(
        try authority.issue(
          subject("n\(i)", key: [UInt8](repeating: UInt8(50 - i), count: 32)), wallClock: wall,
          now: now))
    }
    for certificate in certificates[..<3] {
      _ = try authority.evict(certificate, wallClock: wall, now: now)
    }
    let list = authority.evictions
    #expect(list.number == 3)
    #expect(certificates.map(list.evicts) == [true, true, true, false, false])
    let read = try EvictionList(verifying: list.encoded(), authority: authority.publicKey)
    #expect(read == list)
    // Admitted again under a new serial; evicted again, one entry remains.
    let again = try authority.issue(certificates[0].subject, wallClock: wall, now: now)
    #expect(!authority.evictions.evicts(again) && authority.evictions.evicts(certificates[0]))
    let second = try authority.evict(again, wallClock: wall, now: now)
    #expect(second.evicts(again) && second.evicts(certificates[0]) && second.entries.count == 3)
    // Evicting an old one later does not let the newer in.
    let third = try authority.evict(certificates[0], wallClock: wall, now: now)
    #expect(third.evicts(again) && third.number == 5)
    // Two years on only the new entry is left.
    let late = wall + 2 * CertificateLimits.validitySeconds
    let fourth = try authority.evict(certificates[4], wallClock: late, now: now)
    #expect(fourth.entries.count == 1 && fourth.evicts(certificates[4]))
    // A restart goes on from what was stored.
    let restarted = self.authority(authority.record(now: now), evictions: fourth)
    #expect(restarted.evictions == fourth)
  }

  @Test func evictionListsAreExactAndSigned() throws {
    var authority = authority()
    let a = try authority.issue(subject(), wallClock: wall, now: now)
    let b = try authority.issue(
      subject("b", key: [UInt8](repeating: 1, count: 32)), wallClock: wall, now: now)
    _ = try authority.evict(a, wallClock: wall, now: now)
    let bytes = try authority.evict(b, wallClock: wall, now: now).encoded()
    for i in bytes.indices {
      var bad = bytes
      bad[i] ^= 1
      #expect(throws: EvictionFault.self, "byte \(i)") {
        try EvictionList(verifying: bad, authority: authority.publicKey)
      }
      #expect(throws: EvictionFault.self, "cut to \(i)") {
        try EvictionList(decoding: Array(bytes[..<i]))
      }
    }
    #expect(throws: EvictionFault.malformed) { try EvictionList(decoding: bytes + [0]) }
  }

  @Test func aFullEvictionListSaysSo() throws {
    var authority = authority()
    var random = SeededRandom(testSeed: 5)
    for _ in 0..<EvictionLimits.entries {
      let certificate = try authority.issue(
        subject(key: random.bytes(32)), wallClock: wall, now: now)
      _ = try authority.evict(certificate, wallClock: wall, now: now)
    }
    #expect(authority.evictions.encoded().count <= SignalLimits.payload)
    let list = try EvictionList(
      verifying: authority.evictions.encoded(), authority: authority.publicKey)
    #expect(list.entries.allSatisfy { list.evicts(staticKey: $0.staticKey, serial: $0.serial) })
    let one = try authority.issue(subject(), wallClock: wall, now: now)
    #expect(throws: EvictionFault.listFull) {
      try authority.evict(one, wallClock: self.wall, now: self.now)
    }
    // A year later there is room.
    let late = wall + CertificateLimits.validitySeconds
    #expect(try authority.evict(one, wallClock: late, now: now).entries.count == 1)
  }

  @Test func identityProofsHoldForOneKeyOnly() {
    let proof = IdentityProof(identitySecret: [UInt8](repeating: 4, count: 32), staticKey: key)
    let bytes = proof.encoded()
    #expect(IdentityProof(verifying: bytes, staticKey: key) == proof)
    #expect(IdentityProof(verifying: bytes, staticKey: [UInt8](repeating: 8, count: 32)) == nil)
    for i in bytes.indices {
      var bad = bytes
      bad[i] ^= 1
      #expect(IdentityProof(verifying: bad, staticKey: key) == nil, "byte \(i)")
      #expect(IdentityProof(verifying: Array(bytes[..<i]), staticKey: key) == nil)
    }
  }
}
