import Bytes
import Crypto
import Signaling
import Testing

@Suite struct LoginTests {
  @Test func firstLoginProvesTheTokenAndGivesASecret() {
    var world = LoginWorld()
    world.attachment = [1, 2, 3]
    let outcome = world.run()
    #expect(outcome.failure == nil && outcome.messages.count == 4)
    #expect(outcome.client?.mode == .token)
    #expect(outcome.client?.mesh == "mesh0" && outcome.client?.meshIndex == 0)
    #expect(outcome.client?.authority == world.meshes[0].authority)
    #expect(outcome.client?.nodeSecret.count == 32 && outcome.client?.nodeSecretIsNew == true)
    #expect(outcome.client?.nodeSecret == outcome.server?.nodeSecret)
    #expect(outcome.server?.nodeSecretIsNew == true)
    #expect(outcome.client?.keys == outcome.server?.keys)
    #expect(outcome.client?.keys.fromNode != outcome.client?.keys.fromServer)
    let verified = outcome.server?.verified
    #expect(verified?.node == "nodeA" && verified?.staticKey == world.staticKey.publicKey)
    #expect(verified?.ciphers == [.chaCha20Poly1305, .aes256GCM])
    #expect(verified?.attachment == [1, 2, 3])
    #expect(outcome.serverIsOver)
  }

  @Test func laterLoginsUseTheNodeSecret() {
    var world = LoginWorld(meshes: 3)
    world.verifier = LoginWorld.verifiers[2]
    world.keep(world.run())
    let secret = world.nodeSecret
    let again = world.run()
    #expect(again.client?.mode == .nodeSecret && again.messages.count == 4)
    #expect(again.client?.mesh == "mesh2" && again.server?.verified.mesh == 2)
    #expect(again.client?.nodeSecret == secret && again.client?.nodeSecretIsNew == false)
    #expect(again.server?.nodeSecretIsNew == false && again.server?.nodeSecret == secret)
  }

  @Test func eachMeshIsSelectedByItsToken() {
    for index in 0..<3 {
      var world = LoginWorld(seed: UInt64(index), meshes: 3)
      world.verifier = LoginWorld.verifiers[index]
      let outcome = world.run()
      #expect(outcome.server?.verified.mesh == index)
      #expect(outcome.client?.meshIndex == index && outcome.client?.mesh == "mesh\(index)")
      #expect(outcome.client?.authority == world.meshes[index].authority)
    }
  }

  @Test func aWrongTokenIsRefusedBeforeTheServerConfirms() {
    var world = LoginWorld(meshes: 2)
    world.verifier = LoginWorld.wrong
    let outcome = world.run()
    #expect(outcome.failure == .refused(LoginRefusal(.wrongToken)))
    #expect(outcome.refusals == [.wrongToken] && outcome.server == nil)
    #expect(outcome.serverIsOver)
  }

  @Test func aChangedTokenFailsThoughTheSecretIsRight() {
    var world = LoginWorld()
    world.keep(world.run())
    world.verifier = LoginWorld.wrong
    let outcome = world.run()
    // By the secret, then by the token: both refused.
    #expect(outcome.refusals == [.wrongToken, .wrongToken])
    #expect(outcome.failure == .refused(LoginRefusal(.wrongToken)))
  }

  @Test func aServerThatForgotTheNodeTakesTheToken() {
    var world = LoginWorld()
    world.keep(world.run())
    let old = world.nodeSecret
    world.kept = [:]
    let outcome = world.run()
    #expect(outcome.refusals == [.unknownNode])
    #expect(outcome.client?.mode == .token && outcome.client?.nodeSecretIsNew == true)
    #expect(outcome.client?.nodeSecret != old)
  }

  @Test func aServerRestoredFromABackupTakesTheToken() {
    var world = LoginWorld()
    world.keep(world.run())
    world.kept[world.staticKey.publicKey] = LoginKnownNode(
      mesh: 0, secret: [UInt8](repeating: 5, count: 32))
    let outcome = world.run()
    #expect(outcome.refusals == [.wrongToken])
    #expect(outcome.client?.mode == .token)
    // The secret of neither side was worth anything; nothing was counted.
    #expect(world.throttle.addressCount == 0)
  }

  @Test func anAnswerThatWasLostIsHealed() {
    var world = LoginWorld()
    world.keep(world.run())
    // The server stored a new secret, but its accept never arrived.
    let kept = world.nodeSecret
    world.nodeSecret = nil
    let lost = world.run()
    world.keep(lost)
    world.nodeSecret = kept
    #expect(world.run().client?.mode == .token)
  }

  @Test func theServerCoreHasTheLastWord() {
    var world = LoginWorld()
    world.decide = { verified in
      verified.node == "nodeA" ? LoginRefusal(.nameTaken, retryAfterSeconds: 9) : nil
    }
    let outcome = world.run()
    #expect(outcome.failure == .refused(LoginRefusal(.nameTaken, retryAfterSeconds: 9)))
    #expect(outcome.client == nil && outcome.server == nil && outcome.serverIsOver)
    world.node = "nodeB"
    #expect(world.run().client != nil)
  }

