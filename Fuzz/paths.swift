// sources: Bytes NAT Paths
/// Decoder of the unnumbered packets: whatever comes in, decode never traps,
/// and what it accepts comes back equal after being written again.

#if canImport(Bytes)
  import Bytes
#endif
#if canImport(Paths)
  import Paths
#endif

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let input = unsafe Array(UnsafeBufferPointer(start: data, count: size))
  if let message = EvictionsMessage(decoding: input.span.bytes) {
    precondition(message.offset + message.part.count <= message.total, "bounds")
    let batch = TransmitBatch(capacity: 65_536)
    batch.append(carrier: .udp(socket: 0, remote: .none), limit: 1_024) { message.write(into: &$0) }
    let written = unsafe batch.withBytes(0..<batch.byteCount) { unsafe [UInt8]($0) }
    precondition(EvictionsMessage(decoding: written.span.bytes) == message, "round trip")
    return 0
  }
  guard let message = PathMessage.decode(input.span.bytes) else { return 0 }
  let batch = TransmitBatch(capacity: 65_536 + 64)
  let length = max(message.fieldBytes, PathMessage.shortestPing)
  let wanted: Int
  switch message {
  case .ping(_, let size), .sizeProbe(_, let size): wanted = size
  case .pong, .hello: wanted = length
  }
  batch.append(carrier: .udp(socket: 0, remote: .none), limit: wanted) { output in
    message.write(into: &output, size: wanted)
  }
  let written = unsafe batch.withBytes(0..<batch.byteCount) { unsafe [UInt8]($0) }
  precondition(written.count == wanted, "size")
  precondition(PathMessage.decode(written.span.bytes) == message, "round trip")
  return 0
}
