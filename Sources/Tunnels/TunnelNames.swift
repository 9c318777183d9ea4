/// What tunnels, endpoints and users are called: the rules of names and the
/// one error that every definition of this module is refused with. Never
/// touches files or the network. Implements docs/protocol/tunnels.md.

#if canImport(Bytes)
  import Bytes
#endif

/// Bounds of everything a definition may hold.
package enum TunnelLimits {
  /// Bytes of a tunnel's name.
  package static let nameBytes = 64
  /// Bytes of an endpoint's or user's name.
  package static let referenceBytes = 128
  /// Bytes of an app's name.
  package static let appNameBytes = 128
  /// Bytes of a host name (RFC 1035 §2.3.4).
  package static let hostBytes = 253
  /// Bytes of a Unix socket's path (sun_path less its terminator).
  package static let unixPathBytes = 107
  /// Listens of one inbound, targets of one outbound.
  package static let addressesPerTunnel = 64
  /// Exits, entrances or users of one definition.
  package static let referencesPerTunnel = 1024
  /// Inbounds, outbounds and apps of one mesh, each.
  package static let definitionsPerMesh = 1024
  /// Entries of a caller list.
  package static let callerRanges = 256
  /// Port ranges of one allow rule.
  package static let portRangesPerRule = 64
  /// Allow rules of one node.
  package static let allowRules = 256
  /// Relays that one policy rules out.
  package static let avoidedRelays = 8
  /// `-relay-policy` rules of one node.
  package static let relayPolicies = 256
}

/// What a tunnel carries. The raw value is the wire's.
package enum TunnelProtocol: UInt8, CaseIterable, Hashable, Sendable, Comparable {
  case tcp = 1
  case udp = 2

  /// What this version carries; definitions of the others are refused with
  /// `protocolNotActive`.
  package static let active: [TunnelProtocol] = [.tcp]

  package var text: String {
    switch self {
    case .tcp: "tcp"
    case .udp: "udp"
    }
  }

  /// `tcp` or `udp` in any case; nil otherwise.
  package init?(text: some StringProtocol) {
    switch text.lowercased() {
    case "tcp": self = .tcp
    case "udp": self = .udp
    default: return nil
    }
  }

  package static func < (a: TunnelProtocol, b: TunnelProtocol) -> Bool { a.rawValue < b.rawValue }
}

/// A definition that cannot be taken: which field of it, and what is wrong.
package struct DefinitionError: Error, Hashable, Sendable, CustomStringConvertible {
  package enum Field: String, Sendable {
    case name, `protocol`, listen, exit, target, entrance, user
    case appName, srcPort, peerNode, dstHost, dstPort, whitelist, relayNode, allow
    case relay, relayPolicy, policy
  }
  package enum Problem: Hashable, Sendable {
    case missing
    case tooLong(limit: Int)
    case tooMany(limit: Int)
    case malformed
    case outOfRange
    case duplicate
    /// Unix sockets carry no datagrams.
    case unixNeedsTCP
    /// Another definition has this listening address; its name.
    case taken(by: String)
    /// Its parts exclude each other.
    case contradictory
    /// Another definition demands the opposite of the same peer; its name.
    case contradicts(String)
  }

  package var field: Field
  package var problem: Problem
  /// The text that was refused; empty when there was none.
  package var value: String

  package init(_ field: Field, _ problem: Problem, value: String = "") {
    self.field = field
    self.problem = problem
    self.value = value
  }

  package var description: String {
    let what = value.isEmpty ? field.rawValue : "\(field.rawValue) \"\(value)\""
    switch problem {
    case .missing: return "\(field.rawValue) is missing"
    case .tooLong(let limit): return "\(field.rawValue) is longer than \(limit) bytes"
    case .tooMany(let limit): return "more than \(limit) of \(field.rawValue)"
    case .malformed: return "\(what) is not valid; expected \(field.expected)"
    case .outOfRange: return "\(what) is out of range; expected \(field.expected)"
    case .duplicate: return "\(what) is given twice"
    case .unixNeedsTCP: return "\(what): a Unix socket needs tcp"
    case .taken(let other): return "\(what) is already used by \(other)"
    case .contradictory: return "\(what) contradicts itself"
    case .contradicts(let other):
      return "\(what) contradicts \(other): a pair of nodes has one road at a time"
    }
  }
}

