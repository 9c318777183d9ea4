// sources: Bytes NAT Signaling/Messages.swift Signaling/RelayMessages.swift Signaling/MessageCodec.swift
// Decodes arbitrary bytes as signalling messages; what decodes must encode to
// the same bytes.

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let bytes = unsafe [UInt8](UnsafeBufferPointer(start: data, count: size))
  if let envelope = try? ClientEnvelope(decoding: bytes) {
    precondition(envelope.encoded() == bytes)
  }
  if let envelope = try? ServerEnvelope(decoding: bytes) {
    precondition(envelope.encoded() == bytes)
  }
  if let hello = LegHello(decoding: bytes) { precondition(hello.encoded() == bytes) }
  return 0
}
