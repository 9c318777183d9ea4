/// What somebody demands of the road to a peer: relays or not, which of them,
/// and what a tunnel's bytes are like. A pair has one road at a time, so some of
/// it steers the pair and some of it holds a stream back; which is which is said
/// in docs/decisions/0024-policies.md. Implements docs/protocol/tunnels.md
/// "Policies".

/// Whether bytes may, or must, go through a relay.
package enum RelayUse: UInt8, Hashable, Sendable {
  case any = 0
  case never = 1
  case only = 2

  package var text: String {
    switch self {
    case .any: "any"
    case .never: "never"
    case .only: "only"
    }
  }
}

/// What a tunnel's bytes are like.
package enum TrafficPolicy: UInt8, Hashable, Sendable, CaseIterable {
  case usual = 0
  /// Small and awaited: ahead of others, on the road with the shortest round trip.
  case latency = 1
  /// Large and patient: behind others, on the road that moves most.
  case bulk = 2
  /// Not worth a relay that others pay for.
  case cheap = 3

  /// As people write it; nothing for the usual.
  package var text: String {
    switch self {
    case .usual: ""
    case .latency: "latency"
    case .bulk: "bulk"
    case .cheap: "cheap"
    }
  }

  package static let words = ["latency", "bulk", "cheap"]

  /// - Throws: `DefinitionError` on `policy`. No text is the usual.
  package init(_ text: String) throws(DefinitionError) {
    guard let policy = Self.allCases.first(where: { $0.text == text }) else {
      throw DefinitionError(.policy, .malformed, value: TunnelNaming.printable(text))
    }
    self = policy
  }
}

/// Which relays: `never`, `only`, `via:NODE`, `not:NODE`, separated by commas.
package struct RelayPolicy: Hashable, Sendable, CustomStringConvertible {
  package var use = RelayUse.any
  /// The one relay that is asked for.
  package var via: EndpointReference?
  package var avoided: [EndpointReference] = []

  package init() {}

  /// - Throws: `DefinitionError` on `field`.
  package init(_ text: String, field: DefinitionError.Field = .relay) throws(DefinitionError) {
    guard !text.isEmpty else {
      self.init()
      return
    }
    try self.init(
      words: text.split(separator: ",", omittingEmptySubsequences: false).map(String.init),
      of: text, field: field)
  }

  fileprivate init(
    words: [String], of text: String, field: DefinitionError.Field
  ) throws(DefinitionError) {
    func refuse(_ problem: DefinitionError.Problem) -> DefinitionError {
      DefinitionError(field, problem, value: TunnelNaming.printable(text))
    }
    for word in words {
      switch word {
      case "never", "only":
        guard use == .any else { throw refuse(.contradictory) }
        use = word == "never" ? .never : .only
      case let word where word.hasPrefix(Self.viaMark):
        guard via == nil else { throw refuse(.contradictory) }
        via = try EndpointReference(word.dropFirst(Self.viaMark.count), field: field)
      case let word where word.hasPrefix(Self.notMark):
        avoided.append(try EndpointReference(word.dropFirst(Self.notMark.count), field: field))
      default: throw refuse(.malformed)
      }
    }
    guard avoided.count <= TunnelLimits.avoidedRelays else {
      throw DefinitionError(field, .tooMany(limit: TunnelLimits.avoidedRelays))
    }
    guard Set(avoided).count == avoided.count else { throw refuse(.duplicate) }
    guard via == nil || use != .never, via.map({ !avoided.contains($0) }) ?? true else {
      throw refuse(.contradictory)
    }
  }

  static let viaMark = "via:"
  static let notMark = "not:"

  package var isPlain: Bool { self == RelayPolicy() }

  package var description: String {
    var words: [String] = []
    switch use {
    case .any: break
    case .never: words.append("never")
    case .only: words.append("only")
    }
    if let via { words.append(Self.viaMark + via.text) }
    words += avoided.map { Self.notMark + $0.text }
    return words.joined(separator: ",")
  }
}

/// `-relay-policy`: this node's own, for all its peers or, with `to:NODE` in
/// front, for one.
package struct PeerRelayPolicy: Hashable, Sendable, CustomStringConvertible {
  package let peer: EndpointReference?
  package let policy: RelayPolicy

  package init(_ text: String) throws(DefinitionError) {
    var words = text.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
    if let first = words.first, first.hasPrefix(Self.peerMark) {
      peer = try EndpointReference(first.dropFirst(Self.peerMark.count), field: .relayPolicy)
      words.removeFirst()
    } else {
      peer = nil
    }
    guard !words.isEmpty else {
      throw DefinitionError(.relayPolicy, .malformed, value: TunnelNaming.printable(text))
    }
    policy = try RelayPolicy(words: words, of: text, field: .relayPolicy)
  }

  static let peerMark = "to:"

  package var description: String {
    (peer.map { Self.peerMark + $0.text + "," } ?? "") + policy.description
  }
}

/// What one stream demands, as its SYN tells the far end: bits 0–1 traffic,
/// 2–3 relays.
package struct StreamTerms: Hashable, Sendable {
  package var traffic: TrafficPolicy
  package var relays: RelayUse

  package init(_ traffic: TrafficPolicy = .usual, relays: RelayUse = .any) {
    self.traffic = traffic
    self.relays = relays
  }

  package static let usual = StreamTerms()

  var flags: UInt8 { traffic.rawValue | relays.rawValue << 2 }

  init?(flags: UInt8) {
    guard flags < 16, let traffic = TrafficPolicy(rawValue: flags & 3),
      let relays = RelayUse(rawValue: flags >> 2)
    else { return nil }
    self.init(traffic, relays: relays)
  }
}
