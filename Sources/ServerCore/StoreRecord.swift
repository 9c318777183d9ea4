/// The storage seam: one table of (kind, key) → value. A record is written
/// whole or not at all; nothing else is asked of the storage. Values begin with
/// a layout version; docs/protocol/server.md draws them.
#if canImport(Bytes)
  internal import Bytes
#endif

/// One row to write, or (nil) to delete.
package struct StoreRecord: Equatable, Sendable {
  package enum Kind: UInt8, Sendable, CaseIterable {
    /// key: mesh. value: Ed25519 seed, serial ceiling, authority time.
    case authority = 1
    /// key: mesh, node. value: static key, secret, certificate.
    case node = 2
    /// key: mesh. value: signed eviction list.
    case evictions = 3
    /// key: mesh. value: day, bytes relayed on it.
    case usage = 4
  }

  package var kind: Kind
  package var key: [UInt8]
  package var value: [UInt8]?

  package init(kind: Kind, key: [UInt8], value: [UInt8]?) {
    self.kind = kind
    self.key = key
    self.value = value
  }
}

/// authority: `version(1) | seed(32) | serial ceiling(8) | authority time(8)`
struct AuthorityRecord: Equatable {
  static let version: UInt8 = 1
  var mesh: String
  var seed: [UInt8]
  /// No serial at or above it was ever used.
  var serialCeiling: UInt64
  /// Seconds since 1970.
  var authorityTime: UInt64

  var record: StoreRecord {
    var value: [UInt8] = [Self.version]
    value += seed
    value.appendUInt64(serialCeiling)
    value.appendUInt64(authorityTime)
    return StoreRecord(kind: .authority, key: Array(mesh.utf8), value: value)
  }

  init(mesh: String, seed: [UInt8], serialCeiling: UInt64, authorityTime: UInt64) {
    self.mesh = mesh
    self.seed = seed
    self.serialCeiling = serialCeiling
    self.authorityTime = authorityTime
  }

  init?(_ record: StoreRecord) {
    guard record.kind == .authority, let value = record.value,
      let mesh = String(validating: record.key, as: UTF8.self)
    else { return nil }
    var reader = ByteReader(value.span.bytes)
    guard reader.uint8() == Self.version, let seed = reader.array(32),
      let ceiling = reader.uint64(), let time = reader.uint64(), reader.isAtEnd
    else { return nil }
    self.init(mesh: mesh, seed: seed, serialCeiling: ceiling, authorityTime: time)
  }
}

/// node: key `mesh(text) | node(text)`,
/// value `version(1) | static key(32) | secret(32) | certificate(bytes)`
struct NodeRecord: Equatable {
  static let version: UInt8 = 1
  var mesh: String
  var node: String
  var staticKey: [UInt8]
  var secret: [UInt8]
  var certificate: [UInt8]

  static func key(mesh: String, node: String) -> [UInt8] {
    var key: [UInt8] = []
    key.appendString16(mesh)
    key.appendString16(node)
    return key
  }

  static func deletion(mesh: String, node: String) -> StoreRecord {
    StoreRecord(kind: .node, key: key(mesh: mesh, node: node), value: nil)
  }

  var record: StoreRecord {
    var value: [UInt8] = [Self.version]
    value += staticKey + secret
    value.appendArray16(certificate)
    return StoreRecord(kind: .node, key: Self.key(mesh: mesh, node: node), value: value)
  }

  init(mesh: String, node: String, staticKey: [UInt8], secret: [UInt8], certificate: [UInt8]) {
    self.mesh = mesh
    self.node = node
    self.staticKey = staticKey
    self.secret = secret
    self.certificate = certificate
  }

  init?(_ record: StoreRecord) {
    guard record.kind == .node, let value = record.value else { return nil }
    var key = ByteReader(record.key.span.bytes)
    guard let mesh = key.string16(limit: 255), let node = key.string16(limit: 255), key.isAtEnd
    else { return nil }
    var reader = ByteReader(value.span.bytes)
    guard reader.uint8() == Self.version, let staticKey = reader.array(32),
      let secret = reader.array(32), let certificate = reader.array16(limit: 1_024),
      reader.isAtEnd
    else { return nil }
    self.init(
      mesh: mesh, node: node, staticKey: staticKey, secret: secret, certificate: certificate)
  }
}

/// usage: `version(1) | day since 1970(8) | bytes(8)`
struct UsageRecord: Equatable {
  static let version: UInt8 = 1
  var mesh: String
  var day: UInt64
  var bytes: UInt64

  var record: StoreRecord {
    var value: [UInt8] = [Self.version]
    value.appendUInt64(day)
    value.appendUInt64(bytes)
    return StoreRecord(kind: .usage, key: Array(mesh.utf8), value: value)
  }

  init(mesh: String, day: UInt64, bytes: UInt64) {
    self.mesh = mesh
    self.day = day
    self.bytes = bytes
  }

  init?(_ record: StoreRecord) {
    guard record.kind == .usage, let value = record.value,
      let mesh = String(validating: record.key, as: UTF8.self)
    else { return nil }
    var reader = ByteReader(value.span.bytes)
    guard reader.uint8() == Self.version, let day = reader.uint64(), let bytes = reader.uint64(),
      reader.isAtEnd
    else { return nil }
    self.init(mesh: mesh, day: day, bytes: bytes)
  }
}
