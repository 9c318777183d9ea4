// sources: Bytes Tunnels
// The open request arrives from a peer; addresses, rules and caller lists from
// people. What decodes must encode to the same bytes.
#if canImport(Bytes)
  import Bytes
#endif
#if canImport(Tunnels)
  import Tunnels
#endif

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let bytes = unsafe [UInt8](UnsafeBufferPointer(start: data, count: size))
  do {
    let (request, terms) = try OpenRequest.decode(bytes.span.bytes)
    precondition(request.encoded(terms) == bytes, "not canonical")
  } catch {}
  let text = String(decoding: bytes, as: UTF8.self)
  do {
    let listen = try ListenAddress(text)
    let again = try ListenAddress(listen.description)
    precondition(again == listen, "does not print what it read")
  } catch {}
  do {
    let target = try TunnelTarget(text)
    let again = try TunnelTarget(target.description)
    precondition(again == target, "does not print what it read")
  } catch {}
  do { _ = try CallerList(text).admits(.loopbackV4) } catch {}
  do {
    let policy = ExitPolicy(rules: [try AllowRule(text)])
    _ = policy.mayReach(requested: "a", resolved: .loopbackV6, port: 1)
  } catch {}
  do {
    let policy = try RelayPolicy(text)
    let again = try RelayPolicy(policy.description)
    precondition(again == policy, "does not print what it read")
  } catch {}
  do { _ = try PeerRelayPolicy(text) } catch {}
  do { _ = try TunnelReference(text).keys } catch {}
  return 0
}
