/// A router with legs whose rates the test sets, under a virtual clock.
import Bytes
import Relay

/// One frame that came out.
struct OutFrame: Equatable {
  var number: UInt32
  var flags: UInt8
  var data: [UInt8]
}

/// Cuts bytes into frames; traps on a partial one (the router writes whole frames).
func frames(_ bytes: [UInt8]) -> [OutFrame] {
  var result: [OutFrame] = []
  var reader = ByteReader(bytes.span.bytes)
  while !reader.isAtEnd {
    guard let number = reader.uint32(), let flags = reader.uint8(), let length = reader.uint16(),
      let data = reader.array(Int(length))
    else { preconditionFailure("partial frame") }
    result.append(OutFrame(number: number, flags: flags, data: data))
  }
  return result
}

func frame(_ number: UInt32, _ flags: UInt8, _ data: [UInt8] = []) -> [UInt8] {
  var bytes: [UInt8] = []
  bytes.appendUInt32(number)
  bytes.append(flags)
  bytes.appendUInt16(UInt16(data.count))
  return bytes + data
}

/// Everything a leg would send now, at most about `budget` bytes.
func drain(
  _ router: ChannelRouter, _ connection: UInt32, budget: Int = 1 << 20, now: Instant
) -> [UInt8] {
  let bytes = [UInt8](unsafeUninitializedCapacity: budget + 65_542) { buffer, count in
    var output = OutputRawSpan(buffer: UnsafeMutableRawBufferPointer(buffer), initializedCount: 0)
    _ = router.fill(connection: connection, into: &output, budget: budget, now: now)
    count = output.finalize(for: UnsafeMutableRawBufferPointer(buffer))
  }
  return bytes
}

/// Says that a literal is bytes.
func bytes(_ values: [UInt8]) -> [UInt8] { values }

func at(_ milliseconds: Int64) -> Instant { Instant(nanoseconds: 0) + .milliseconds(milliseconds) }

/// Jain's index: 1 = all equal.
func fairness(_ values: [Double]) -> Double {
  let sum = values.reduce(0, +)
  let squares = values.reduce(0) { $0 + $1 * $1 }
  return squares == 0 ? 1 : sum * sum / (Double(values.count) * squares)
}
