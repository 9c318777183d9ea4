/// NAT-PMP on the wire (RFC 6886): the elder sibling of PCP on the same port,
/// IPv4 only. Requests written, responses read; no time, no memory of questions.
/// Byte tables: docs/protocol/port-mapping.md.

#if canImport(Bytes)
  package import Bytes
#endif

/// What RFC 6886 fixes.
package enum NATPMPConstants {
  package static let addressOpcode: UInt8 = 0
  package static let udpOpcode: UInt8 = 1
  package static let tcpOpcode: UInt8 = 2
  /// §3.1: then doubled.
  package static let firstRetransmission = TimeAmount.milliseconds(250)
}

/// Result codes of §3.5.
package enum NATPMPResult: UInt16, Sendable, CaseIterable {
  case success = 0
  case unsupportedVersion = 1
  case notAuthorized = 2
  case networkFailure = 3
  case outOfResources = 4
  case unsupportedOpcode = 5
}

package enum NATPMPRequest: Hashable, Sendable {
  case externalAddress
  /// Lifetime 0 asks for removal.
  case map(
    transport: MappedTransport, internalPort: UInt16, suggestedPort: UInt16, lifetime: UInt32)

  package func encoded() -> [UInt8] {
    switch self {
    case .externalAddress:
      return [0, NATPMPConstants.addressOpcode]
    case .map(let transport, let internalPort, let suggestedPort, let lifetime):
      let opcode = transport == .udp ? NATPMPConstants.udpOpcode : NATPMPConstants.tcpOpcode
      var bytes: [UInt8] = [0, opcode, 0, 0]
      bytes.appendUInt16(internalPort)
      bytes.appendUInt16(suggestedPort)
      bytes.appendUInt32(lifetime)
      return bytes
    }
  }
}

package struct NATPMPResponse: Hashable, Sendable {
  package enum Content: Hashable, Sendable {
    case externalAddress(IPAddress)
    case map(
      transport: MappedTransport, internalPort: UInt16, externalPort: UInt16, lifetime: UInt32)
    /// An error without the fields of a success, or an opcode we never use.
    case bare(opcode: UInt8)
  }

  /// As it came; may be none of `NATPMPResult`.
  package var resultCode: UInt16
  /// Seconds since the gateway's table was made; 0 when cut off.
  package var epoch: UInt32
  package var content: Content

  package init(resultCode: UInt16, epoch: UInt32, content: Content) {
    self.resultCode = resultCode
    self.epoch = epoch
    self.content = content
  }

  package var result: NATPMPResult? { NATPMPResult(rawValue: resultCode) }

  /// Nil: not a response of version 0.
  package static func decode(_ bytes: RawSpan) -> NATPMPResponse? {
    var reader = ByteReader(bytes)
    guard reader.uint8() == 0, let first = reader.uint8(), let result = reader.uint16(),
      let epoch = reader.uint32()
    else { return nil }
    // A refused version is answered with opcode 0 by some, 128 + opcode by others.
    guard first & 0x80 != 0 || result == NATPMPResult.unsupportedVersion.rawValue else {
      return nil
    }
    let opcode = first & 0x7f
    var content = Content.bare(opcode: opcode)
    switch opcode {
    case NATPMPConstants.addressOpcode:
      if let address = reader.uint32() { content = .externalAddress(IPAddress(v4: address)) }
    case NATPMPConstants.udpOpcode, NATPMPConstants.tcpOpcode:
      if let inside = reader.uint16(), let outside = reader.uint16(), let life = reader.uint32() {
        content = .map(
          transport: opcode == NATPMPConstants.udpOpcode ? .udp : .tcp, internalPort: inside,
          externalPort: outside, lifetime: life)
      }
    default: break
    }
    if content == .bare(opcode: opcode), result == NATPMPResult.success.rawValue { return nil }
    return NATPMPResponse(resultCode: result, epoch: epoch, content: content)
  }
}

/// The gateway's clock as the client follows it (§3.6).
package struct NATPMPEpoch: Hashable, Sendable {
  private var server: UInt32
  private var client: Instant

  package init(_ epoch: UInt32, at now: Instant) {
    server = epoch
    client = now
  }

  /// Takes the next value over.
  /// - Returns: false when the gateway must have lost its table.
  package mutating func follow(_ epoch: UInt32, at now: Instant) -> Bool {
    let elapsed = (now - client).nanoseconds / 1_000_000_000
    let expected = Int64(server) + elapsed * 7 / 8
    self = NATPMPEpoch(epoch, at: now)
    return Int64(epoch) + 2 >= expected
  }
}
