/// The unnumbered packets of a session (first byte 0x02): PING, PONG, packet
/// size probes and HELLO. Never acknowledged, never re-sent as they are.
/// Whatever follows the fields is padding and ignored. DESIGN §1.2, §1.1;
/// docs/protocol/paths.md.
///
/// ```
/// PING, SIZE PROBE                PONG
///  0  0x02                         0  0x02
///  1  0x01 PING, 0x04 SIZE PROBE   1  0x02
///  2  challenge (8)                2  challenge (8)
/// 10  zeros to the wanted size    10  bytes of the packet answered (2)
///                                 12  family (1): 0 none, 4, 6
///                                 13  port (2)
///                                 15  address (0, 4 or 16)
/// HELLO
///  0  0x02                         8  incarnation (8)
///  1  0x03                        16  seen incarnation, 0 = none (8)
///  2  version (1)                 24  certificate serial (8)
///  3  reserved, 0 (1)             32  revocation number (8)
///  4  features (4)                40  end
/// ```

#if canImport(Bytes)
  package import Bytes
#endif

/// What opens every new keypair (DESIGN §1.1 "Incarnation").
package struct HelloMessage: Equatable, Sendable {
  package static let byteCount = 40
  package static let currentVersion: UInt8 = 1

  /// What the sender says of this keypair.
  package struct Flags: OptionSet, Sendable {
    package let rawValue: UInt8
    package init(rawValue: UInt8) { self.rawValue = rawValue }
    /// The receiver's HELLO has come on this keypair.
    package static let heard = Flags(rawValue: 1)
    /// The sender's numbers did not start anew since it turned to this keypair:
    /// everything on it belongs to this HELLO. Otherwise only what was sealed
    /// after the HELLO does.
    package static let unbroken = Flags(rawValue: 2)
    /// The sender has sent numbered packets on another keypair already, when it
    /// knew no process of the receiver, and is not sure that it was this one.
    package static let older = Flags(rawValue: 4)
    /// The sender takes numbered packets of this incarnation of the receiver.
    package static let accepted = Flags(rawValue: 8)
    /// The sender wants no path through a relay.
    package static let noRelay = Flags(rawValue: 16)
    /// The sender wants no direct path.
    package static let onlyRelay = Flags(rawValue: 32)
  }

  package var version: UInt8
  package var flags: Flags
  package var features: UInt32
  package var incarnation: UInt64
  /// The incarnation of the receiver that the sender's numbered packets are
  /// meant for; 0 = none, the sender's numbers begin.
  package var seen: UInt64
  package var certificateSerial: UInt64
  package var revocationNumber: UInt64

  package init(
    version: UInt8 = currentVersion, flags: Flags = [], features: UInt32 = 0, incarnation: UInt64, seen: UInt64,
    certificateSerial: UInt64 = 0, revocationNumber: UInt64 = 0
  ) {
    self.version = version
    self.flags = flags
    self.features = features
    self.incarnation = incarnation
    self.seen = seen
    self.certificateSerial = certificateSerial
    self.revocationNumber = revocationNumber
  }
}

