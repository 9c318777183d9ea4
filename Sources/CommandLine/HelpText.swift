/// Usage, help, version and manual page from the tables. Nothing here is
/// written by hand but the frame.

/// Texts for people.
package enum HelpText {
  /// Width that help lines are wrapped at.
  static let width = 80

  static func exit(_ program: ProgramSpec, _ command: CommandSpec?) -> CommandExit {
    CommandExit(status: ExitStatus.success, output: help(program, command))
  }

  static func version(_ name: String) -> CommandExit {
    CommandExit(status: ExitStatus.success, output: "\(name) version \(ProductVersion.text)\n")
  }

  /// The error, then the usage of the command.
  package static func refusal(
    _ error: UsageError, _ program: ProgramSpec, _ command: CommandSpec?
  ) -> CommandExit {
    var text = "\(program.name): \(error.message)\n"
    if error.showsUsage {
      // A program of one command shows its flags at once, as Go's flag does; a
      // tree of commands would scroll the error away.
      if program.commands.count == 1 {
        text += "\n" + help(program, program.commands[0])
      } else if let command {
        text += usageLine(program, command) + "\n"
      } else {
        text += "Try '\(program.name) help'.\n"
      }
    }
    return CommandExit(status: error.status, errorOutput: text)
  }

  /// Help of one command, or of the whole program.
  package static func help(_ program: ProgramSpec, _ command: CommandSpec?) -> String {
    guard let command else { return overview(program) }
    var text = usageLine(program, command) + "\n\n"
    text += capitalized(command.summary) + ".\n"
    let own = command.flags.map { (written($0, program), describe($0)) }
    let global = program.globalFlags.map { (written($0, program), describe($0)) }
    if !own.isEmpty { text += "\nFlags:\n" + columns(own) }
    if !global.isEmpty { text += "\nEverywhere:\n" + columns(global) }
    if !command.examples.isEmpty {
      text += "\nExamples:\n" + command.examples.map { "  \($0)\n" }.joined()
    }
    if command.isInactive { text += "\nNot active yet in this version.\n" }
    return text
  }

  private static func overview(_ program: ProgramSpec) -> String {
    var text =
      "\(program.name): \(program.summary)\n\nUsage: \(program.name) COMMAND [flags]\n\nCommands:\n"
    text += columns(
      program.commands.map { command in
        let words = ([command.title] + command.positionals.map(written)).joined(separator: " ")
        return (words, command.summary + (command.isInactive ? " (not active yet)" : ""))
      })
    if !program.globalFlags.isEmpty {
      text +=
        "\nEverywhere:\n"
        + columns(program.globalFlags.map { (written($0, program), describe($0)) })
    }
    text += "\nMore about a command: \(program.name) help COMMAND\n"
    return text
  }

  package static func usageLine(_ program: ProgramSpec, _ command: CommandSpec) -> String {
    var words = [program.name]
    if !command.title.isEmpty { words.append(command.title) }
    words += command.positionals.map(written)
    words += command.flags.filter(\.isRequired).map { written($0, program) }
    if command.flags.contains(where: { !$0.isRequired }) { words.append("[flags]") }
    return "Usage: " + words.joined(separator: " ")
  }

  private static func written(_ place: Positional) -> String {
    let name = place.repeats ? place.name + "…" : place.name
    return place.isOptional ? "[\(name)]" : name
  }

  private static func written(_ flag: Flag, _ program: ProgramSpec) -> String {
    var text = program.written(flag)
    if let short = flag.short { text = "-\(short), " + text }
    if !flag.placeholder.isEmpty { text += " " + flag.placeholder }
    if flag.many == .words { text += "…" }
    return text
  }

  private static func describe(_ flag: Flag) -> String {
    var notes: [String] = []
    if flag.isRequired { notes.append("required") }
    if let value = flag.defaultText { notes.append("default \(value)") }
    if let name = flag.environment { notes.append("environment \(name)") }
    if flag.isInactive { notes.append("not active yet") }
    return flag.help + (notes.isEmpty ? "" : " (\(notes.joined(separator: "; ")))")
  }

  private static func capitalized(_ text: String) -> String {
    text.prefix(1).uppercased() + text.dropFirst()
  }

  /// Two columns, the second wrapped.
  private static func columns(_ rows: [(String, String)]) -> String {
    let widest = rows.map(\.0.count).max() ?? 0
    let indent = min(widest, 26) + 4
    var text = ""
    for (left, right) in rows {
      var line = "  " + left
      if line.count > indent - 2 {
        text += line + "\n"
        line = ""
      }
      line += String(repeating: " ", count: indent - line.count)
      var isFirst = true
      for word in right.split(separator: " ") {
        if !isFirst, line.count + word.count + 1 > width {
          text += line + "\n"
          line = String(repeating: " ", count: indent)
          isFirst = true
        }
        line += (isFirst ? "" : " ") + word
        isFirst = false
      }
      text += line + "\n"
    }
    return text
  }

  // MARK: Manual page

  /// roff for man(7), section 1 (or 8 for the server).
  package static func manual(_ program: ProgramSpec, section: Int = 1) -> String {
    var text =
      ".TH \(program.name.uppercased()) \(section) \"\" \"martlet \(ProductVersion.text)\"\n"
    text += ".SH NAME\n\(roff(program.name)) \\- \(roff(program.summary))\n.SH SYNOPSIS\n"
    for command in program.commands {
      text += ".B \(roff(String(usageLine(program, command).dropFirst(7))))\n.br\n"
    }
    let isTree = program.commands.count > 1
    text += isTree ? ".SH COMMANDS\n" : ".SH DESCRIPTION\n"
    for command in program.commands {
      if isTree { text += ".SS \(roff(command.title))\n" }
      text += roff(capitalized(command.summary)) + ".\n"
      if command.isInactive { text += "Not active yet in this version.\n" }
      if !isTree { text += ".SH OPTIONS\n" }
      for flag in command.flags {
        text += ".TP\n.B \(roff(written(flag, program)))\n\(roff(describe(flag)))\n"
      }
    }
    if !program.globalFlags.isEmpty {
      text += ".SH OPTIONS\n"
      for flag in program.globalFlags {
        text += ".TP\n.B \(roff(written(flag, program)))\n\(roff(describe(flag)))\n"
      }
    }
    var seen: Set<String> = []
    let variables = (program.commands.flatMap(\.flags) + program.globalFlags).filter {
      $0.environment.map { seen.insert($0).inserted } ?? false
    }
    if !variables.isEmpty {
      text += ".SH ENVIRONMENT\n"
      for flag in variables {
        text += ".TP\n.B \(roff(flag.environment ?? ""))\nas \(roff(program.written(flag)))\n"
      }
    }
    text += ".SH EXIT STATUS\n"
    for (status, meaning) in program.exitStatuses {
      text += ".TP\n.B \(status)\n\(roff(meaning))\n"
    }
    let examples = program.commands.flatMap(\.examples)
    if !examples.isEmpty {
      text += ".SH EXAMPLES\n.nf\n" + examples.map { roff($0) + "\n" }.joined() + ".fi\n"
    }
    return text
  }

  private static func roff(_ text: String) -> String {
    var result = ""
    for character in text {
      switch character {
      case "\\": result += "\\e"
      case "-": result += "\\-"
      case "…": result += "..."
      default: result.append(character)
      }
    }
    return result.hasPrefix(".") || result.hasPrefix("'") ? "\\&" + result : result
  }
}