  @Test func somebodyInBetweenIsNoticedByTheExporter() {
    var world = LoginWorld()
    world.clientExporter = [UInt8](repeating: 1, count: 32)
    world.serverExporter = [UInt8](repeating: 2, count: 32)
    #expect(world.run().refusals == [.badKeyProof])
    world.serverExporter = world.clientExporter
    #expect(world.run().client != nil)
    // The node speaks TLS, the server does not see it: a proxy, or an attacker.
    world.serverExporter = []
    #expect(world.run().failure == .unboundTLS)
    world.allowsUnbound = true
    #expect(world.run().client != nil)
    // The node speaks no TLS, the server does: never the same connection.
    world.clientExporter = []
    world.serverExporter = [UInt8](repeating: 2, count: 32)
    #expect(world.run().client == nil)
  }

  @Test func aFalseServerGetsNoConfirmationAccepted() {
    // It copies everything the real one says but the code and the box.
    var world = LoginWorld()
    world.tamper = { number, bytes in
      guard number == 3 else { return bytes }
      var bytes = bytes
      for i in 3..<35 { bytes[i] = 0 }
      return bytes
    }
    #expect(world.run().failure == .serverNotAuthentic)
  }

  @Test func aStolenPublicKeyDoesNotLogIn() {
    var world = LoginWorld()
    let own = world.staticKey
    let victim = X25519.generate(using: &world.random)
    world.staticKey = KeyPair(secret: own.secret, publicKey: victim.publicKey)
    #expect(world.run().refusals == [.badKeyProof])
    // A key without an owner: the exchange has no secret.
    world.staticKey = KeyPair(secret: own.secret, publicKey: [UInt8](repeating: 0, count: 32))
    #expect(world.run().refusals == [.badKeyProof])
  }

  @Test func anotherVersionIsToldSo() {
    var world = LoginWorld()
    world.tamper = { number, bytes in
      var bytes = bytes
      if number == 0 { bytes[1] = 2 }
      return bytes
    }
    let outcome = world.run()
    #expect(outcome.failure == .refused(LoginRefusal(.badVersion)))
    #expect(outcome.serverIsOver)
  }

  @Test func messagesOutOfOrderEndTheLogin() {
    var world = LoginWorld()
    let good = world.run()
    for message in good.messages[1...] {
      var server = LoginServer(meshes: world.meshes, exporter: [], address: world.address)
      let step = server.receive(
        message, now: world.now, throttle: &world.throttle, using: &world.random,
        known: { _ in nil })
      guard case .refused(_, let refusal) = step else {
        Issue.record("\(step)")
        continue
      }
      #expect(refusal.reason == .malformed && server.isOver)
    }
    var client = LoginClient(
      node: "n", staticKey: world.staticKey, verifier: world.verifier, nodeSecret: nil,
      exporter: [])
    _ = client.start(using: &world.random)
    #expect(client.receive(good.messages[3], using: &world.random) == .failed(.outOfOrder))
    #expect(client.receive(good.messages[1], using: &world.random) == .failed(.outOfOrder))
  }

  @Test func sharesOfTwoMeshesDoNotShareAScalar() {
    // Two meshes with the same password would otherwise show equal shares.
    var world = LoginWorld(meshes: 2)
    let mesh = world.meshes[0]
    world.meshes[1] = LoginMesh(name: "twin", verifier: mesh.verifier, authority: mesh.authority)
    let shares = world.run().messages[1]
    #expect(shares[36..<101] != shares[133..<198])
  }

  @Test func nothingSecretIsInTheMessages() {
    var world = LoginWorld()
    let outcome = world.run()
    let secret = outcome.client?.nodeSecret ?? []
    for message in outcome.messages {
      #expect(!contains(message, secret) && !contains(message, world.staticKey.secret))
    }
  }

  private func contains(_ bytes: [UInt8], _ part: [UInt8]) -> Bool {
    guard !part.isEmpty, bytes.count >= part.count else { return false }
    return (0...(bytes.count - part.count)).contains {
      bytes[$0..<($0 + part.count)].elementsEqual(part)
    }
  }
}

@Suite struct LoginSealerTests {
  private func pair() -> (SignalSealer, SignalSealer)? {
    var world = LoginWorld()
    let outcome = world.run()
    guard let client = outcome.client, let server = outcome.server else { return nil }
    return (SignalSealer(client.keys, side: .node), SignalSealer(server.keys, side: .server))
  }

  @Test func bothWaysInOrder() throws {
    let (node, server) = try #require(pair())
    for length in [0, 1, 100, 70_000] {
      let message = [UInt8](repeating: 7, count: length)
      #expect(server.open(node.seal(message)) == message)
      #expect(node.open(server.seal(message)) == message)
    }
    #expect(node.seal([1]) != node.seal([1]))
  }

  @Test func replayReorderReflectionAndChangeBreakIt() throws {
    var (node, server) = try #require(pair())
    let first = node.seal([1])
    let second = node.seal([2])
    #expect(server.open(second) == nil)
    // Broken for good, as said.
    #expect(server.open(first) == nil)
    (node, server) = try #require(pair())
    let message = node.seal([1])
    #expect(node.open(message) == nil)
    #expect(server.open(message) == [1])
    #expect(server.open(message) == nil)
    (node, server) = try #require(pair())
    #expect(server.open([]) == nil)
  }
}
