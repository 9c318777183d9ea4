/// The Port Control Protocol on the wire (RFC 6887): requests written, responses
/// read. Only MAP and ANNOUNCE; no options are sent, options that come are
/// skipped. Knows nothing of time or of who asked; PortMapper judges that.
/// Byte tables: docs/protocol/port-mapping.md.

#if canImport(Bytes)
  package import Bytes
#endif

/// What RFC 6887 fixes.
package enum PCPConstants {
  package static let version: UInt8 = 2
  /// Where servers listen; NAT-PMP's too (RFC 6887 §19.1).
  package static let serverPort: UInt16 = 5351
  /// Where unsolicited announcements arrive.
  package static let announcementPort: UInt16 = 5350
  package static let announceOpcode: UInt8 = 0
  package static let mapOpcode: UInt8 = 1
  package static let headerBytes = 24
  package static let mapBytes = 60
  /// §7: longer ones are dropped, and so are lengths that 4 does not divide.
  package static let longestMessage = 1100
  package static let nonceBytes = 12
  /// IRT and MRT of §8.1.1.
  package static let firstRetransmission = TimeAmount.seconds(3)
  package static let longestRetransmission = TimeAmount.seconds(1024)
  /// §11.2.1: renewals are never closer together.
  package static let renewalGap = TimeAmount.seconds(4)
  /// §14.1.3: the random wait before mappings are made anew.
  package static let recoverySpread = TimeAmount.seconds(5)
}

/// The transport whose port is mapped; raw values are IANA's protocol numbers.
package enum MappedTransport: UInt8, Sendable {
  case tcp = 6
  case udp = 17

  /// As UPnP and people call it.
  package var words: String {
    switch self {
    case .tcp: "TCP"
    case .udp: "UDP"
    }
  }
}

/// Result codes of §7.4.
package enum PCPResult: UInt8, Sendable, CaseIterable {
  case success = 0
  case unsupportedVersion = 1
  case notAuthorized = 2
  case malformedRequest = 3
  case unsupportedOpcode = 4
  case unsupportedOption = 5
  case malformedOption = 6
  case networkFailure = 7
  case noResources = 8
  case unsupportedProtocol = 9
  case userQuotaExceeded = 10
  case cannotProvideExternal = 11
  case addressMismatch = 12
  case excessiveRemotePeers = 13
}

/// A MAP request; lifetime 0 asks for removal.
package struct PCPMapRequest: Hashable, Sendable {
  package var lifetime: UInt32
  package var client: IPAddress
  /// 12 bytes, the same for the life of a mapping.
  package var nonce: [UInt8]
  package var transport: MappedTransport
  package var internalPort: UInt16
  /// 0: no wish.
  package var suggestedPort: UInt16
  package var suggestedAddress: IPAddress

  package init(
    lifetime: UInt32, client: IPAddress, nonce: [UInt8], transport: MappedTransport,
    internalPort: UInt16, suggestedPort: UInt16, suggestedAddress: IPAddress
  ) {
    precondition(nonce.count == PCPConstants.nonceBytes)
    self.lifetime = lifetime
    self.client = client
    self.nonce = nonce
    self.transport = transport
    self.internalPort = internalPort
    self.suggestedPort = suggestedPort
    self.suggestedAddress = suggestedAddress
  }

  package func encoded() -> [UInt8] {
    var bytes: [UInt8] = [PCPConstants.version, PCPConstants.mapOpcode, 0, 0]
    bytes.reserveCapacity(PCPConstants.mapBytes)
    bytes.appendUInt32(lifetime)
    bytes.appendPCPAddress(client)
    bytes += nonce
    bytes += [transport.rawValue, 0, 0, 0]
    bytes.appendUInt16(internalPort)
    bytes.appendUInt16(suggestedPort)
    bytes.appendPCPAddress(suggestedAddress)
    return bytes
  }
}

