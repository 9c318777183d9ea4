/// What the SYN of a stream carries: which service of the peer is wanted. The
/// caller's identity is NOT in it; the exit knows that from the session's
/// certificate. Strict and canonical: one encoding per request, everything
/// else is refused. Implements docs/protocol/tunnels.md.
///
///     offset size
///     0      1    version, 1
///     1      1    kind: 1 tunnel, 2 app
///     2      1    protocol: 1 tcp, 2 udp
///     3      1    flags: what the caller demands of the road (`StreamTerms`)
///     tunnel: 4   1    length n of the name, 1…64
///             5   n    name, UTF-8
///     app:    4   2    port, 1…65535
///             6   1    length n of the host, 1…253
///             7   n    host: ASCII name or literal address without brackets

#if canImport(Bytes)
  import Bytes
#endif

/// Why bytes are not an open request.
package enum OpenRequestFault: UInt8, Error, Hashable, Sendable, CaseIterable {
  case truncated = 1
  case version
  case kind
  case `protocol`
  case flags
  case name
  case port
  case host
  case trailingBytes
}

/// A service of a peer.
package enum OpenRequest: Hashable, Sendable, CustomStringConvertible {
  case tunnel(TunnelKey)
  case app(TunnelProtocol, host: String, port: UInt16)

  /// Bytes of the longest request.
  package static let maximumByteCount = 7 + TunnelLimits.hostBytes
  static let version: UInt8 = 1

  package init(_ app: AppDefinition) {
    self = .app(app.protocol, host: app.dstHost, port: app.dstPort)
  }

  package var `protocol`: TunnelProtocol {
    switch self {
    case .tunnel(let key): key.protocol
    case .app(let kind, _, _): kind
    }
  }

  package func encoded(_ terms: StreamTerms = .usual) -> [UInt8] {
    var bytes: [UInt8] = [Self.version]
    switch self {
    case .tunnel(let key):
      bytes += [1, key.protocol.rawValue, terms.flags, UInt8(key.name.utf8.count)]
      bytes += key.name.utf8
    case .app(let kind, let host, let port):
      bytes += [2, kind.rawValue, terms.flags]
      bytes.appendUInt16(port)
      bytes.append(UInt8(host.utf8.count))
      bytes += host.utf8
    }
    return bytes
  }

  /// Decodes a whole request; bytes after it are a fault.
  package static func decode(
    _ span: RawSpan
  ) throws(OpenRequestFault) -> (service: OpenRequest, terms: StreamTerms) {
    var reader = ByteReader(span)
    let request = try read(&reader)
    guard reader.isAtEnd else { throw .trailingBytes }
    return request
  }

  private static func read(
    _ reader: inout ByteReader
  ) throws(OpenRequestFault) -> (service: OpenRequest, terms: StreamTerms) {
    guard let version = reader.uint8(), let kind = reader.uint8(),
      let protocolByte = reader.uint8(), let flags = reader.uint8()
    else { throw .truncated }
    guard version == Self.version else { throw .version }
    guard kind == 1 || kind == 2 else { throw .kind }
    guard let carried = TunnelProtocol(rawValue: protocolByte) else { throw .protocol }
    guard let terms = StreamTerms(flags: flags) else { throw .flags }
    if kind == 1 {
      guard let count = reader.uint8() else { throw .truncated }
      guard let bytes = reader.array(Int(count)) else { throw .truncated }
      guard let name = String(validating: bytes, as: UTF8.self) else { throw .name }
      do { return (.tunnel(try TunnelKey(carried, name)), terms) } catch { throw .name }
    }
    guard let port = reader.uint16(), let count = reader.uint8() else { throw .truncated }
    guard let bytes = reader.array(Int(count)) else { throw .truncated }
    guard port > 0 else { throw .port }
    guard let host = String(validating: bytes, as: UTF8.self), TunnelNaming.isHost(host) else {
      throw .host
    }
    return (.app(carried, host: host, port: port), terms)
  }

  package var description: String {
    switch self {
    case .tunnel(let key): key.description
    case .app(let kind, let host, let port):
      "\(kind.text) \(host.contains(":") ? "[\(host)]" : host):\(port)"
    }
  }
}

/// Why an exit refuses an open. The raw value is the code in RST(refused);
/// every one of them says that nothing was delivered.
package enum OpenRefusal: UInt16, Error, Hashable, Sendable, CaseIterable {
  case malformedRequest = 0x100
  /// No outbound of this name here.
  case noSuchTunnel = 0x101
  /// `entrances` or `users` leave this caller out.
  case notAdmitted = 0x102
  /// The exit policy has no rule for the host and port.
  case notAllowed = 0x103
  case nameNotResolved = 0x104
  case targetRefused = 0x105
  case targetUnreachable = 0x106
  case targetTimedOut = 0x107
  /// A limit of the exit (connections, descriptors).
  case exitBusy = 0x108
  /// This version carries tcp only.
  case protocolNotActive = 0x109
  case exitClosing = 0x10a

  /// Plain words for logs and for the RST (≤ 256 bytes).
  package var words: String {
    switch self {
    case .malformedRequest: "the open request is malformed"
    case .noSuchTunnel: "no outbound of this name at the exit"
    case .notAdmitted: "the exit does not admit this endpoint or user"
    case .notAllowed: "the exit has no -allow rule for this host and port"
    case .nameNotResolved: "the exit cannot resolve the target's name"
    case .targetRefused: "the target refused the connection"
    case .targetUnreachable: "the target is unreachable from the exit"
    case .targetTimedOut: "the target did not answer in time"
    case .exitBusy: "the exit has no room for another connection"
    case .protocolNotActive: "udp is not active yet"
    case .exitClosing: "the exit is shutting down"
    }
  }
}
