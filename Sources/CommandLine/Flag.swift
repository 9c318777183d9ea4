/// One flag as data: how it is written, what it takes, where else its value
/// may come from, and what the help says. Parser, precedence, help, completion,
/// manual page and the test matrix are all driven by these rows; nothing is
/// said twice. Never reads files or the environment itself.

#if canImport(Bytes)
  import Bytes
  import HTTP
  import Tunnels
#endif

/// What a flag takes.
package enum FlagKind: Hashable, Sendable {
  case bool
  /// Printable text, not empty.
  case text
  /// A node's, endpoint's or user's name (or an endpoint's id).
  case name
  /// Decimal, 0…2^64−1.
  case uint64
  case number(ClosedRange<UInt64>)
  /// 1…65535, or 0…65535.
  case port(zeroAllowed: Bool)
  /// Mbit/s, at most three decimals; the value is in kbit/s.
  case bandwidth
  case path
  /// A name or literal address, without scheme and port.
  case host
  /// HOST:PORT.
  case hostPort
  case address
  /// [IP:]PORT.
  case listen
  /// HOST:PORT or unix:/path.
  case target
  /// HOST:PORTS of `-allow`.
  case rule
  /// Words of `-relay-policy`; of a tunnel's `--relay`.
  case relayPolicy
  case relay
  /// http://[USER:PASSWORD@]HOST[:PORT].
  case proxy
  /// ADDRESS[/PREFIX].
  case block
  case choice([String])
}

/// A checked value.
package enum FlagValue: Hashable, Sendable {
  case bool(Bool)
  case number(UInt64)
  case text(String)
}

/// A text that a kind does not take.
package struct FlagProblem: Error, Hashable, Sendable {
  /// What would have been taken, for "expected …".
  package var expected: String
}

/// A flag's row.
package struct Flag: Sendable {
  package enum Many: Sendable {
    /// The last one wins, as in Go.
    case no
    case repeated
    /// Repeated, and each may hold several separated by commas.
    case commas
    /// Repeated, and each eats words until the next option (ztm).
    case words
  }

  /// Without dashes.
  package var name: String
  /// ztm's `-oVALUE` form.
  package var short: Character?
  package var kind: FlagKind
  package var many: Many
  package var placeholder: String
  package var help: String
  /// As the help shows it; nil: none, or none that can be named.
  package var defaultText: String?
  package var environment: String?
  /// "network.serverHost".
  package var configKey: String?
  package var isRequired: Bool
  /// Its value is never printed, and its place in argv is reported.
  package var isSecret: Bool
  /// Parsed and checked, but without effect in this version.
  package var isInactive: Bool

  /// The variable is not ours (`https_proxy`): what we cannot use in it is no
  /// fault of whoever started us, and says nothing about what he wants.
  var isAmbient: Bool {
    environment.map { !$0.hasPrefix("INP2P_") && !$0.hasPrefix("ZTM_") } ?? false
  }

  package init(
    _ name: String, short: Character? = nil, _ kind: FlagKind, many: Many = .no,
    placeholder: String = "", default defaultText: String? = nil, environment: String? = nil,
    config configKey: String? = nil, required: Bool = false, secret: Bool = false,
    inactive: Bool = false, _ help: String
  ) {
    self.name = name
    self.short = short
    self.kind = kind
    self.many = many
    self.placeholder = placeholder.isEmpty ? kind.placeholder : placeholder
    self.help = help
    self.defaultText = defaultText
    self.environment = environment
    self.configKey = configKey
    self.isRequired = required
    self.isSecret = secret
    self.isInactive = inactive
  }

  /// The values in one text: one, or several for a comma list.
  package func values(in text: String) throws(FlagProblem) -> [FlagValue] {
    guard many == .commas else { return [try kind.value(of: text)] }
    var result: [FlagValue] = []
    for part in text.split(separator: ",", omittingEmptySubsequences: false) {
      result.append(try kind.value(of: String(part)))
    }
    return result
  }
}

extension FlagKind {
  package static let portRange: ClosedRange<UInt64> = 1...65535
  /// 1 Tbit/s.
  package static let maximumKilobits: UInt64 = 1_000_000_000
  package static let textBytes = 4096

  var placeholder: String {
    switch self {
    case .bool: ""
    case .text: "TEXT"
    case .name: "NAME"
    case .uint64, .number: "N"
    case .port: "PORT"
    case .bandwidth: "MBIT"
    case .path: "FILE"
    case .host: "HOST"
    case .hostPort: "HOST:PORT"
    case .address: "IP"
    case .listen: "[IP:]PORT"
    case .target: "HOST:PORT"
    case .rule: "HOST:PORTS"
    case .relayPolicy: "[to:NODE,]WORDS"
    case .relay: "WORDS"
    case .proxy: "URL"
    case .block: "CIDR"
    case .choice(let words): words.joined(separator: "|")
    }
  }