extension DefinitionError.Field {
  /// The form that would have been taken, for error texts.
  package var expected: String {
    switch self {
    case .name: "letters, digits, '-', '_' or '.', not beginning with '-' or '.'"
    case .protocol: "tcp or udp"
    case .listen: "[IP:]PORT with PORT 1 to 65535"
    case .target: "HOST:PORT or unix:/path"
    case .exit, .entrance, .peerNode, .relayNode: "an endpoint's id or name"
    case .user: "a user's name"
    case .appName: "a name without control characters"
    case .srcPort, .dstPort: "a port from 1 to 65535"
    case .dstHost: "a host name or an IP address"
    case .whitelist: "IP, CIDR or A-B, separated by commas"
    case .allow: "HOST:PORTS, for example 192.168.1.0/24:80,443"
    case .relay: "never, only, via:NODE or not:NODE, separated by commas"
    case .relayPolicy: "[to:NODE,] and never, only, via:NODE or not:NODE, separated by commas"
    case .policy: TrafficPolicy.words.joined(separator: ", ")
    }
  }
}

/// A tunnel within one mesh: protocol and name.
package struct TunnelKey: Hashable, Sendable, Comparable, CustomStringConvertible {
  package let `protocol`: TunnelProtocol
  package let name: String

  /// - Throws: `DefinitionError` on `name`.
  package init(_ protocol: TunnelProtocol, _ name: String) throws(DefinitionError) {
    try TunnelNaming.checkTunnel(name)
    self.protocol = `protocol`
    self.name = name
  }

  package var description: String { "\(`protocol`.text)/\(name)" }

  package static func < (a: TunnelKey, b: TunnelKey) -> Bool {
    a.name != b.name ? a.name < b.name : a.protocol < b.protocol
  }
}

/// What a person typed for a tunnel: `tcp/NAME`, `udp/NAME`, or a bare name,
/// which means both protocols.
package struct TunnelReference: Hashable, Sendable {
  package let name: String
  /// Nil for a bare name.
  package let `protocol`: TunnelProtocol?

  package init(_ text: some StringProtocol) throws(DefinitionError) {
    if let slash = text.firstIndex(of: "/") {
      guard let found = TunnelProtocol(text: text[..<slash]) else {
        throw DefinitionError(.protocol, .malformed, value: String(text[..<slash]))
      }
      self.protocol = found
      name = String(text[text.index(after: slash)...])
    } else {
      self.protocol = nil
      name = String(text)
    }
    try TunnelNaming.checkTunnel(name)
  }

  /// The tunnels meant: one, or tcp then udp.
  package var keys: [TunnelKey] {
    let protocols = `protocol`.map { [$0] } ?? [.tcp, .udp]
    return protocols.map { TunnelKey(checked: $0, name) }
  }
}

extension TunnelKey {
  init(checked protocol: TunnelProtocol, _ name: String) {
    self.protocol = `protocol`
    self.name = name
  }
}

/// An endpoint as named in a definition: its id (a UUID, lower case) or its
/// name. A name is resolved late, when the endpoint is looked for.
package enum EndpointReference: Hashable, Sendable, CustomStringConvertible {
  case id(String)
  case name(String)

  /// - Throws: `DefinitionError` on `field`.
  package init(_ text: some StringProtocol, field: DefinitionError.Field) throws(DefinitionError) {
    if TunnelNaming.isUUID(text) {
      self = .id(text.lowercased())
    } else {
      try TunnelNaming.checkReference(String(text), field: field)
      self = .name(String(text))
    }
  }

  /// Does an endpoint of this id (lower case) and name answer to it?
  package func matches(id: String, name: String) -> Bool {
    switch self {
    case .id(let own): own == id
    case .name(let own): own == name
    }
  }

  package var text: String {
    switch self {
    case .id(let text), .name(let text): text
    }
  }
  package var description: String { text }
}

