/// Who is no longer a member: a numbered list under the authority's signature,
/// passed on by the server and from peer to peer. The greater number rules.
/// Byte table: docs/protocol/login.md "Eviction list".

#if canImport(Bytes)
  internal import Bytes
#endif
#if canImport(Crypto)
  internal import Crypto
#endif

package enum EvictionLimits {
  /// 15,360 bytes of entries: the list fits a signalling payload.
  package static let entries = 320
}

/// Constants of the layout, apart from our tunables.
private enum EvictionWire {
  static let version: UInt8 = 1
  static let context = Array("martlet evictions v1\0".utf8)
}

package enum EvictionFault: Error, Equatable, Sendable {
  case malformed
  case badSignature
  /// `EvictionLimits.entries` unexpired evictions.
  case listFull
}

package struct EvictionEntry: Hashable, Sendable {
  /// 32 bytes.
  package let staticKey: [UInt8]
  /// Certificates of the key up to and including this serial are evicted.
  package let serial: UInt64
  /// When the last of them expires; the entry may then leave the list.
  package let expiresAt: UInt64
}

package struct EvictionList: Hashable, Sendable {
  package let number: UInt64
  /// Seconds since 1970, authority time.
  package let issuedAt: UInt64
  package let mesh: String
  /// Ascending by static key; no key twice.
  package let entries: [EvictionEntry]
  package let signature: [UInt8]

  /// A new list, signed. Used by `CertificateAuthority`.
  init(
    number: UInt64, issuedAt: UInt64, mesh: String, entries: [EvictionEntry],
    authoritySecret: [UInt8]
  ) {
    precondition(entries.count <= EvictionLimits.entries)
    self.number = number
    self.issuedAt = issuedAt
    self.mesh = mesh
    self.entries = entries.sorted { $0.staticKey.lexicographicallyPrecedes($1.staticKey) }
    signature = Ed25519.sign(
      EvictionWire.context
        + Self.body(number: number, issuedAt: issuedAt, mesh: mesh, entries: self.entries),
      secret: authoritySecret)
  }

  /// Reads a layout; does not look at the signature.
  package init(decoding bytes: [UInt8]) throws(EvictionFault) {
    var reader = ByteReader(bytes.span.bytes)
    guard let version = reader.uint8(), version == EvictionWire.version,
      let number = reader.uint64(), let issuedAt = reader.uint64(),
      issuedAt <= CertificateLimits.latestSecond,
      let mesh = reader.certificateText(limit: CertificateLimits.name),
      let count = reader.uint16(), Int(count) <= EvictionLimits.entries
    else { throw .malformed }
    var entries: [EvictionEntry] = []
    for _ in 0..<count {
      guard let staticKey = reader.array(32), let serial = reader.uint64(),
        let expiresAt = reader.uint64(),
        entries.last.map({ $0.staticKey.lexicographicallyPrecedes(staticKey) }) ?? true
      else { throw .malformed }
      entries.append(EvictionEntry(staticKey: staticKey, serial: serial, expiresAt: expiresAt))
    }
    guard let signature = reader.array(Ed25519.signatureBytes), reader.isAtEnd else {
      throw .malformed
    }
    self.number = number
    self.issuedAt = issuedAt
    self.mesh = mesh
    self.entries = entries
    self.signature = signature
  }

  /// Reads a list and checks that `authority` signed it: the one to use on bytes
  /// from others. Take it when its number is greater than the one you have.
  package init(verifying bytes: [UInt8], authority: [UInt8]) throws(EvictionFault) {
    try self.init(decoding: bytes)
    guard isSigned(by: authority) else { throw .badSignature }
  }

  package func encoded() -> [UInt8] { body + signature }

  package func isSigned(by authority: [UInt8]) -> Bool {
    Ed25519.verify(signature, EvictionWire.context + body, publicKey: authority)
  }

  /// Whether `certificate` is no longer worth anything.
  package func evicts(_ certificate: Certificate) -> Bool {
    evicts(staticKey: certificate.staticKey, serial: certificate.serial)
  }

  package func evicts(staticKey: [UInt8], serial: UInt64) -> Bool {
    var low = 0
    var high = entries.count
    while low < high {
      let middle = (low + high) / 2
      if entries[middle].staticKey.lexicographicallyPrecedes(staticKey) {
        low = middle + 1
      } else {
        high = middle
      }
    }
    return low < entries.count && entries[low].staticKey == staticKey
      && serial <= entries[low].serial
  }

  private var body: [UInt8] {
    Self.body(number: number, issuedAt: issuedAt, mesh: mesh, entries: entries)
  }

  private static func body(
    number: UInt64, issuedAt: UInt64, mesh: String, entries: [EvictionEntry]
  ) -> [UInt8] {
    var out = [EvictionWire.version]
    out.appendUInt64(number)
    out.appendUInt64(issuedAt)
    out.appendString16(mesh)
    out.appendUInt16(UInt16(entries.count))
    for entry in entries {
      out += entry.staticKey
      out.appendUInt64(entry.serial)
      out.appendUInt64(entry.expiresAt)
    }
    return out
  }
}
