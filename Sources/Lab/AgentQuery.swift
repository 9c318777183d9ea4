/// Asks an agent's local API from inside its namespace, over one connection
/// that is kept: many times a second while a path is watched.

internal import Bytes
internal import CLinux
internal import Glibc
internal import HTTP
internal import Reactor

final class AgentQuery {
  private let namespace: String
  private let workshop: Workshop
  private var descriptor: Int32 = -1
  private var http = HTTPClientConnection()
  private static let within = TimeAmount.seconds(3)
  private static let api = Endpoint(.loopbackV4, 7777)

  init(_ namespace: String, _ workshop: Workshop) {
    self.namespace = namespace
    self.workshop = workshop
  }

  deinit { close() }

  private func close() {
    if descriptor >= 0 { _ = martlet_close(descriptor) }
    descriptor = -1
  }

  /// Nil when the agent does not answer (yet).
  func get(_ path: String) throws(LabFailure) -> JSONValue? {
    let deadline = Workshop.after(Self.within)
    if descriptor < 0 || !http.isIdle {
      close()
      guard
        case .connected(let fd) = try TCPProbe.connect(
          namespace, Self.api, until: deadline, workshop)
      else { return nil }
      descriptor = fd
      http = HTTPClientConnection()
    }
    http.send(
      HTTPRequest(.get, path), authority: HTTPAuthority(host: "127.0.0.1", port: Self.api.port),
      now: Workshop.now)
    guard Descriptors.write(descriptor, http.takeOutput()) else {
      close()
      return nil
    }
    while Workshop.now < deadline {
      guard try workshop.wait([descriptor], until: deadline).contains(true) else { break }
      let bytes = Workshop.readSome(descriptor)
      if bytes.isEmpty { break }
      http.receive(bytes.span.bytes, now: Workshop.now)
      while let event = http.pollEvent() {
        guard case .response(let response) = event else { continue }
        guard response.status == 200 else { return nil }
        do throws(JSONError) {
          return try JSONValue.parse(response.body)
        } catch {
          throw .failed("the agent's API answers what is not JSON (\(error))")
        }
      }
    }
    close()
    return nil
  }

  /// The path in use to a peer: its tier, or nil without one.
  func tier(of peer: String) throws(LabFailure) -> String? {
    try get("/api/peers")?.array?.first { $0["name"]?.string == peer }?["tier"]?.string
  }

  /// Connected to the server, and the peer is online there.
  func sees(_ peer: String) throws(LabFailure) -> Bool {
    try get("/api/peers")?.array?.first { $0["name"]?.string == peer }?["online"]?.bool == true
  }
}

enum Descriptors {
  /// Small writes to a fresh socket: all or nothing.
  static func write(_ descriptor: Int32, _ bytes: [UInt8]) -> Bool {
    let count = unsafe bytes.withUnsafeBytes {
      unsafe Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
    }
    return count == bytes.count
  }
}
