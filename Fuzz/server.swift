// sources: Bytes NAT Crypto Mux Relay Signaling ServerCore
/// What the server takes from strangers and from its disk: messages of a
/// connection before its login, first messages of relay legs, stored records.
/// Nothing may trap; nobody gets in; garbage before a login gets no answer
/// longer than itself unless it is a login message.

#if canImport(Bytes)
  import Bytes
  import Relay
  import ServerCore
  import Signaling
#endif

private nonisolated(unsafe) let settings = ServerSettings(
  meshes: [MeshSettings(name: "default", verifier: LoginVerifier(token: 7, cost: .cheap))],
  version: "0")

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let bytes = [UInt8](UnsafeBufferPointer(start: data, count: size))
  var reader = ByteReader(bytes.span.bytes)
  var records: [StoreRecord] = []
  for _ in 0..<min(4, Int(reader.uint8() ?? 0)) {
    guard let kind = reader.uint8().flatMap(StoreRecord.Kind.init) else { break }
    let key = reader.array(min(reader.remaining, Int(reader.uint8() ?? 0))) ?? []
    let value = reader.array(min(reader.remaining, Int(reader.uint8() ?? 0))) ?? []
    records.append(StoreRecord(kind: kind, key: key, value: value))
  }
  var now = Instant(nanoseconds: 0)
  let server = CoordinationServer(
    settings: settings, records: records, seed: [UInt8](repeating: 1, count: 32),
    unixNanoseconds: 1_700_000_000_000_000_000, now: now)
  while server.pollEffect() != nil {}
  for id: UInt32 in 1...3 {
    server.connectionOpened(
      id, kind: id == 3 ? .relayLeg : .signalling, address: Endpoint(.loopbackV4, UInt16(id)),
      exporter: [], seals: id == 1, now: now)
  }
  while let op = reader.uint8() {
    let count = min(reader.remaining, Int(op >> 2) * 8)
    let message = reader.array(count) ?? []
    let id = UInt32(op & 3)
    if id == 0 {
      now = now + .milliseconds(Int64(count) * 50)
      server.advance(to: now)
    } else {
      server.receive(message, connection: id, now: now)
    }
    while server.pollEffect() != nil {}
    precondition(server.onlineCount == 0 && server.connectionCount <= 3)
  }
  return 0
}
