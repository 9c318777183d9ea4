// sources: Bytes PortMapping
/// Whatever a gateway, or somebody who pretends to be one, says in whatever
/// order: the codecs never trap, the machine keeps its bounds, its clock goes
/// on, and nothing but an answer of ours makes a mapping.
///
/// The input is a row of steps: `kind | seconds | length | bytes …`.

#if canImport(Bytes)
  import Bytes
#endif
#if canImport(PortMapping)
  import PortMapping
#endif

private let nonce: [UInt8] = Array("0123456789ab".utf8)

private struct Driver {
  var mapper: PortMapper
  var now = Instant(nanoseconds: 0)
  var packets = 0
  var orders = 0

  mutating func drain() {
    while let bytes = mapper.pollTransmit() {
      precondition([2, 12, 60].contains(bytes.count), "a packet of no kind")
      packets += 1
    }
    while let event = mapper.pollEvent() {
      switch event {
      case .mapped(let port):
        precondition(port.external.port != 0 && !port.external.address.isUnspecified, "nowhere")
        precondition(mapper.current == port, "told, not kept")
      case .upnp(.map):
        orders += 1
        precondition(orders == 1, "two orders")
      case .lost, .unavailable, .upnp(.remove): break
      }
    }
  }

  mutating func pass(_ amount: TimeAmount) {
    let end = now + amount
    while mapper.nextDeadline <= end {
      now = max(now, mapper.nextDeadline)
      mapper.advance(to: now)
      drain()
      // Two hours at most in one input.
      precondition(packets < 20_000, "a flood")
    }
    now = end
  }
}

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let input = unsafe Array(UnsafeBufferPointer(start: data, count: min(size, 1024)))
  let gateway = IPAddress(192, 168, 1, 1)
  var driver = Driver(
    mapper: PortMapper(
      PortMapperSettings(
        gateway: gateway, client: IPAddress(192, 168, 1, 20), internalPort: 0x3031, nonce: nonce,
        usesUPnP: true), random: SeededRandom(testSeed: 1)))
  driver.mapper.start(now: driver.now)
  driver.drain()
  var reader = ByteReader(input.span.bytes)
  while let kind = reader.uint8(), let seconds = reader.uint8(), let length = reader.uint8() {
    let bytes = reader.array(min(Int(length), reader.remaining)) ?? []
    let before = driver.mapper.current
    switch kind & 15 {
    case 0, 1, 2:
      driver.mapper.receive(bytes.span.bytes, from: Endpoint(gateway, 5351), now: driver.now)
    case 3:
      driver.mapper.receiveAnnouncement(
        bytes.span.bytes, from: Endpoint(gateway, 5351), now: driver.now)
      precondition(driver.mapper.current == before, "made or lost by an announcement")
    case 4:
      driver.mapper.receive(
        bytes.span.bytes, from: Endpoint(IPAddress(10, 0, 0, 1), 5351), now: driver.now)
      precondition(driver.mapper.current == before, "a stranger was believed")
    case 5: driver.mapper.refresh(now: driver.now)
    case 6: driver.mapper.unreachable(now: driver.now)
    case 7 where driver.orders > 0:
      driver.orders = 0
      driver.mapper.upnpFailed(.upnp(words: ""), now: driver.now)
    case 8 where driver.orders > 0:
      driver.orders = 0
      driver.mapper.upnpMapped(
        Endpoint(IPAddress(9, 9, 9, 9), UInt16(length)), lifetime: UInt32(seconds),
        now: driver.now)
    default: break
    }
    driver.drain()
    driver.pass(.seconds(Int64(seconds)))
  }
  driver.mapper.stop(now: driver.now)
  driver.drain()
  precondition(driver.mapper.nextDeadline == .distantFuture && driver.mapper.current == nil)
  return 0
}
