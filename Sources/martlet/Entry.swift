/// From argv to an exit status: parse, wipe what is secret, carry out.

internal import CLinux
internal import CommandLine
internal import Glibc
internal import Reactor

enum Entry {
  static func run() -> Int32 {
    let arguments = argv()
    let environment = environment()
    let (invocation, secrets) = Program.parse(arguments, environment: environment)
    for secret in secrets { martlet_wipe_argument(Int32(secret.index), secret.offset) }
    ProcessSettings.prepare()
    switch invocation {
    case .exit(let exit): return finish(exit)
    case .agent(let arguments): return AgentCommand.run(arguments, environment: environment)
    case .server(let arguments): return ServerCommand.run(arguments, environment: environment)
    case .ztm(let invocation): return ZTMClient.run(invocation, environment: environment)
    case .martlet(let invocation):
      return MartletCommands.run(invocation, environment: environment)
    }
  }

  /// From the C side: without /proc Swift's own are empty (docs/decisions/0002).
  private static func argv() -> [String] {
    (0..<martlet_argc()).map { index in
      unsafe martlet_argv(index).map { unsafe String(cString: $0) } ?? ""
    }
  }

  private static func environment() -> [String: String] {
    var result: [String: String] = [:]
    var entry = unsafe environ
    while let pointer = unsafe entry.pointee {
      let text = unsafe String(cString: pointer)
      if let equals = text.firstIndex(of: "=") {
        result[String(text[..<equals])] = String(text[text.index(after: equals)...])
      }
      unsafe entry += 1
    }
    return result
  }

  static func finish(_ exit: CommandExit) -> Int32 {
    write(exit.output, to: 1)
    write(exit.errorOutput, to: 2)
    return exit.status
  }

  /// Everything, whatever the kernel takes at a time.
  static func write(_ text: String, to descriptor: Int32) {
    var bytes = Array(text.utf8)
    while !bytes.isEmpty {
      let count = unsafe bytes.withUnsafeBytes {
        unsafe Glibc.write(descriptor, $0.baseAddress, $0.count)
      }
      if count < 0 {
        if errno == EINTR || errno == EAGAIN { continue }
        return
      }
      bytes.removeFirst(count)
    }
  }

  static func fail(_ program: String, _ words: String) -> Int32 {
    write("\(program): \(words)\n", to: 2)
    return ExitStatus.failure
  }
}
