import Bytes
import TLS
import Testing

private let now: Int64 = 1_700_000_000

/// A server's identity, made once: key generation is the slow part.
private let identity: Result<TLSIdentity, TLSFailure> = Result { () throws(TLSFailure) in
  try TLSIdentity.selfSigned(name: "martlet.example", unixTime: now)
}

private struct Pair {
  let client: TLSSession
  let server: TLSSession

  init(
    _ verification: TLSContext.Verification = .callerDecides, name: String? = "martlet.example",
    identity given: TLSIdentity? = nil
  ) throws {
    let identity = try given ?? identity.get()
    server = try TLSContext.server(certificate: identity.certificate, key: identity.key).session()
    client = try TLSContext.client(verification).session(serverName: name)
    server.begin()
    client.begin()
  }

  /// Moves ciphertext both ways in pieces of `step` until nothing moves.
  func exchange(step: Int = .max, spoil: ((inout [UInt8]) -> Void)? = nil) {
    while true {
      var fromClient = client.takeOutput()
      var fromServer = server.takeOutput()
      if fromClient.isEmpty, fromServer.isEmpty { return }
      spoil?(&fromClient)
      spoil?(&fromServer)
      deliver(fromClient, to: server, step)
      deliver(fromServer, to: client, step)
    }
  }

  private func deliver(_ bytes: [UInt8], to session: TLSSession, _ step: Int) {
    var position = 0
    while position < bytes.count {
      let next = min(bytes.count, position + min(step, bytes.count))
      session.receiveCiphertext(bytes[position..<next].span.bytes)
      position = next
    }
  }
}

private func readAll(_ session: TLSSession) -> [UInt8] {
  var bytes: [UInt8] = []
  while session.read({ bytes.append($0.bytes) }) > 0 {}
  return bytes
}

private func write(_ bytes: [UInt8], to session: TLSSession) -> Bool {
  session.write(bytes.span.bytes)
}

@Test func twoEnginesMeetAndAgree() throws {
  for step in [1, 7, 1000, Int.max] {
    let pair = try Pair()
    #expect(!write([1], to: pair.client))
    #expect(pair.client.channelBinding.isEmpty)
    pair.exchange(step: step)
    #expect(pair.client.isEstablished && pair.server.isEstablished)
    #expect(pair.client.failure == nil && pair.server.failure == nil)
    #expect(pair.client.version == "TLSv1.3")
    #expect(pair.client.channelBinding.count == 32)
    #expect(pair.client.channelBinding == pair.server.channelBinding)
    #expect(
      pair.client.exporter(label: "x", count: 48) == pair.server.exporter(label: "x", count: 48))
    #expect(pair.client.exporter(label: "x", count: 32) != pair.client.channelBinding)
    #expect(try pair.client.peerFingerprintSHA256 == identity.get().fingerprintSHA256())
    #expect(pair.server.peerFingerprintSHA256 == nil)
    #expect(!pair.client.isAuthorityVerified && !pair.server.isAuthorityVerified)
  }
}

@Test func noTwoSessionsShareABinding() throws {
  let one = try Pair()
  let two = try Pair()
  one.exchange()
  two.exchange()
  #expect(one.client.channelBinding != two.client.channelBinding)
}

@Test func bytesArriveWholeInBothDirections() throws {
  let pair = try Pair()
  pair.exchange()
  var random = SeededRandom(testSeed: 1)
  for count in [0, 1, 100, 16_383, 16_384, 16_385, 100_000] {
    let bytes = random.bytes(count)
    for (from, to) in [(pair.client, pair.server), (pair.server, pair.client)] {
      #expect(write(bytes, to: from))
      pair.exchange(step: count > 1000 ? 1013 : 3)
      #expect(readAll(to) == bytes, "\(count) bytes")
    }
  }
  #expect(pair.client.pendingOutput == 0)
}

@Test func readingIntoASpanTakesWhatFits() throws {
  let pair = try Pair()
  pair.exchange()
  let bytes = [UInt8](repeating: 9, count: 40_000)
  #expect(write(bytes, to: pair.server))
  pair.exchange()
  var queue = ByteQueue()
  while queue.append(
    limit: 1000, { (output: inout OutputRawSpan) in pair.client.read(into: &output) }) > 0
  {}
  let count = queue.byteCount
  #expect(count == 40_000)
}

@Test func oneFlippedBitEndsTheSession() throws {
  for position in [0, 1, 3, 5, 20, 60] {
    let pair = try Pair()
    pair.exchange()
    #expect(write([UInt8](repeating: 1, count: 50), to: pair.client))
    pair.exchange { bytes in
      if bytes.count > position { bytes[position] ^= 1 }
    }
    #expect(readAll(pair.server) == [], "position \(position)")
    pair.server.receiveEnd()
    _ = readAll(pair.server)
    #expect(pair.server.failure != nil, "position \(position)")
    #expect(!write([1], to: pair.server))
  }
}

@Test func aHandshakeThatIsTouchedNeverCompletes() throws {
  var random = SeededRandom(testSeed: 2)
  for round in 0..<60 {
    let pair = try Pair()
    let target = Int(random.next() % 1200)
    var seen = 0
    pair.exchange(step: 1) { bytes in
      if seen <= target, target < seen + bytes.count {
        bytes[target - seen] ^= UInt8(1 << (random.next() % 8))
      }
      seen += bytes.count
    }
    // Either an end noticed, or both still wait; never do both believe.
    let believes = pair.client.isEstablished && pair.server.isEstablished
    #expect(!believes || pair.client.channelBinding == pair.server.channelBinding, "round \(round)")
    if believes {
      // The record layer's version bytes are not authenticated in TLS 1.3's
      // first flight; then everything still works.
      #expect(write([1, 2, 3], to: pair.client))
      pair.exchange()
      #expect(readAll(pair.server) == [1, 2, 3], "round \(round)")
    }
  }
}

