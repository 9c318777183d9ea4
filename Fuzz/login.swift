// sources: Bytes NAT Crypto Signaling
// Decodes arbitrary bytes as login messages; what decodes must encode to the same
// bytes. The first byte also throws the rest at a fresh server and a fresh node:
// neither may ever be convinced.

private let fuzzVerifier = LoginVerifier(token: 1, cost: .cheap)

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let bytes = unsafe [UInt8](UnsafeBufferPointer(start: data, count: size))
  if let message = try? LoginMessage(decoding: bytes) { precondition(message.encoded() == bytes) }
  if let gift = LoginGift(decoding: bytes) { precondition(gift.encoded() == bytes) }
  guard let first = bytes.first else { return 0 }
  let rest = Array(bytes.dropFirst())
  var random = SeededRandom(testSeed: 1)
  if first & 1 == 0 {
    var throttle = LoginThrottle(meshCount: 1)
    let mesh = LoginMesh(
      name: "m", verifier: fuzzVerifier, authority: [UInt8](repeating: 1, count: 32))
    var server = LoginServer(meshes: [mesh], exporter: [], address: IPAddress(127, 0, 0, 1))
    let step = server.receive(
      rest, now: Instant(nanoseconds: 0), throttle: &throttle, using: &random,
      known: { _ in LoginKnownNode(mesh: 0, secret: [UInt8](repeating: 2, count: 32)) })
    if case .verified = step { preconditionFailure("verified a hello") }
  } else {
    var client = LoginClient(
      node: "n", staticKey: X25519.generate(using: &random), verifier: fuzzVerifier,
      nodeSecret: nil, exporter: [])
    _ = client.start(using: &random)
    if case .done = client.receive(rest, using: &random) { preconditionFailure("convinced") }
  }
  return 0
}
