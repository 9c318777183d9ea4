import Bytes
import Crypto
import Signaling
import Testing

@Suite struct LoginTamperTests {
  @Test func everyByteOfEveryMessageIsBound() {
    let lengths = sample(knownNode: false).trial().messages.map(\.count)
    for (number, length) in lengths.enumerated() {
      // Every byte of the short messages; points cost more, so every third there.
      for offset in stride(from: 0, to: length, by: number < 2 ? 3 : 1) {
        var world = sample(knownNode: false)
        world.tamper = { current, bytes in
          var bytes = bytes
          if current == number, offset < bytes.count { bytes[offset] ^= 1 }
          return bytes
        }
        let outcome = world.run()
        #expect(outcome.client == nil, "message \(number) byte \(offset)")
        if number < 3 { #expect(outcome.server == nil, "message \(number) byte \(offset)") }
      }
    }
  }

  @Test func everyTruncationAndEveryExtensionIsRefused() {
    let lengths = sample(knownNode: false).trial().messages.map(\.count)
    for (number, length) in lengths.enumerated() {
      for cut in 0..<length {
        var world = sample(knownNode: false)
        world.tamper = { current, bytes in current == number ? Array(bytes.prefix(cut)) : bytes }
        #expect(world.run().client == nil, "message \(number) cut to \(cut)")
      }
      var world = sample(knownNode: false)
      world.tamper = { current, bytes in current == number ? bytes + [0] : bytes }
      #expect(world.run().client == nil, "message \(number) with a byte more")
    }
  }

  @Test func aForgedUnknownNodeOnlyCostsTheToken() {
    // Somebody in between says "unknown node": the token run still needs the token.
    var world = sample(knownNode: true)
    let forged = LoginServer.refusal(LoginRefusal(.unknownNode))
    world.tamper = { number, bytes in number == 1 ? forged : bytes }
    let outcome = world.run()
    #expect(outcome.client == nil)
    // Twice is once too often.
    world = sample(knownNode: true)
    world.tamper = { number, bytes in number % 2 == 1 ? forged : bytes }
    #expect(world.run().failure == .refused(LoginRefusal(.unknownNode)))
  }

  @Test func hostileNamesAndKindsAreMalformed() {
    let good = sample(knownNode: false).trial().messages[0]
    let nameAt = 101
    let table: [(String, [UInt8])] = [
      ("empty", []), ("one byte", [1]), ("unknown kind", [9, 1]), ("kind 0", [0, 1]),
      ("no name", good[..<nameAt] + [0, 0, 0, 0]),
      ("newline in name", good[..<nameAt] + [0, 2, 0x61, 0x0a, 0, 0]),
      ("not UTF-8", good[..<nameAt] + [0, 1, 0xff, 0, 0]),
      ("name of 256", good[..<nameAt] + [1, 0] + [UInt8](repeating: 0x61, count: 256) + [0, 0]),
      ("mode 3", good[..<2] + [3] + good[3...]),
      (
        "attachment of 1025",
        good[..<nameAt] + [0, 1, 0x61, 4, 1] + [UInt8](repeating: 0, count: 1025)
      ),
    ]
    for (name, bytes) in table {
      var world = sample(knownNode: false)
      world.tamper = { number, message in number == 0 ? bytes : message }
      #expect(world.run().refusals == [.malformed], "\(name)")
    }
  }

  private func sample(knownNode: Bool) -> LoginWorld {
    var world = LoginWorld(seed: 42)
    if knownNode {
      let secret = [UInt8](repeating: 3, count: 32)
      world.nodeSecret = secret
      world.kept[world.staticKey.publicKey] = LoginKnownNode(mesh: 0, secret: secret)
    }
    return world
  }
}

extension LoginWorld {
  /// Runs a copy.
  func trial() -> Outcome {
    var copy = self
    return copy.run()
  }
}
