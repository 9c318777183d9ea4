/// The five messages of the login and their strict codec. Pure layout: nothing
/// here knows a key. Byte tables: docs/protocol/login.md.

#if canImport(Bytes)
  internal import Bytes
#endif

package enum LoginLimits {
  /// Meshes one server may hold: each costs it a share per login.
  package static let meshes = 16
  package static let attachment = 1024
  package static let name = 255
  /// Hellos on one connection: the second is the token after the node secret.
  package static let hellos = 2
  /// Failed token logins per minute of one address (IPv6: one /64).
  package static let failuresPerAddress = 5
  /// Failed token logins per minute of one mesh.
  package static let failuresPerMesh = 60
  /// Addresses whose failures are remembered; beyond that they share one count.
  package static let throttledAddresses = 4096
}

/// Constants of the protocol, apart from our tunables.
enum LoginWire {
  static let version: UInt8 = 1
  static let shareBytes = 65
  static let keyBytes = 32
  static let codeBytes = 32
  static let boxBytes = 2 + 32 + 2 + 255 + 16
  static let context = Array("martlet login v1".utf8)
  static let serverIdentity = Array("inp2ps".utf8)
}

/// Which password a login runs with.
package enum LoginMode: UInt8, Sendable {
  /// The mesh's token alone.
  case token = 1
  /// The secret given at an earlier login, and the token.
  case nodeSecret = 2
}

/// Why the server says no. Not authenticated by itself.
package enum LoginRefusalReason: UInt8, Error, Sendable, CaseIterable {
  case wrongToken = 1
  /// No secret is kept for this static key: run the token login.
  case unknownNode = 2
  /// The name is bound to another static key.
  case nameTaken = 3
  case throttled = 4
  case badVersion = 5
  case serverFull = 6
  case malformed = 7
  /// The static key's secret was not proven.
  case badKeyProof = 8
  case evicted = 9
  /// The same key from two machines at once, too often.
  case duplicateKey = 10
}

package struct LoginRefusal: Equatable, Sendable {
  package var reason: LoginRefusalReason
  /// Whole seconds; 0 = no wish.
  package var retryAfterSeconds: UInt16

  package init(_ reason: LoginRefusalReason, retryAfterSeconds: UInt16 = 0) {
    self.reason = reason
    self.retryAfterSeconds = retryAfterSeconds
  }
}

struct LoginHello: Equatable, Sendable {
  var mode: LoginMode
  var ciphers: UInt8
  var staticKey: [UInt8]
  var share: [UInt8]
  var node: String
  var attachment: [UInt8]
}

struct LoginShares: Equatable, Sendable {
  struct Share: Equatable, Sendable {
    var share: [UInt8]
    var authority: [UInt8]
  }
  var isBound: Bool
  var ephemeral: [UInt8]
  var shares: [Share]
}

struct LoginConfirm: Equatable, Sendable {
  var proof: [UInt8]
  var codes: [[UInt8]]
}

struct LoginAccept: Equatable, Sendable {
  var index: UInt8
  var code: [UInt8]
  var box: [UInt8]
}

/// What is inside the box of an accept.
struct LoginGift: Equatable, Sendable {
  /// 32 bytes, or empty: the node keeps the one it has.
  var nodeSecret: [UInt8]
  var mesh: String

  func encoded() -> [UInt8] {
    var out: [UInt8] = []
    out.appendArray16(nodeSecret)
    out.appendString16(mesh)
    return out
  }

  init(nodeSecret: [UInt8], mesh: String) {
    self.nodeSecret = nodeSecret
    self.mesh = mesh
  }

  init?(decoding bytes: [UInt8]) {
    var reader = ByteReader(bytes.span.bytes)
    guard let nodeSecret = reader.array16(limit: 32), nodeSecret.isEmpty || nodeSecret.count == 32,
      let mesh = reader.string16(limit: LoginLimits.name), reader.isAtEnd
    else { return nil }
    self.init(nodeSecret: nodeSecret, mesh: mesh)
  }
}

/// Why bytes are no login message.
enum LoginFault: Error, Equatable {
  case malformed
  case version(UInt8)
}

enum LoginMessage: Equatable, Sendable {
  case hello(LoginHello)
  case shares(LoginShares)
  case confirm(LoginConfirm)
  case accept(LoginAccept)
  case refusal(LoginRefusal)

  private enum Kind: UInt8 {
    case hello = 1
    case shares = 2
    case confirm = 3
    case accept = 4
    case refusal = 5
  }

