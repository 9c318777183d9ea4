// sources: Bytes NAT Signaling/Messages.swift Signaling/RelayMessages.swift Signaling/MessageCodec.swift
// Decodes arbitrary bytes as signalling messages; what decodes must encode to
// as many bytes, which say the same. (Not to the same bytes: NAT facts of a later
// version are read as unknown.)

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let bytes = unsafe [UInt8](UnsafeBufferPointer(start: data, count: size))
  if let envelope = try? ClientEnvelope(decoding: bytes) {
    let again = envelope.encoded()
    precondition(again.count == bytes.count && (try? ClientEnvelope(decoding: again)) == envelope)
  }
  if let envelope = try? ServerEnvelope(decoding: bytes) {
    let again = envelope.encoded()
    precondition(again.count == bytes.count && (try? ServerEnvelope(decoding: again)) == envelope)
  }
  if let hello = LegHello(decoding: bytes) { precondition(hello.encoded() == bytes) }
  return 0
}
