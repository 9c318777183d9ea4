import Bytes
import Crypto
import Mux
import Relay
import Testing

/// Who is let in, and with which words the others are sent away.
@Suite struct RelayAdmissionTests {
  struct Case {
    var random = SeededRandom(testSeed: 4)
    let relay: KeyPair
    let a: KeyPair
    let b: KeyPair
    var admission: RelayAdmission
    let token: UInt64 = 12_345_678
    let secret = RelaySecret(number: 9, key: [UInt8](repeating: 5, count: 32))
    let now = at(5_000)

    init(acceptsTokens: Bool = true) {
      relay = X25519.generate(using: &random)
      a = X25519.generate(using: &random)
      b = X25519.generate(using: &random)
      admission = RelayAdmission(key: relay, token: token, acceptsTokens: acceptsTokens)
      admission.setSecrets([secret])
      admission.setServerTime(unixNanoseconds: someTime * 1_000_000_000, now: now)
    }

    mutating func request(
      codeTime: UInt64 = someTime, token: UInt64? = nil, expiry: UInt64 = someTime + 60,
      edit: (inout RelayHandshake) -> Void = { _ in },
      editSigned: (inout RelayHandshake) -> Void = { _ in }
    ) -> RelayHandshake {
      let token = token ?? self.token
      var handshake = RelayHandshake(
        session: 77, leg: 0, from: a.publicKey, to: b.publicKey, relay: relay.publicKey,
        expiry: expiry, nonce: random.bytes(16),
        admission: .code(TOTP.code(token: token, unixTime: Int64(codeTime))))
      edit(&handshake)
      handshake.sign(macKey: RelayHandshake.macKey(token: token))
      editSigned(&handshake)
      return handshake
    }

    mutating func oneTime(
      secret: RelaySecret? = nil, leg: UInt8 = 0, expiry: UInt64 = someTime + 60,
      edit: (inout RelayHandshake) -> Void = { _ in }
    ) -> RelayHandshake {
      let token = RelayToken(
        secret: secret ?? self.secret, session: 77, leg: leg, relay: relay.publicKey,
        from: a.publicKey, to: b.publicKey, expiry: expiry)
      var handshake = RelayHandshake(
        session: 77, leg: leg, from: a.publicKey, to: b.publicKey, relay: relay.publicKey,
        expiry: expiry, nonce: random.bytes(16), admission: .token(token))
      edit(&handshake)
      return handshake
    }

    /// Sealed to this relay whatever the fields say.
    mutating func seal(_ handshake: RelayHandshake, by sender: KeyPair? = nil) -> [UInt8] {
      NoiseX.seal(
        handshake.encoded(), from: sender ?? a, to: relay.publicKey,
        ephemeral: X25519.generate(using: &random), prologue: Array("martlet relay v1".utf8))!
        .message
    }

    mutating func verdict(
      _ handshake: RelayHandshake, by sender: KeyPair? = nil, at now: Instant? = nil
    ) -> RelayRefusal? {
      verdict(sealed: seal(handshake, by: sender), at: now)
    }

    mutating func verdict(sealed: [UInt8], at now: Instant? = nil) -> RelayRefusal? {
      do throws(RelayRefused) {
        _ = try admission.admit(sealed, now: now ?? self.now)
        return nil
      } catch {
        return error.reason
      }
    }
  }

  @Test func requestsRoundTripAndAreExactlyTheirBytes() {
    var c = Case()
    for handshake in [c.request(), c.oneTime()] {
      let bytes = handshake.encoded()
      #expect(RelayHandshake(decoding: bytes) == handshake)
      #expect(RelayHandshake(decoding: bytes + [0]) == nil)
      for count in bytes.indices {
        #expect(RelayHandshake(decoding: Array(bytes[..<count])) == nil, "\(count)")
      }
    }
    // Byte tables of docs/protocol/relay.md.
    #expect(c.request().encoded().count == 170)
    #expect(c.oneTime().encoded().count == 166)
  }

