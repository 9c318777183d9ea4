// sources: Bytes Crypto Mux Relay
/// What a relay and its guests read from strangers: sealed requests, the
/// messages of a leg. Nothing traps; what decodes encodes to the same bytes;
/// nobody without a key is let in.

#if canImport(Bytes)
  import Bytes
  import Crypto
  import Relay
#endif

private nonisolated(unsafe) var random = SeededRandom(testSeed: 1)
private nonisolated(unsafe) let key = X25519.generate(using: &random)
private nonisolated(unsafe) let sender = X25519.generate(using: &random)
private nonisolated(unsafe) let ephemeral = X25519.generate(using: &random)

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let bytes = [UInt8](UnsafeBufferPointer(start: data, count: size))
  if let handshake = RelayHandshake(decoding: bytes) { precondition(handshake.encoded() == bytes) }
  if let request = RelayRequest(decoding: bytes.span.bytes) {
    precondition(request.encoded() == bytes)
  }
  if let reply = RelayReply(decoding: bytes.span.bytes) { precondition(reply.encoded() == bytes) }
  var admission = RelayAdmission(key: key, token: 7, acceptsTokens: true)
  admission.setSecrets([RelaySecret(number: 1, key: [UInt8](repeating: 1, count: 32))])
  admission.setServerTime(unixNanoseconds: 1_700_000_000_000_000_000, now: Instant(nanoseconds: 0))
  func refused(_ sealed: [UInt8]) -> Bool {
    do throws(RelayRefused) {
      _ = try admission.admit(sealed, now: Instant(nanoseconds: 1))
      return false
    } catch {
      return true
    }
  }
  precondition(refused(bytes))
  // The bytes as the plain request of somebody who has a key but no token.
  if bytes.count > 160, bytes.count < 180,
    let sealed = NoiseX.seal(
      bytes, from: sender, to: key.publicKey, ephemeral: ephemeral,
      prologue: Array("martlet relay v1".utf8))
  {
    precondition(refused(sealed.message))
  }
  precondition(admission.rememberedCount == 0)
  return 0
}