  func encoded() -> [UInt8] {
    var out: [UInt8] = []
    func begin(_ kind: Kind) { out += [kind.rawValue, LoginWire.version] }
    switch self {
    case .hello(let hello):
      begin(.hello)
      out += [hello.mode.rawValue, hello.ciphers]
      out += hello.staticKey
      out += hello.share
      out.appendString16(hello.node)
      out.appendArray16(hello.attachment)
    case .shares(let shares):
      begin(.shares)
      out.append(shares.isBound ? 1 : 0)
      out += shares.ephemeral
      out.append(UInt8(shares.shares.count))
      for share in shares.shares { out += share.share + share.authority }
    case .confirm(let confirm):
      begin(.confirm)
      out += confirm.proof
      out.append(UInt8(confirm.codes.count))
      for code in confirm.codes { out += code }
    case .accept(let accept):
      begin(.accept)
      out.append(accept.index)
      out += accept.code
      out.appendArray16(accept.box)
    case .refusal(let refusal):
      begin(.refusal)
      out.append(refusal.reason.rawValue)
      out.appendUInt16(refusal.retryAfterSeconds)
    }
    return out
  }

  init(decoding bytes: [UInt8]) throws(LoginFault) {
    var reader = ByteReader(bytes.span.bytes)
    guard let kind = reader.uint8().flatMap(Kind.init), let version = reader.uint8() else {
      throw .malformed
    }
    guard version == LoginWire.version else { throw .version(version) }
    let message: LoginMessage? =
      switch kind {
      case .hello: reader.hello().map { .hello($0) }
      case .shares: reader.shares().map { .shares($0) }
      case .confirm: reader.confirm().map { .confirm($0) }
      case .accept: reader.accept().map { .accept($0) }
      case .refusal: reader.refusal().map { .refusal($0) }
      }
    guard let message, reader.isAtEnd else { throw .malformed }
    self = message
  }
}

/// Whether `name` may be a node's: 1…255 bytes, no control characters.
func isLoginName(_ name: String) -> Bool {
  let bytes = name.utf8
  return (1...LoginLimits.name).contains(bytes.count)
    && bytes.allSatisfy { $0 >= 0x20 && $0 != 0x7f }
}

/// Field readers of this codec. nil = malformed.
extension ByteReader {
  fileprivate mutating func hello() -> LoginHello? {
    guard let mode = uint8().flatMap(LoginMode.init), let ciphers = uint8(),
      let staticKey = array(LoginWire.keyBytes), let share = array(LoginWire.shareBytes),
      let node = string16(limit: LoginLimits.name), isLoginName(node),
      let attachment = array16(limit: LoginLimits.attachment)
    else { return nil }
    return LoginHello(
      mode: mode, ciphers: ciphers, staticKey: staticKey, share: share, node: node,
      attachment: attachment)
  }
  fileprivate mutating func shares() -> LoginShares? {
    guard let binding = uint8(), binding <= 1, let ephemeral = array(LoginWire.keyBytes),
      let count = uint8(), (1...LoginLimits.meshes).contains(Int(count))
    else { return nil }
    var shares: [LoginShares.Share] = []
    for _ in 0..<count {
      guard let share = array(LoginWire.shareBytes), let authority = array(LoginWire.keyBytes)
      else { return nil }
      shares.append(LoginShares.Share(share: share, authority: authority))
    }
    return LoginShares(isBound: binding == 1, ephemeral: ephemeral, shares: shares)
  }
  fileprivate mutating func confirm() -> LoginConfirm? {
    guard let proof = array(LoginWire.codeBytes), let count = uint8(),
      (1...LoginLimits.meshes).contains(Int(count))
    else { return nil }
    var codes: [[UInt8]] = []
    for _ in 0..<count {
      guard let code = array(LoginWire.codeBytes) else { return nil }
      codes.append(code)
    }
    return LoginConfirm(proof: proof, codes: codes)
  }
  fileprivate mutating func accept() -> LoginAccept? {
    guard let index = uint8(), index < LoginLimits.meshes, let code = array(LoginWire.codeBytes),
      let box = array16(limit: LoginWire.boxBytes)
    else { return nil }
    return LoginAccept(index: index, code: code, box: box)
  }
  fileprivate mutating func refusal() -> LoginRefusal? {
    guard let reason = uint8().flatMap(LoginRefusalReason.init), let seconds = uint16() else {
      return nil
    }
    return LoginRefusal(reason, retryAfterSeconds: seconds)
  }
}