/// One unnumbered packet.
package enum PathMessage: Equatable, Sendable {
  /// `size`: bytes of the whole packet as it arrived (as it will be written).
  case ping(challenge: UInt64, size: Int)
  /// `observed`: where the sender of the PING is seen (UDP only).
  case pong(challenge: UInt64, answeredSize: Int, observed: Endpoint?)
  case sizeProbe(challenge: UInt64, size: Int)
  case hello(HelloMessage)

  package static let type: UInt8 = 0x02
  /// A PING is never shorter than the longest PONG, so that no answer is
  /// larger than what caused it.
  package static let shortestPing = 32
  package static let longestPong = 31

  private enum Code {
    static let ping: UInt8 = 1
    static let pong: UInt8 = 2
    static let hello: UInt8 = 3
    static let sizeProbe: UInt8 = 4
  }

  /// Decodes one opened packet, its type byte included. Nil for anything that
  /// is not exactly one of the four: a counted drop of the caller.
  package static func decode(_ packet: RawSpan) -> PathMessage? {
    var reader = ByteReader(packet)
    guard reader.uint8() == type, let code = reader.uint8() else { return nil }
    switch code {
    case Code.ping, Code.sizeProbe:
      guard packet.byteCount >= shortestPing, packet.byteCount <= 0xffff,
        let challenge = reader.uint64()
      else { return nil }
      return code == Code.ping
        ? .ping(challenge: challenge, size: packet.byteCount)
        : .sizeProbe(challenge: challenge, size: packet.byteCount)
    case Code.pong:
      guard let challenge = reader.uint64(), let size = reader.uint16(),
        let family = reader.uint8(), let port = reader.uint16()
      else { return nil }
      let observed: Endpoint?
      switch family {
      case 0:
        guard port == 0 else { return nil }
        observed = nil
      case 4:
        guard let v4 = reader.uint32() else { return nil }
        observed = Endpoint(IPAddress(v4: v4), port)
      case 6:
        guard let high = reader.uint64(), let low = reader.uint64() else { return nil }
        let address = IPAddress(high: high, low: low)
        guard !address.isV4 else { return nil }
        observed = Endpoint(address, port)
      default:
        return nil
      }
      return .pong(challenge: challenge, answeredSize: Int(size), observed: observed)
    case Code.hello:
      guard let version = reader.uint8(), let flags = reader.uint8(), version > 0,
        let features = reader.uint32(), let incarnation = reader.uint64(),
        let seen = reader.uint64(), let serial = reader.uint64(),
        let revocation = reader.uint64(), incarnation != 0
      else { return nil }
      return .hello(
        HelloMessage(
          version: version, flags: HelloMessage.Flags(rawValue: flags), features: features, incarnation: incarnation, seen: seen,
          certificateSerial: serial, revocationNumber: revocation))
    default:
      return nil
    }
  }

  /// The bytes the fields take, without padding.
  package var fieldBytes: Int {
    switch self {
    case .ping, .sizeProbe: 10
    case .pong(_, _, let observed):
      observed.map { $0.address.isV4 ? 19 : 31 } ?? 15
    case .hello: HelloMessage.byteCount
    }
  }

  /// Writes the packet and zeros up to `size` bytes (0: no padding). The span
  /// must have room for both.
  package func write(into output: inout OutputRawSpan, size: Int = 0) {
    output.writeUInt8(Self.type)
    switch self {
    case .ping(let challenge, _):
      output.writeUInt8(Code.ping)
      output.writeUInt64(challenge)
    case .sizeProbe(let challenge, _):
      output.writeUInt8(Code.sizeProbe)
      output.writeUInt64(challenge)
    case .pong(let challenge, let answered, let observed):
      output.writeUInt8(Code.pong)
      output.writeUInt64(challenge)
      output.writeUInt16(UInt16(truncatingIfNeeded: answered))
      if let observed {
        output.writeUInt8(observed.address.isV4 ? 4 : 6)
        output.writeUInt16(observed.port)
        if observed.address.isV4 {
          output.writeUInt32(observed.address.v4)
        } else {
          output.writeUInt64(observed.address.high)
          output.writeUInt64(observed.address.low)
        }
      } else {
        output.writeUInt8(0)
        output.writeUInt16(0)
      }
    case .hello(let hello):
      output.writeUInt8(Code.hello)
      output.writeUInt8(hello.version)
      output.writeUInt8(hello.flags.rawValue)
      output.writeUInt32(hello.features)
      output.writeUInt64(hello.incarnation)
      output.writeUInt64(hello.seen)
      output.writeUInt64(hello.certificateSerial)
      output.writeUInt64(hello.revocationNumber)
    }
    output.writeZeros(max(0, size - fieldBytes))
  }
}
