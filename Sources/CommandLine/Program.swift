/// The one binary under all its names: argv in, a value out. The driver does
/// what the value says: read the file it names, hand the bytes back, run; or
/// write the texts and exit.

#if canImport(Bytes)
  import Tunnels
#endif

/// What a command line comes to.
package enum Invocation: Sendable {
  case server(ServerArguments)
  case agent(AgentArguments)
  case ztm(ZTMArguments)
  case martlet(MartletInvocation)
  case exit(CommandExit)
}

package enum Program {
  /// The names that select a face; any other is `martlet`.
  package static let names = ["martlet", "inp2ps", "inp2pc", "ztm"]

  /// - Parameters:
  ///   - arguments: whole argv. The last component of argv[0] selects the face.
  ///   - environment: the process's; only variables named in the tables are read.
  /// - Returns: what to do, and which bytes of argv to overwrite once that has
  ///   been taken to heart.
  package static func parse(
    _ arguments: [String], environment: [String: String]
  ) -> (invocation: Invocation, secrets: [SecretArgument]) {
    let words = arguments.isEmpty ? ["martlet"] : arguments
    switch name(of: words[0]) {
    case "inp2ps":
      let (result, secrets) = ServerTable.parse(words, environment: environment)
      switch result {
      case .run(let value): return (.server(value), secrets)
      case .exit(let exit): return (.exit(exit), secrets)
      }
    case "inp2pc":
      let (result, secrets) = AgentTable.parse(words, environment: environment)
      switch result {
      case .run(let value): return (.agent(value), secrets)
      case .exit(let exit): return (.exit(exit), secrets)
      }
    case "ztm": return ztm(words, environment, ZTMTable.program)
    default: return martlet(words, environment)
    }
  }

  /// The last component of a path.
  package static func name(of path: String) -> String {
    path.split(separator: "/").last.map(String.init) ?? path
  }

  /// The tables, for manual pages and completion.
  package static func spec(_ name: String) -> ProgramSpec? {
    switch name {
    case "martlet": MartletTable.program
    case "inp2ps": ServerTable.program
    case "inp2pc": AgentTable.program
    case "ztm": ZTMTable.program
    default: nil
    }
  }

  private static func ztm(
    _ words: [String], _ environment: [String: String], _ program: ProgramSpec
  ) -> (Invocation, [SecretArgument]) {
    let (result, secrets) = ZTMTable.parse(words, environment: environment, program: program)
    switch result {
    case .run(let value): return (.ztm(value), secrets)
    case .exit(let exit): return (.exit(exit), secrets)
    }
  }

  private static func martlet(
    _ words: [String], _ environment: [String: String]
  ) -> (Invocation, [SecretArgument]) {
    // Four faces under their own names too: `martlet inp2ps -token …` where
    // links are unwelcome (containers).
    if words.count > 1, names.dropFirst().contains(words[1]) {
      let (invocation, secrets) = parse(Array(words.dropFirst()), environment: environment)
      return (invocation, secrets.map { SecretArgument(index: $0.index + 1, offset: $0.offset) })
    }
    if words.count > 1, words[1] == "tunnel" {
      return ztm(words, environment, ZTMTable.martletTunnel)
    }
    if words.count == 2, words[1] == "-version" || words[1] == "--version" {
      return (.exit(HelpText.version("martlet")), [])
    }
    let program = MartletTable.program
    do {
      switch try CommandParser.parse(program, words) {
      case .help(let command): return (.exit(HelpText.exit(program, command)), [])
      case .command(let parsed):
        if let exit = try Tree.builtIn(parsed, program) { return (.exit(exit), []) }
        return (try run(parsed, program, environment), parsed.secrets)
      }
    } catch {
      return (.exit(HelpText.refusal(error, program, Tree.command(program, words))), [])
    }
  }

  private static func run(
    _ parsed: ParsedCommand, _ program: ProgramSpec, _ environment: [String: String]
  ) throws(UsageError) -> Invocation {
    switch parsed.command.title {
    case "server":
      if parsed.bool("version") { return .exit(HelpText.version("martlet server")) }
      return .server(ServerTable.arguments(parsed, program: program, environment: environment))
    case "agent":
      if parsed.bool("version") { return .exit(HelpText.version("martlet agent")) }
      return .agent(AgentTable.arguments(parsed, program: program, environment: environment))
    case "token":
      if let exit = try MartletTable.token(parsed) { return .exit(exit) }
    default: break
    }
    return .martlet(try MartletTable.invocation(parsed, environment: environment))
  }
}
