/// Programs and commands as data. Implements the command tables of the INP2P
/// and ZTM faces and of `martlet` itself; the tables are in the files named
/// after their programs.

/// A word that is not a flag.
package struct Positional: Sendable {
  package var name: String
  package var isOptional: Bool
  /// Takes all that is left.
  package var repeats: Bool
  package var isSecret: Bool

  package init(
    _ name: String, optional: Bool = false, repeats: Bool = false, secret: Bool = false
  ) {
    self.name = name
    self.isOptional = optional
    self.repeats = repeats
    self.isSecret = secret
  }
}

/// One command of a program.
package struct CommandSpec: Sendable {
  /// The words that select it; each with its other spellings. Empty for a
  /// program that is one command.
  package var path: [[String]]
  package var positionals: [Positional]
  package var flags: [Flag]
  /// One line.
  package var summary: String
  /// Lines typed as examples, shown in help and manual page.
  package var examples: [String]
  /// Parsed and checked, but this version answers "not active yet".
  package var isInactive: Bool

  package init(
    _ path: [[String]], _ positionals: [Positional], flags: [Flag] = [],
    inactive: Bool = false, _ summary: String, examples: [String] = []
  ) {
    self.path = path
    self.positionals = positionals
    self.flags = flags
    self.summary = summary
    self.examples = examples
    self.isInactive = inactive
  }

  /// A command without positionals.
  package init(
    _ path: [[String]], flags: [Flag] = [], inactive: Bool = false, _ summary: String,
    examples: [String] = []
  ) {
    self.init(path, [], flags: flags, inactive: inactive, summary, examples: examples)
  }

  /// The words as they are documented: "tunnel open inbound".
  package var title: String { path.map { $0[0] }.joined(separator: " ") }
}

/// How flags are written.
package enum FlagStyle: Sendable {
  /// Go's: `-x v`, `--x v`, `-x=v`, `--x=v`; a boolean takes a value only with `=`.
  case go
  /// ztm's: `--opt value`, `--opt=value`, `-oVALUE`.
  case ztm
}

/// A program name with all its commands.
package struct ProgramSpec: Sendable {
  package var name: String
  package var summary: String
  package var style: FlagStyle
  /// Flags may follow positionals.
  package var isInterspersed: Bool
  /// Taken by every command.
  package var globalFlags: [Flag]
  package var commands: [CommandSpec]
  /// Exit statuses and their meaning.
  package var exitStatuses: [(status: Int32, meaning: String)]

  package init(
    name: String, summary: String, style: FlagStyle, interspersed: Bool, globalFlags: [Flag] = [],
    commands: [CommandSpec], exitStatuses: [(status: Int32, meaning: String)]
  ) {
    self.name = name
    self.summary = summary
    self.style = style
    self.isInterspersed = interspersed
    self.globalFlags = globalFlags
    self.commands = commands
    self.exitStatuses = exitStatuses
  }

  /// A flag as its users write it.
  package func written(_ flag: Flag) -> String { (style == .go ? "-" : "--") + flag.name }
}

/// How a program ends without doing anything else: the caller writes the texts
/// and exits.
package struct CommandExit: Hashable, Sendable {
  package var status: Int32
  package var output: String
  package var errorOutput: String

  package init(status: Int32, output: String = "", errorOutput: String = "") {
    self.status = status
    self.output = output
    self.errorOutput = errorOutput
  }
}

/// Exit statuses of all our programs.
package enum ExitStatus {
  package static let success: Int32 = 0
  package static let failure: Int32 = 1
  /// Flags, arguments, environment or configuration file.
  package static let usage: Int32 = 2
  /// `martlet lab`: this machine gives no network namespaces.
  package static let refused: Int32 = 3
}

/// What a person did wrong, in words; the program's name is put before it.
package struct UsageError: Error, Hashable, Sendable {
  package var message: String
  /// Whether the usage follows (it would drown a config file's error).
  package var showsUsage: Bool
  package var status: Int32

  package init(_ message: String, showsUsage: Bool = true, status: Int32 = ExitStatus.usage) {
    self.message = message
    self.showsUsage = showsUsage
    self.status = status
  }
}

/// A secret in argv: bytes from `offset` of argument `index` (0 is the
/// program). The caller overwrites them once it has what it needs.
package struct SecretArgument: Hashable, Sendable {
  package var index: Int
  package var offset: Int

  package init(index: Int, offset: Int) {
    self.index = index
    self.offset = offset
  }
}

/// Either something to do, or the end.
package enum Parsed<Value> {
  case run(Value)
  case exit(CommandExit)
}
extension Parsed: Sendable where Value: Sendable {}

/// The version all faces report.
package enum ProductVersion {
  package static let text = "0.1.0"
}