  @Test func theRightCodeIsLetInOneStepAroundTheServersTime() {
    for offset: Int64 in [-30, 0, 30] {
      var c = Case()
      let request = c.request(codeTime: UInt64(Int64(someTime) + offset))
      #expect(c.verdict(request) == nil, "\(offset)")
    }
  }

  @Test func wrongAndOldCodesAreToldApart() {
    var c = Case()
    #expect(c.verdict(c.request(token: 1)) == .wrong)
    #expect(c.verdict(c.request(codeTime: someTime - 90)) == .expired)
    #expect(c.verdict(c.request(codeTime: someTime - 400)) == .expired)
    #expect(c.verdict(c.request(codeTime: someTime + 90)) == .wrong)
    #expect(c.verdict(c.request(expiry: someTime - 1)) == .expired)
    #expect(c.verdict(c.request(expiry: someTime + 3_600)) == .altered)
    #expect(c.admission.rememberedCount == 0)
  }

  @Test func aFieldChangedAfterSigningIsSeen() {
    var c = Case()
    #expect(c.verdict(c.request(editSigned: { $0.session += 1 })) == .altered)
    #expect(c.verdict(c.request(editSigned: { $0.leg = 1 })) == .altered)
    #expect(c.verdict(c.request(editSigned: { $0.expiry -= 1 })) == .altered)
    #expect(c.verdict(c.request(editSigned: { $0.nonce[3] ^= 1 })) == .altered)
    #expect(c.verdict(c.request(editSigned: { $0.to[0] ^= 1 })) == .altered)
    #expect(c.verdict(c.request(editSigned: { $0.mac[0] ^= 1 })) == .altered)
    let other = [UInt8](repeating: 3, count: 32)
    #expect(c.verdict(c.request(edit: { $0.relay = other })) == .otherRelay)
    #expect(c.verdict(c.request(), by: c.b) == .wrongSender)
    #expect(c.verdict(c.request(edit: { $0.to = $0.from })) == .malformed)
    let relay = c.relay.publicKey
    #expect(c.verdict(c.request(edit: { $0.to = relay })) == .notServed)
  }

  @Test func aRequestHoldsOnceAndIsRememberedTwoMinutes() {
    var c = Case()
    let sealed = c.seal(c.request())
    #expect(c.verdict(sealed: sealed) == nil)
    #expect(c.verdict(sealed: sealed) == .replayed)
    // Not by its box: sealed anew with the same nonce it is the same request.
    var again = c.request()
    again.nonce = [UInt8](repeating: 1, count: 16)
    again.sign(macKey: RelayHandshake.macKey(token: c.token))
    #expect(c.verdict(again) == nil)
    #expect(c.verdict(again) == .replayed)
    #expect(c.admission.rememberedCount == 2)
    // When it is forgotten, it has expired long ago.
    #expect(c.verdict(again, at: c.now + .seconds(121)) == .expired)
    #expect(c.verdict(c.request(expiry: someTime + 180), at: c.now + .seconds(121)) == .expired)
    #expect(c.admission.rememberedCount == 0)
  }

  @Test func aTokenOpensOneLegOnce() {
    var c = Case()
    #expect(c.verdict(c.oneTime()) == nil)
    // A fresh nonce makes no fresh token.
    #expect(c.verdict(c.oneTime()) == .replayed)
    #expect(c.verdict(c.oneTime(edit: { $0.leg = 1 })) == .altered)
    #expect(c.verdict(c.oneTime(leg: 1)) == nil)
  }

