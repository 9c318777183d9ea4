// sources: Bytes NAT Tunnels Crypto CommandLine HTTP
// config.json as people, OpenP2P and an attacker's push may write it, and
// command lines. What was read and saved must read the same again.
#if canImport(Bytes)
  import Bytes
#endif
#if canImport(HTTP)
  import HTTP
#endif
#if canImport(Tunnels)
  import Tunnels
#endif
#if canImport(CommandLine)
  import CommandLine
#endif

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let bytes = unsafe [UInt8](UnsafeBufferPointer(start: data, count: size))
  do {
    var file = try ConfigFile(parsing: bytes)
    let again = try ConfigFile(parsing: file.bytes())
    precondition(again == file, "a saved file reads differently")
    _ = try file.texts("network.token")
    let apps = try file.apps()
    file.setApps(apps)
    let kept = try ConfigFile(parsing: file.bytes()).apps()
    precondition(kept == apps, "saved apps read differently")
  } catch {}

  // The same bytes as a command line: the first picks the face, words are
  // separated by line feeds.
  let words = bytes.split(separator: 0x0a).map { String(decoding: $0, as: UTF8.self) }
  let line = [Program.names[Int(bytes.first ?? 0) % Program.names.count]] + words
  let (invocation, secrets) = Program.parse(line, environment: [:])
  for secret in secrets {
    precondition(
      line.indices.contains(secret.index) && secret.offset <= line[secret.index].utf8.count)
  }
  switch invocation {
  case .server(let arguments): _ = arguments.resolve(config: bytes)
  case .agent(let arguments): _ = arguments.resolve(config: bytes)
  case .ztm(let arguments): _ = arguments.resolve(settings: bytes)
  case .martlet: break
  case .exit(let exit):
    precondition(exit.status == 0 ? exit.errorOutput.isEmpty : !exit.errorOutput.isEmpty)
  }
  return 0
}