/// What a MAP response says of the mapping.
package struct PCPMapAnswer: Hashable, Sendable {
  package var nonce: [UInt8]
  /// IANA's number; may be one that was never asked for.
  package var transport: UInt8
  package var internalPort: UInt16
  package var external: Endpoint

  package init(nonce: [UInt8], transport: UInt8, internalPort: UInt16, external: Endpoint) {
    self.nonce = nonce
    self.transport = transport
    self.internalPort = internalPort
    self.external = external
  }
}

/// Any response of a server that speaks version 2.
package struct PCPResponse: Hashable, Sendable {
  package enum Content: Hashable, Sendable {
    case announce
    case map(PCPMapAnswer)
    /// An opcode we never use, or an error cut down to its header.
    case other(opcode: UInt8)
  }

  /// As it came; may be none of `PCPResult`.
  package var resultCode: UInt8
  /// Seconds: of the mapping, or for how long the error is expected to last.
  package var lifetime: UInt32
  /// Seconds since the server began or lost its state.
  package var epoch: UInt32
  package var content: Content

  package var result: PCPResult? { PCPResult(rawValue: resultCode) }

  /// Nil: not a response, or not one of version 2.
  package static func decode(_ bytes: RawSpan) -> PCPResponse? {
    let count = bytes.byteCount
    guard count >= PCPConstants.headerBytes, count <= PCPConstants.longestMessage, count % 4 == 0
    else { return nil }
    var reader = ByteReader(bytes)
    guard reader.uint8() == PCPConstants.version, let first = reader.uint8(), first & 0x80 != 0,
      reader.skip(1), let result = reader.uint8(), let lifetime = reader.uint32(),
      let epoch = reader.uint32(), reader.skip(12)
    else { return nil }
    let opcode = first & 0x7f
    let content: Content
    switch opcode {
    case PCPConstants.announceOpcode: content = .announce
    case PCPConstants.mapOpcode: content = mapAnswer(&reader).map(Content.map) ?? .other(opcode: 1)
    default: content = .other(opcode: opcode)
    }
    return PCPResponse(resultCode: result, lifetime: lifetime, epoch: epoch, content: content)
  }

  private static func mapAnswer(_ reader: inout ByteReader) -> PCPMapAnswer? {
    guard let nonce = reader.array(PCPConstants.nonceBytes), let transport = reader.uint8(),
      reader.skip(3), let internalPort = reader.uint16(), let externalPort = reader.uint16(),
      let high = reader.uint64(), let low = reader.uint64()
    else { return nil }
    return PCPMapAnswer(
      nonce: nonce, transport: transport, internalPort: internalPort,
      external: Endpoint(IPAddress(high: high, low: low), externalPort))
  }
}

/// The server's clock as the client follows it (§8.5): tells a server that lost
/// its state from one that did not.
package struct PCPEpoch: Hashable, Sendable {
  private var server: UInt32
  private var client: Instant

  package init(_ epoch: UInt32, at now: Instant) {
    server = epoch
    client = now
  }

  /// Takes the next value over.
  /// - Returns: false when the server must have lost its state.
  package mutating func follow(_ epoch: UInt32, at now: Instant) -> Bool {
    let former = self
    self = PCPEpoch(epoch, at: now)
    let serverDelta = Int64(epoch) - Int64(former.server)
    // Back by one second is a reordered packet.
    guard serverDelta >= -1 else { return false }
    let clientDelta = (now - former.client).nanoseconds / 1_000_000_000
    return clientDelta + 2 >= serverDelta - serverDelta / 16
      && serverDelta + 2 >= clientDelta - clientDelta / 16
  }
}

extension Array where Element == UInt8 {
  /// 16 bytes; IPv4 in its mapped form, as RFC 6887 §5 wants it and `IPAddress`
  /// keeps it.
  fileprivate mutating func appendPCPAddress(_ address: IPAddress) {
    appendUInt64(address.high)
    appendUInt64(address.low)
  }
}