  @Test func tokensWrongOldAlteredOrForOthersAreRefused() {
    var c = Case()
    let other = RelaySecret(number: 9, key: [UInt8](repeating: 6, count: 32))
    #expect(c.verdict(c.oneTime(secret: other)) == .altered)
    #expect(c.verdict(c.oneTime(secret: RelaySecret(number: 8, key: c.secret.key))) == .wrong)
    #expect(c.verdict(c.oneTime(expiry: someTime - 1)) == .expired)
    #expect(c.verdict(c.oneTime(expiry: someTime - 1, edit: { $0.expiry += 30 })) == .altered)
    #expect(c.verdict(c.oneTime(edit: { $0.session += 1 })) == .altered)
    #expect(c.verdict(c.oneTime(edit: { $0.to[5] ^= 1 })) == .altered)
    let elsewhere = [UInt8](repeating: 3, count: 32)
    #expect(c.verdict(c.oneTime(edit: { $0.relay = elsewhere })) == .otherRelay)
    #expect(c.verdict(c.oneTime(), by: c.b) == .wrongSender)
    #expect(c.verdict(c.oneTime(expiry: someTime + 3_600)) == .altered)
    #expect(c.admission.rememberedCount == 0)
    #expect(c.verdict(c.oneTime()) == nil)
  }

  @Test func twoSecretsAreValidAndTheThirdRetiresTheFirst() {
    var c = Case()
    let second = RelaySecret(number: 10, key: [UInt8](repeating: 7, count: 32))
    let third = RelaySecret(number: 11, key: [UInt8](repeating: 8, count: 32))
    c.admission.setSecrets([second, c.secret])
    #expect(c.verdict(c.oneTime()) == nil)
    #expect(c.verdict(c.oneTime(secret: second, leg: 1)) == nil)
    c.admission.setSecrets([third, second])
    #expect(c.verdict(c.oneTime()) == .expired)
  }

  @Test func aPrivateRelayTakesNoTokensAndAPermitRelayNoCodes() {
    var c = Case(acceptsTokens: false)
    #expect(c.verdict(c.oneTime()) == .notServed)
    c.admission = RelayAdmission(key: c.relay, token: nil, acceptsTokens: true)
    c.admission.setSecrets([c.secret])
    // Without the server's time nobody is.
    #expect(c.verdict(c.oneTime()) == .notServed)
    c.admission.setServerTime(unixNanoseconds: someTime * 1_000_000_000, now: c.now)
    #expect(c.verdict(c.request()) == .notServed)
    #expect(c.verdict(c.oneTime()) == nil)
  }

  @Test func garbageIsUnreadableAndNotRemembered() {
    var c = Case()
    var random = SeededRandom(testSeed: 11)
    for count in [0, 1, 95, 96, 200, 266, 1_000] {
      #expect(c.verdict(sealed: random.bytes(count)) == .unreadable, "\(count)")
    }
    let sealed = c.seal(c.request())
    for position in stride(from: 0, to: sealed.count, by: 7) {
      var broken = sealed
      broken[position] ^= 4
      #expect(c.verdict(sealed: broken) == .unreadable, "\(position)")
    }
    #expect(c.admission.rememberedCount == 0)
    #expect(c.verdict(sealed: sealed) == nil)
  }

  @Test func messagesOfALegRoundTrip() {
    let proof = RelayLegProof(
      cookie: [UInt8](repeating: 1, count: 16), leg: 2, counter: 3,
      proof: [UInt8](repeating: 4, count: 32))
    for asked in [
      RelayRequest.join(cookie: proof.cookie, sealed: [1, 2]), .resume(proof), .leave(proof),
    ] {
      let bytes = asked.encoded()
      #expect(request(bytes) == asked)
      #expect(request(Array(bytes.prefix(16))) == nil)
    }
    var state = RelayLegState(
      leg: 1, session: 2, side: 1, number: 4, channel: 5, otherKind: .udp, largestPacket: 1_445)
    state.proof = [UInt8](repeating: 9, count: 16)
    for answer in [
      RelayReply.cookie(proof.cookie), .state(state),
      .refused(RelayRefusalNotice(reason: .full, subject: 7, secret: nil)),
    ] {
      let bytes = answer.encoded()
      #expect(reply(bytes) == answer)
      for count in bytes.indices {
        #expect(reply(Array(bytes[..<count])) == nil)
      }
      #expect(reply(bytes + [0]) == nil)
      // No answer is larger than the smallest request.
      #expect(bytes.count <= RelayRequest.resume(proof).encoded().count)
    }
  }
}
