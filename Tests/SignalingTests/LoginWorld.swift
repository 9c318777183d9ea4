import Bytes
import Crypto
import Signaling

/// A node and a server that log in over memory, with every message in a hook's hand.
struct LoginWorld {
  static let tokens: [UInt64] = [12_345_678, 0, .max]
  // Made once: each costs point multiplications.
  static let verifiers = tokens.map { LoginVerifier(token: $0, cost: .cheap) }
  static let wrong = LoginVerifier(token: 87_654_321, cost: .cheap)

  var random: SeededRandom
  var now = Instant(nanoseconds: 0)
  var meshes: [LoginMesh]
  var throttle: LoginThrottle
  var staticKey: KeyPair
  /// What the server keeps, by static key.
  var kept: [[UInt8]: LoginKnownNode] = [:]
  var nodeSecret: [UInt8]?
  var clientExporter: [UInt8] = []
  var serverExporter: [UInt8] = []
  var allowsUnbound = false
  var address = IPAddress(192, 0, 2, 1)
  var verifier = LoginWorld.verifiers[0]
  var node = "nodeA"
  var attachment: [UInt8] = []
  /// Changes a message on its way; the number counts from 0, the node speaks first.
  var tamper: (Int, [UInt8]) -> [UInt8] = { _, bytes in bytes }
  /// The server core's word on a verified login.
  var decide: (LoginVerified) -> LoginRefusal? = { _ in nil }

  init(seed: UInt64 = 1, meshes count: Int = 1) {
    random = SeededRandom(testSeed: seed)
    meshes = (0..<count).map {
      LoginMesh(
        name: "mesh\($0)", verifier: Self.verifiers[$0],
        authority: [UInt8](repeating: UInt8($0 + 1), count: 32))
    }
    throttle = LoginThrottle(meshCount: count)
    staticKey = X25519.generate(using: &random)
  }

  struct Outcome {
    var client: LoginClientResult?
    var failure: LoginFailure?
    var server: LoginAccepted?
    var refusals: [LoginRefusalReason] = []
    var messages: [[UInt8]] = []
    var serverIsOver = false
  }

  /// One connection from the first message to the last.
  mutating func run() -> Outcome {
    var outcome = Outcome()
    var client = LoginClient(
      node: node, staticKey: staticKey, verifier: verifier, nodeSecret: nodeSecret,
      exporter: clientExporter, allowsUnbound: allowsUnbound,
      ciphers: [.chaCha20Poly1305, .aes256GCM], attachment: attachment)
    var server = LoginServer(meshes: meshes, exporter: serverExporter, address: address)
    let kept = kept
    var toServer = client.start(using: &random)
    while true {
      toServer = tamper(outcome.messages.count, toServer)
      outcome.messages.append(toServer)
      var toClient: [UInt8]
      switch server.receive(
        toServer, now: now, throttle: &throttle, using: &random, known: { kept[$0] })
      {
      case .send(let bytes): toClient = bytes
      case .refused(let bytes, let refusal):
        outcome.refusals.append(refusal.reason)
        toClient = bytes
      case .verified(let verified):
        if let refusal = decide(verified) {
          outcome.refusals.append(refusal.reason)
          toClient = server.refuse(refusal)
        } else {
          let accepted = server.accept(using: &random)
          outcome.server = accepted
          toClient = accepted.reply
        }
      }
      outcome.serverIsOver = server.isOver
      toClient = tamper(outcome.messages.count, toClient)
      outcome.messages.append(toClient)
      switch client.receive(toClient, using: &random) {
      case .send(let bytes): toServer = bytes
      case .done(let result):
        outcome.client = result
        return outcome
      case .failed(let failure):
        outcome.failure = failure
        return outcome
      }
    }
  }

  /// As the server core and the node do after a login that held.
  mutating func keep(_ outcome: Outcome) {
    if let server = outcome.server {
      self.kept[server.verified.staticKey] = LoginKnownNode(
        mesh: server.verified.mesh, secret: server.nodeSecret)
    }
    if let client = outcome.client { nodeSecret = client.nodeSecret }
  }
}