  package var expected: String {
    switch self {
    case .bool: "true or false"
    case .text: "text without control characters"
    case .name: "a name without control characters, at most \(TunnelLimits.referenceBytes) bytes"
    case .uint64: "a decimal number from 0 to 18446744073709551615"
    case .number(let range): "a number from \(range.lowerBound) to \(range.upperBound)"
    case .port(let zeroAllowed): "a port from \(zeroAllowed ? 0 : 1) to 65535"
    case .bandwidth: "Mbit/s from 0 to 1000000"
    case .path: "a path"
    case .host: "a host name or an IP address, without scheme and port"
    case .hostPort: "HOST:PORT"
    case .address: "an IP address"
    case .listen: DefinitionError.Field.listen.expected
    case .target: DefinitionError.Field.target.expected
    case .rule: DefinitionError.Field.allow.expected
    case .relayPolicy: DefinitionError.Field.relayPolicy.expected
    case .relay: DefinitionError.Field.relay.expected
    case .proxy: "http://HOST[:PORT]"
    case .block: "an IP address or CIDR"
    case .choice(let words): words.joined(separator: ", ")
    }
  }

  /// Checks one value.
  package func value(of text: String) throws(FlagProblem) -> FlagValue {
    let problem = FlagProblem(expected: expected)
    func digits() -> UInt64? {
      guard !text.isEmpty, text.utf8.allSatisfy({ $0 >= 48 && $0 <= 57 }) else { return nil }
      return UInt64(text)
    }
    func number(_ range: ClosedRange<UInt64>) throws(FlagProblem) -> FlagValue {
      guard let value = digits(), range.contains(value) else { throw problem }
      return .number(value)
    }
    switch self {
    case .bool:
      switch text {
      case "1", "t", "T", "true", "TRUE", "True": return .bool(true)
      case "0", "f", "F", "false", "FALSE", "False": return .bool(false)
      default: throw problem
      }
    case .uint64: return try number(0...UInt64.max)
    case .number(let range): return try number(range)
    case .port(let zeroAllowed): return try number(zeroAllowed ? 0...65535 : Self.portRange)
    case .bandwidth:
      guard let value = Self.kilobits(text), value <= Self.maximumKilobits else { throw problem }
      return .number(value)
    case .text, .path:
      guard !text.isEmpty, text.utf8.count <= Self.textBytes,
        !text.unicodeScalars.contains(where: {
          $0.properties.generalCategory == .control
        })
      else { throw problem }
    case .name:
      do { try TunnelNaming.checkReference(text, field: .peerNode) } catch { throw problem }
    case .host:
      guard TunnelNaming.isHost(Self.unbracketed(text)) else { throw problem }
      return .text(Self.unbracketed(text))
    case .hostPort:
      guard let (host, _) = HostPort.split(text, hostRequired: true), TunnelNaming.isHost(host)
      else { throw problem }
    case .address:
      guard IPAddress(text) != nil else { throw problem }
    case .listen:
      do { _ = try ListenAddress(text) } catch { throw problem }
    case .target:
      do { _ = try TunnelTarget(text) } catch {
        throw FlagProblem(expected: Self.words(error, problem))
      }
    case .rule:
      do { _ = try AllowRule(text) } catch { throw problem }
    case .relayPolicy:
      do { _ = try PeerRelayPolicy(text) } catch {
        throw FlagProblem(expected: Self.words(error, problem))
      }
    case .relay:
      guard !text.isEmpty else { throw problem }
      do { _ = try RelayPolicy(text) } catch {
        throw FlagProblem(expected: Self.words(error, problem))
      }
    case .proxy:
      guard HTTPProxy(text) != nil else { throw problem }
    case .block:
      guard AddressBlock(text) != nil else { throw problem }
    case .choice(let words):
      guard words.contains(text) else { throw problem }
    }
    return .text(text)
  }

  private static func words(_ error: DefinitionError, _ problem: FlagProblem) -> String {
    if case .tooLong(let limit) = error.problem { return "at most \(limit) bytes" }
    if error.problem == .contradictory { return "\(problem.expected), not excluding each other" }
    return problem.expected
  }

  private static func unbracketed(_ text: String) -> String {
    text.hasPrefix("[") && text.hasSuffix("]") && text.contains(":")
      ? String(text.dropFirst().dropLast()) : text
  }

  /// "10" → 10000, "0.5" → 500.
  private static func kilobits(_ text: String) -> UInt64? {
    let parts = text.split(separator: ".", omittingEmptySubsequences: false)
    guard (1...2).contains(parts.count),
      parts.allSatisfy({ part in
        (1...12).contains(part.utf8.count) && part.utf8.allSatisfy { $0 >= 48 && $0 <= 57 }
      }), let whole = UInt64(parts[0])
    else { return nil }
    guard parts.count == 2 else { return whole * 1000 }
    guard parts[1].utf8.count <= 3, let part = UInt64(parts[1]) else { return nil }
    let scale: [UInt64] = [100, 10, 1]
    return whole * 1000 + part * scale[parts[1].utf8.count - 1]
  }
}
