/// Issues and renews certificates and eviction lists for one mesh, and keeps
/// authority time. It never checks a proof: whoever calls it has one. What must
/// outlive the process is in `CertificateAuthorityRecord`, to be stored *before*
/// what was signed is given away. docs/protocol/login.md "Certificate".

#if canImport(Bytes)
  package import Bytes
#endif
#if canImport(Crypto)
  internal import Crypto
#endif

/// The greatest signed time seen, advanced by the monotonic clock. A node's local
/// clock never enters; the authority's wall clock may only push it forward.
package struct AuthorityClock: Sendable {
  private var seconds: UInt64
  private var taken: Instant

  /// - Parameter stored: seconds since 1970 as last kept on disk; 0 = never.
  package init(stored: UInt64, now: Instant) {
    seconds = min(stored, CertificateLimits.latestSecond)
    taken = now
  }

  /// A signed time that verified.
  package mutating func observe(_ signed: UInt64, now: Instant) {
    guard signed > time(at: now) else { return }
    seconds = min(signed, CertificateLimits.latestSecond)
    taken = now
  }

  /// Seconds since 1970; what to keep on disk now and then.
  package func time(at now: Instant) -> UInt64 {
    let passed = max(0, (now - taken).nanoseconds / 1_000_000_000)
    return min(seconds + UInt64(passed), CertificateLimits.latestSecond)
  }

  /// Whether `certificate` (verified before) has not expired. Observes its time,
  /// so one from the future is judged by its own.
  package mutating func accepts(_ certificate: Certificate, now: Instant) -> Bool {
    observe(certificate.issuedAt, now: now)
    return time(at: now) < certificate.expiresAt
  }
}

/// What an authority must not forget.
package struct CertificateAuthorityRecord: Equatable, Sendable {
  package var nextSerial: UInt64
  package var evictionNumber: UInt64
  /// Authority time, seconds since 1970.
  package var time: UInt64

  package init(nextSerial: UInt64 = 1, evictionNumber: UInt64 = 0, time: UInt64 = 0) {
    self.nextSerial = nextSerial
    self.evictionNumber = evictionNumber
    self.time = time
  }
}

package struct CertificateAuthority: Sendable {
  package let mesh: String
  /// Ed25519, 32 bytes.
  package let publicKey: [UInt8]
  package private(set) var evictions: EvictionList
  private let secret: [UInt8]
  private var clock: AuthorityClock
  private var nextSerial: UInt64

  /// - Parameters:
  ///   - mesh: 1…255 bytes.
  ///   - secret: Ed25519 seed, 32 bytes.
  ///   - evictions: the last list signed, or nil for none yet.
  package init(
    mesh: String, secret: [UInt8], record: CertificateAuthorityRecord, evictions: EvictionList?,
    wallClock: UInt64, now: Instant
  ) {
    precondition((1...CertificateLimits.name).contains(mesh.utf8.count))
    precondition(evictions == nil || evictions?.mesh == mesh)
    self.mesh = mesh
    self.secret = secret
    publicKey = Ed25519.publicKey(of: secret)
    nextSerial = record.nextSerial
    clock = AuthorityClock(stored: record.time, now: now)
    clock.observe(wallClock, now: now)
    self.evictions =
      evictions
      ?? EvictionList(
        number: record.evictionNumber, issuedAt: clock.time(at: now), mesh: mesh, entries: [],
        authoritySecret: secret)
  }

  /// To be stored before what was signed last leaves the process.
  package func record(now: Instant) -> CertificateAuthorityRecord {
    CertificateAuthorityRecord(
      nextSerial: nextSerial, evictionNumber: evictions.number, time: clock.time(at: now))
  }

  /// Authority time, seconds since 1970.
  package func time(at now: Instant) -> UInt64 { clock.time(at: now) }

  /// Signs a certificate under a new serial.
  /// - Parameters:
  ///   - subject: its key proven by its owner; its mesh must be this one.
  ///   - wallClock: seconds since 1970; may be wrong, may go back.
  package mutating func issue(
    _ subject: CertificateSubject, wallClock: UInt64, now: Instant
  ) throws(CertificateFault) -> Certificate {
    precondition(subject.mesh == mesh)
    clock.observe(wallClock, now: now)
    let time = clock.time(at: now)
    let certificate = try Certificate(
      serial: nextSerial, issuedAt: time, expiresAt: time + CertificateLimits.validitySeconds,
      subject: subject, authoritySecret: secret)
    nextSerial += 1
    return certificate
  }

  /// Whether less than half of its time is left, or it is not ours: the node should
  /// get a new one. Ask `evictions` first: a new serial would let it in again.
  package func needsRenewal(
    _ certificate: Certificate, wallClock: UInt64, now: Instant
  ) -> Bool {
    let time = min(max(wallClock, clock.time(at: now)), CertificateLimits.latestSecond)
    return !certificate.isSigned(by: publicKey)
      || time + CertificateLimits.validitySeconds / 2 >= certificate.expiresAt
  }

  /// Evicts `certificate` and all earlier ones of its key; the list gets the next
  /// number. Entries whose certificates have expired leave it.
  package mutating func evict(
    _ certificate: Certificate, wallClock: UInt64, now: Instant
  ) throws(EvictionFault) -> EvictionList {
    clock.observe(wallClock, now: now)
    let time = clock.time(at: now)
    var entries = evictions.entries.filter {
      $0.expiresAt > time && $0.staticKey != certificate.staticKey
    }
    let earlier = evictions.entries.first { $0.staticKey == certificate.staticKey }
    entries.append(
      EvictionEntry(
        staticKey: certificate.staticKey, serial: max(certificate.serial, earlier?.serial ?? 0),
        expiresAt: max(certificate.expiresAt, earlier?.expiresAt ?? 0)))
    guard entries.count <= EvictionLimits.entries else { throw .listFull }
    evictions = EvictionList(
      number: evictions.number + 1, issuedAt: time, mesh: mesh, entries: entries,
      authoritySecret: secret)
    return evictions
  }
}
