import Bytes
import Crypto
import Testing

/// Vectors computed with the independent Python package `noiseprotocol` 0.3.1:
/// secrets 00…1f (sender), 20…3f (receiver), 40…5f (ephemeral).
@Suite struct NoiseXTests {
  static func pair(_ first: UInt8) -> KeyPair {
    let secret = [UInt8](first..<(first + 32))
    return KeyPair(secret: secret, publicKey: X25519.publicKey(of: secret))
  }
  static let sender = pair(0)
  static let receiver = pair(32)
  static let ephemeral = pair(64)

  @Test func vectorsOfAnotherImplementation() throws {
    let table: [(prologue: String, payload: String, message: String)] = [
      (
        "martlet relay v1", "sealed to one relay only",
        "79a631eede1bf9c98f12032cdeadd0e7a079398fc786b88cc846ec89af85a51af8cba1e81fab96f8356537b0"
          + "1f4f006fed801b6e1da9872bad0519c97e8355d51f733716930273d31cd9f9eb237b181ba667d54b467c"
          + "be9160c15c80ed97326c067936b1ca5b60abade89fdcb44e799696c8c16d694d0258"
      ),
      (
        "", "",
        "79a631eede1bf9c98f12032cdeadd0e7a079398fc786b88cc846ec89af85a51af8cba1e81fab96f8356537b0"
          + "1f4f006fed801b6e1da9872bad0519c97e8355d5f94343c12df4dc9ad9dbef750e9681d8d61738a3e285"
          + "c9f8255f1a843ad0473f"
      ),
    ]
    for entry in table {
      let sealed = try #require(
        NoiseX.seal(
          ascii(entry.payload), from: Self.sender, to: Self.receiver.publicKey,
          ephemeral: Self.ephemeral, prologue: ascii(entry.prologue)))
      #expect(hex(sealed.message) == entry.message)
      #expect(
        hex(sealed.secret) == "74b67ab63e3db3baff7509be9813861209b598cd3a7e3c4d7204c0ec290f2593")
      let opened = try #require(
        NoiseX.open(sealed.message, receiver: Self.receiver, prologue: ascii(entry.prologue)))
      #expect(opened.payload == ascii(entry.payload))
      #expect(opened.sender == Self.sender.publicKey)
      #expect(opened.secret == sealed.secret)
    }
  }

  @Test func everyFlippedBitCutAndOtherKeyIsRefused() throws {
    let sealed = try #require(
      NoiseX.seal(
        [1, 2, 3], from: Self.sender, to: Self.receiver.publicKey, ephemeral: Self.ephemeral,
        prologue: [9]))
    for position in sealed.message.indices {
      var broken = sealed.message
      broken[position] ^= 0x10
      #expect(NoiseX.open(broken, receiver: Self.receiver, prologue: [9]) == nil, "\(position)")
      let cut = Array(sealed.message[..<position])
      #expect(NoiseX.open(cut, receiver: Self.receiver, prologue: [9]) == nil, "\(position)")
    }
    #expect(NoiseX.open(sealed.message, receiver: Self.receiver, prologue: [8]) == nil)
    #expect(NoiseX.open(sealed.message, receiver: Self.sender, prologue: [9]) == nil)
  }

  @Test func aLowOrderKeyGetsNothing() {
    let zero = [UInt8](repeating: 0, count: 32)
    #expect(
      NoiseX.seal([1], from: Self.sender, to: zero, ephemeral: Self.ephemeral, prologue: []) == nil)
    #expect(
      NoiseX.open(zero + [UInt8](repeating: 1, count: 80), receiver: Self.receiver, prologue: [])
        == nil)
  }
}
