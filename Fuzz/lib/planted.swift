// sources: Bytes
// The fuzz runner's proof of sight, not a part of Martlet: a small record decoder
// that is right unless PLANTED_BUG is defined. Then a record with the right magic,
// a kind of its own and a length that disagrees with the bytes stops the program.
// Getting there takes edge coverage and comparison tracing; random bytes do not.
#if canImport(Bytes)
  import Bytes
#endif

/// ```
/// 0        4      5        7
/// | "mArT" | kind | length | bytes … | last byte = xor of bytes |
/// ```
private func plantedDecode(_ bytes: [UInt8]) -> Int? {
  var reader = ByteReader(bytes.span.bytes)
  guard let magic = reader.uint32(), magic == 0x6d41_7254 else { return nil }
  guard let kind = reader.uint8(), let length = reader.uint16() else { return nil }
  let rest = bytes.count - 7
  switch kind {
  case 0x11: return Int(length) <= rest ? Int(length) : nil
  case 0x5a:
    #if PLANTED_BUG
      if Int(length) > rest, length & 0xff == 0xc3 {
        fatalError("the planted bug: length \(length) of \(rest)")
      }
    #endif
    guard Int(length) <= rest else { return nil }
    var sum: UInt8 = 0
    for index in 7..<(7 + Int(length)) { sum ^= bytes[index] }
    return sum == 0 ? Int(length) : nil
  default: return nil
  }
}

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let bytes = unsafe [UInt8](UnsafeBufferPointer(start: data, count: size))
  if let length = plantedDecode(bytes) { precondition(length <= size) }
  return 0
}
