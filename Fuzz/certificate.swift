// sources: Bytes NAT Crypto Signaling
// Decodes arbitrary bytes as certificates, eviction lists and identity proofs; what
// decodes must encode to the same bytes, and no authority signed it.

private let fuzzAuthority = Ed25519.publicKey(of: [UInt8](repeating: 1, count: 32))

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let bytes = unsafe [UInt8](UnsafeBufferPointer(start: data, count: size))
  if let certificate = try? Certificate(decoding: bytes) {
    precondition(certificate.encoded() == bytes && !certificate.isSigned(by: fuzzAuthority))
    var clock = AuthorityClock(stored: 0, now: Instant(nanoseconds: 0))
    _ = clock.accepts(certificate, now: Instant(nanoseconds: .max / 2))
  }
  if let list = try? EvictionList(decoding: bytes) {
    precondition(list.encoded() == bytes && !list.isSigned(by: fuzzAuthority))
    precondition(
      list.entries.allSatisfy { list.evicts(staticKey: $0.staticKey, serial: $0.serial) })
  }
  if let proof = IdentityProof(verifying: bytes, staticKey: fuzzAuthority) {
    precondition(proof.encoded() == bytes)
  }
  return 0
}
