/// The upgrade from HTTP to WebSocket, both sides (RFC 6455 §4). Version 13
/// only, no extensions: compression costs memory per connection and our
/// payload is sealed anyway.

package enum WebSocketHandshake {
  private static let magic = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

  /// Sec-WebSocket-Accept for a Sec-WebSocket-Key.
  package static func accept(forKey key: String) -> String {
    Base64.encode(SHA1.hash(Array((key + magic).utf8)))
  }

  /// What a server says to an upgrade request.
  package enum Answer: Sendable, Equatable {
    /// A 101 to hand to `switchProtocols`.
    case accepted(HTTPResponse)
    /// An error to respond with.
    case refused(HTTPResponse)
  }

  /// Judges an upgrade request. The caller checks path, Host and Origin first:
  /// browsers let every page open a WebSocket anywhere.
  /// - Parameter subprotocols: those the server speaks, best first; when the
  ///   client offers some and none is known, none is chosen.
  package static func answer(_ request: HTTPRequest, subprotocols: [String] = []) -> Answer {
    guard request.method == .get, request.version == .http11, request.isWebSocketUpgrade,
      request.bodyLength == .none || request.bodyLength == .fixed(0)
    else {
      var response = HTTPResponse.problem(
        426, "Upgrade Required", detail: "this address speaks WebSocket (RFC 6455)")
      response.headers["Upgrade"] = "websocket"
      return .refused(response)
    }
    guard request.headers.values("Sec-WebSocket-Version") == ["13"] else {
      var response = HTTPResponse.problem(
        426, "Upgrade Required", detail: "only version 13 is known")
      response.headers["Sec-WebSocket-Version"] = "13"
      return .refused(response)
    }
    let keys = request.headers.values("Sec-WebSocket-Key")
    guard keys.count == 1, Base64.decode(keys[0])?.count == 16 else {
      return .refused(.problem(400, "Bad Request", detail: "the Sec-WebSocket-Key is malformed"))
    }
    var response = HTTPResponse(101)
    response.headers["Upgrade"] = "websocket"
    response.headers["Connection"] = "Upgrade"
    response.headers["Sec-WebSocket-Accept"] = accept(forKey: keys[0])
    // Subprotocol names are compared exactly (§1.9), so not by `listed`.
    let offered = Set(
      request.headers.values("Sec-WebSocket-Protocol").flatMap { $0.split(separator: ",") }
        .map { String($0.drop { $0 == " " }.reversed().drop { $0 == " " }.reversed()) })
    if let chosen = subprotocols.first(where: offered.contains) {
      response.headers["Sec-WebSocket-Protocol"] = chosen
    }
    return .accepted(response)
  }

  /// The client's request.
  /// - Parameter nonce: 16 random bytes; kept to check the answer.
  package static func request(
    target: String, nonce: [UInt8], subprotocols: [String] = [],
    headers: HTTPHeaders = HTTPHeaders()
  ) -> HTTPRequest {
    precondition(nonce.count == 16)
    var request = HTTPRequest(.get, target, headers: headers)
    request.headers["Upgrade"] = "websocket"
    request.headers["Connection"] = "Upgrade"
    request.headers["Sec-WebSocket-Version"] = "13"
    request.headers["Sec-WebSocket-Key"] = Base64.encode(nonce)
    if !subprotocols.isEmpty {
      request.headers["Sec-WebSocket-Protocol"] = subprotocols.joined(separator: ", ")
    }
    return request
  }

  /// Whether a 101 is the answer to our request (§4.1): the right protocol,
  /// the right proof, nothing we did not offer.
  package static func isAccepted(
    _ response: HTTPResponse, nonce: [UInt8], subprotocols: [String] = []
  ) -> Bool {
    guard response.status == 101, response.headers.listed("Upgrade") == ["websocket"],
      response.headers.lists("upgrade", in: "Connection"),
      response.headers.values("Sec-WebSocket-Accept") == [accept(forKey: Base64.encode(nonce))],
      response.headers["Sec-WebSocket-Extensions"] == nil
    else { return false }
    let chosen = response.headers.values("Sec-WebSocket-Protocol")
    return chosen.isEmpty || (chosen.count == 1 && subprotocols.contains(chosen[0]))
  }
}