@Test func nonsenseIsAFailureInWords() throws {
  let server = try TLSContext.server(
    certificate: identity.get().certificate, key: identity.get().key
  ).session()
  server.begin()
  server.receiveCiphertext(Array("GET / HTTP/1.1\r\nHost: h\r\n\r\n".utf8).span.bytes)
  guard case .handshake(let words)? = server.failure else {
    Issue.record("\(String(describing: server.failure))")
    return
  }
  #expect(!words.isEmpty)
  // More input after that changes nothing.
  server.receiveCiphertext([0x16, 3, 1].span.bytes)
  #expect(readAll(server) == [])

  let client = try TLSContext.client().session()
  client.begin()
  #expect(client.pendingOutput > 100)
  client.receiveEnd()
  #expect(client.failure == .handshake("the connection ended in the middle of the handshake"))
}

@Test func goodbyeIsToldFromACut() throws {
  let polite = try Pair()
  polite.exchange()
  #expect(write([1], to: polite.client))
  polite.client.close()
  #expect(!write([2], to: polite.client))
  polite.exchange()
  #expect(readAll(polite.server) == [1])
  #expect(polite.server.isPeerClosed && polite.server.failure == nil)

  let cut = try Pair()
  cut.exchange()
  cut.server.receiveEnd()
  #expect(readAll(cut.server) == [])
  #expect(!cut.server.isPeerClosed)
  #expect(cut.server.failure == .broken("the connection was cut without a goodbye"))
}

@Test func authoritiesAndNamesAreCheckedWhereAsked() throws {
  let current = try TLSIdentity.selfSigned(name: "martlet.example", unixTime: Int64(1_790_000_000))
  // The system's authorities do not know it.
  let unknown = try Pair(.authorities)
  unknown.exchange()
  guard case .untrusted? = unknown.client.failure else {
    Issue.record("\(String(describing: unknown.client.failure))")
    return
  }
  #expect(!unknown.client.isEstablished)
  // Trusted itself: the right name passes, another does not. (Validity is the
  // clock's matter: an identity of today's.)
  for (name, accepted) in [
    ("martlet.example", true), ("other.example", false), ("192.0.2.1", false),
  ] {
    let pair = try Pair(.only(current.certificate), name: name, identity: current)
    pair.exchange()
    if accepted, case .untrusted("certificate is not yet valid")? = pair.client.failure { continue }
    if accepted, case .untrusted("certificate has expired")? = pair.client.failure { continue }
    #expect(
      pair.client.isEstablished == accepted, "\(name): \(String(describing: pair.client.failure))")
    #expect(pair.client.isAuthorityVerified == accepted, "\(name)")
    if !accepted { #expect(!pair.server.isEstablished || pair.server.failure != nil) }
  }
}

@Test func identitiesAreCheckedAsAPair() throws {
  let one = try identity.get()
  let two = try TLSIdentity.selfSigned(
    name: "ü — a name of more than sixty-four characters, which a certificate cannot hold",
    unixTime: now)
  #expect(try one.fingerprintSHA256() != two.fingerprintSHA256())
  #expect(try one.fingerprintSHA256().count == 32)
  #expect(
    String(decoding: one.certificate, as: UTF8.self).hasPrefix("-----BEGIN CERTIFICATE-----\n"))
  #expect(String(decoding: one.key, as: UTF8.self).hasPrefix("-----BEGIN PRIVATE KEY-----\n"))
  #expect(throws: TLSFailure.badIdentity("the key does not belong to the certificate")) {
    try TLSContext.server(certificate: one.certificate, key: two.key)
  }
  for (certificate, key) in [
    ([], one.key), (Array("junk".utf8), one.key), (one.certificate, []),
    (one.certificate, one.certificate), (one.key, one.key),
  ] {
    #expect(throws: TLSFailure.self) { try TLSContext.server(certificate: certificate, key: key) }
  }
  // A chain: leaf first.
  let chained = try TLSContext.server(certificate: one.certificate + two.certificate, key: one.key)
    .session()
  chained.begin()
  let client = try TLSContext.client().session(serverName: "127.0.0.1")
  client.begin()
  chained.receiveCiphertext(client.takeOutput().span.bytes)
  client.receiveCiphertext(chained.takeOutput().span.bytes)
  #expect(try client.peerFingerprintSHA256 == one.fingerprintSHA256())
}

@Test func aReaderThatDoesNotReadIsBounded() throws {
  let pair = try Pair()
  pair.exchange()
  let chunk = [UInt8](repeating: 3, count: 60_000)
  var accepted = 0
  while write(chunk, to: pair.client) { accepted += 1 }
  #expect(accepted > 10 && pair.client.pendingOutput < TLSLimits.output + 70_000)
  let wire = pair.client.takeOutput()
  for _ in 0..<10 { pair.server.receiveCiphertext(wire.span.bytes) }
  #expect(pair.server.failure == .inputTooLong)
}

@Test func outputMayBeTakenInPieces() throws {
  let pair = try Pair()
  pair.exchange()
  #expect(write([UInt8](repeating: 4, count: 1000), to: pair.client))
  var wire: [UInt8] = []
  while pair.client.withPendingOutput({ bytes in
    let count = min(10, bytes.byteCount)
    wire.append(bytes.extracting(0..<count))
    return count
  }) > 0 {}
  pair.server.receiveCiphertext(wire.span.bytes)
  #expect(readAll(pair.server).count == 1000)
}
