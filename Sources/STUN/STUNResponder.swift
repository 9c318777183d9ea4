/// The server's side of STUN: a Binding request in, the answer and the local
/// endpoint to send it from out. It keeps nothing of a request but a rate, never
/// answers longer than `STUNLimits.answerBytes`, never answers indications,
/// answers or garbage, and sends only to where the request came from.
/// RFC 8489 §6.3, RFC 5780 §6.1; docs/protocol/stun.md "Answering".

#if canImport(Bytes)
  package import Bytes
#endif

/// Where a server answers.
package struct STUNServerSettings: Sendable {
  package var udp1: UInt16
  package var udp2: UInt16
  /// Two addresses of this host, of one family, at both of which both UDP ports
  /// are open. At most one pair per family is used.
  package struct AddressPair: Hashable, Sendable {
    package var first: IPAddress
    package var second: IPAddress

    package init(first: IPAddress, second: IPAddress) {
      self.first = first
      self.second = second
    }
  }
  package var pairs: [AddressPair]

  package init(udp1: UInt16, udp2: UInt16, pairs: [AddressPair] = []) {
    self.udp1 = udp1
    self.udp2 = udp2
    self.pairs = pairs
  }
}

/// What answering may cost. Sources are IPv4 addresses and IPv6 /64s.
package struct STUNResponderLimits: Sendable {
  /// Answers a second to one source, and how many at once. A probe asks some 15
  /// questions; many nodes may share an address.
  package var sourceRate = 50
  package var sourceBurst = 300
  /// The same for all together.
  package var totalRate = 4_000
  package var totalBurst = 4_000
  /// Sources told apart; a power of two. 8 bytes each.
  package var sources = 8_192

  package init() {}
}

/// An answer.
package struct STUNAnswer: Equatable, Sendable {
  package var bytes: [UInt8]
  /// The local endpoint to send it from.
  package var source: Endpoint
}

package enum STUNTransport: Sendable { case udp, tcp }

/// What became of what came in.
package struct STUNResponderCounters: Equatable, Sendable {
  package var answered: UInt64 = 0
  /// Answered with 420.
  package var refused: UInt64 = 0
  // Without an answer:
  package var notSTUN: UInt64 = 0
  package var malformed: UInt64 = 0
  package var otherMethod: UInt64 = 0
  /// An indication or somebody's answer.
  package var notRequest: UInt64 = 0
  /// From an endpoint that cannot be answered.
  package var badSource: UInt64 = 0
  package var sourceLimit: UInt64 = 0
  package var totalLimit: UInt64 = 0

  package init() {}
}

/// Answers Binding requests.
package struct STUNResponder: Sendable {
  package let settings: STUNServerSettings
  package private(set) var counters = STUNResponderCounters()
  private var rates: STUNRates

  /// - Parameter random: makes the slots of sources unpredictable.
  package init(
    settings: STUNServerSettings, limits: STUNResponderLimits = STUNResponderLimits(),
    random: SeededRandom
  ) {
    self.settings = settings
    rates = STUNRates(limits, random)
  }

  /// Takes a datagram, or one message of a stream.
  /// - Parameters:
  ///   - remote: who sent it.
  ///   - local: the address and port it arrived at, never a wildcard.
  package mutating func receive(
    _ bytes: RawSpan, from remote: Endpoint, at local: Endpoint, over transport: STUNTransport,
    now: Instant
  ) -> STUNAnswer? {
    guard STUNMessage.isSTUN(bytes) else {
      counters.notSTUN &+= 1
      return nil
    }
    let address = remote.address
    guard remote.port != 0, !address.isUnspecified, !address.isMulticast, !address.isBroadcast
    else {
      counters.badSource &+= 1
      return nil
    }
    switch rates.take(address, now: now) {
    case .allowed: break
    case .sourceLimit:
      counters.sourceLimit &+= 1
      return nil
    case .totalLimit:
      counters.totalLimit &+= 1
      return nil
    }
    switch STUNMessage.decode(bytes) {
    case .failure(.notSTUN): counters.notSTUN &+= 1
    case .failure(.otherMethod): counters.otherMethod &+= 1
    case .failure(.attribute), .failure(.fingerprint): counters.malformed &+= 1
    case .success(let request):
      guard request.kind == .request else {
        counters.notRequest &+= 1
        return nil
      }
      return answer(request, from: remote, at: local, transport)
    }
    return nil
  }

  private mutating func answer(
    _ request: STUNMessage, from remote: Endpoint, at local: Endpoint, _ transport: STUNTransport
  ) -> STUNAnswer? {
    let other = transport == .udp ? otherEndpoint(of: local) : nil
    var unknown = request.notUnderstood
    var source = local
    if let change = request.change {
      // Over TCP nothing else can answer (RFC 5780 §7.2); with one address its
      // other port can.
      if transport == .tcp || change.contains(.address) && other == nil {
        unknown.append(STUNAttribute.changeRequest)
      } else {
        if change.contains(.address), let other { source.address = other.address }
        if change.contains(.port) { source.port = otherPort(of: local.port) }
      }
    }
    var answer: STUNMessage
    if unknown.isEmpty {
      answer = STUNMessage(.success, request.transaction)
      answer.hasFingerprint = request.hasFingerprint
      answer.xorMappedAddress = remote
      answer.responseOrigin = source
      answer.otherAddress = other
      addMappedAddress(remote, to: &answer)
      counters.answered &+= 1
    } else {
      source = local
      answer = STUNMessage(.failure, request.transaction)
      answer.hasFingerprint = request.hasFingerprint
      answer.refusal = STUNRefusal(
        code: STUNErrorCode.unknownAttribute, reason: Array("Unknown Attribute".utf8))
      answer.unknownAttributes = Array(unknown.prefix(STUNLimits.listedAttributes))
      counters.refused &+= 1
    }
    let bytes = answer.encode()
    precondition(bytes.count <= STUNLimits.answerBytes)
    return STUNAnswer(bytes: bytes, source: source)
  }

  /// RFC 5780 §6.1 wants both; where both are too long, XOR-MAPPED-ADDRESS,
  /// which routers leave alone, is the one.
  private func addMappedAddress(_ remote: Endpoint, to answer: inout STUNMessage) {
    var size = STUNConstants.header + 2 * STUNMessage.size(of: remote)
    if let origin = answer.responseOrigin { size += STUNMessage.size(of: origin) }
    if let other = answer.otherAddress { size += STUNMessage.size(of: other) }
    if answer.hasFingerprint { size += STUNConstants.fingerprintBytes }
    if size <= STUNLimits.answerBytes { answer.mappedAddress = remote }
  }

  private func otherPort(of port: UInt16) -> UInt16 {
    port == settings.udp1 ? settings.udp2 : settings.udp1
  }

  /// The other address and the other port, as OTHER-ADDRESS says them; nil with
  /// one address.
  private func otherEndpoint(of local: Endpoint) -> Endpoint? {
    guard let pair = settings.pairs.first(where: { $0.first.isV4 == local.address.isV4 }) else {
      return nil
    }
    // A third address of this host counts as the first.
    let address = local.address == pair.second ? pair.first : pair.second
    return Endpoint(address, otherPort(of: local.port))
  }
}