/// The rules of names.
package enum TunnelNaming {
  package static func checkTunnel(_ name: String) throws(DefinitionError) {
    guard let first = name.unicodeScalars.first else { throw DefinitionError(.name, .missing) }
    guard name.utf8.count <= TunnelLimits.nameBytes else {
      throw DefinitionError(.name, .tooLong(limit: TunnelLimits.nameBytes))
    }
    guard first != "-", first != ".", name.unicodeScalars.allSatisfy(isNameScalar) else {
      throw DefinitionError(.name, .malformed, value: printable(name))
    }
  }

  /// An endpoint's or user's name: any text without control characters that
  /// neither begins nor ends with a space.
  package static func checkReference(
    _ name: String, field: DefinitionError.Field
  ) throws(DefinitionError) {
    try checkText(name, field: field, limit: TunnelLimits.referenceBytes)
  }

  static func checkText(
    _ name: String, field: DefinitionError.Field, limit: Int
  ) throws(DefinitionError) {
    guard let first = name.unicodeScalars.first, let last = name.unicodeScalars.last else {
      throw DefinitionError(field, .missing)
    }
    guard name.utf8.count <= limit else { throw DefinitionError(field, .tooLong(limit: limit)) }
    guard !first.properties.isWhitespace, !last.properties.isWhitespace,
      name.unicodeScalars.allSatisfy({ !isControl($0) })
    else { throw DefinitionError(field, .malformed, value: printable(name)) }
  }

  /// 8-4-4-4-12 hexadecimal digits.
  package static func isUUID(_ text: some StringProtocol) -> Bool {
    let bytes = Array(text.utf8)
    guard bytes.count == 36 else { return false }
    for (index, byte) in bytes.enumerated() {
      switch index {
      case 8, 13, 18, 23:
        guard byte == UInt8(ascii: "-") else { return false }
      default:
        guard isHexDigit(byte) else { return false }
      }
    }
    return true
  }

  /// A DNS name (letters, digits, '-', '_', dots between labels) or a literal
  /// address without brackets.
  package static func isHost(_ text: some StringProtocol) -> Bool {
    if IPAddress(text) != nil { return true }
    var rest = Array(text.utf8)
    if rest.last == UInt8(ascii: "."), rest.count > 1 { rest.removeLast() }
    guard !rest.isEmpty, rest.count <= TunnelLimits.hostBytes else { return false }
    let labels = rest.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
    guard
      labels.allSatisfy({ label in
        (1...63).contains(label.count) && label.first != UInt8(ascii: "-")
          && label.last != UInt8(ascii: "-")
          && label.allSatisfy {
            isAlphanumeric($0) || $0 == UInt8(ascii: "-") || $0 == UInt8(ascii: "_")
          }
      })
    else { return false }
    // 1.2.3 and 300.1.1.1 are mistyped addresses, and some resolvers take them.
    return !(labels.last?.allSatisfy { $0 >= 48 && $0 <= 57 } ?? true)
  }

  /// 1…65535 in decimal digits only.
  package static func port(_ text: some StringProtocol) -> UInt16? {
    guard !text.isEmpty, text.utf8.count <= 5, text.utf8.allSatisfy({ $0 >= 48 && $0 <= 57 }),
      let value = UInt16(text), value > 0
    else { return nil }
    return value
  }

  static func isNameScalar(_ scalar: Unicode.Scalar) -> Bool {
    if scalar.isASCII {
      return isAlphanumeric(UInt8(scalar.value)) || scalar == "-" || scalar == "_" || scalar == "."
    }
    return scalar.properties.isAlphabetic || scalar.properties.numericType != nil
  }

  static func isControl(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.properties.generalCategory {
    case .control, .format, .lineSeparator, .paragraphSeparator, .surrogate: true
    default: false
    }
  }

  static func isAlphanumeric(_ byte: UInt8) -> Bool {
    (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte)
  }
  static func isHexDigit(_ byte: UInt8) -> Bool {
    (48...57).contains(byte) || (65...70).contains(byte) || (97...102).contains(byte)
  }

  /// Text safe to show on a terminal: control characters become '?', and at
  /// most 80 characters are kept.
  package static func printable(_ text: some StringProtocol) -> String {
    var result = String.UnicodeScalarView()
    for scalar in text.unicodeScalars.prefix(80) { result.append(isControl(scalar) ? "?" : scalar) }
    return String(result)
  }
}
