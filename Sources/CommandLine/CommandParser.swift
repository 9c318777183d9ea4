/// Words to a command: Go's flag syntax and ztm's option style over one table.
/// Pure; what it refuses it refuses with one sentence that says what would
/// have been right, and never repeats a secret.

#if canImport(Bytes)
  import Tunnels
#endif

/// A command line taken apart; values have been checked by their kinds.
package struct ParsedCommand: Sendable {
  package var command: CommandSpec
  package var flags: [String: [FlagValue]] = [:]
  package var positionals: [String] = []
  package var secrets: [SecretArgument] = []

  package func text(_ name: String) -> String? {
    guard case .text(let value)? = flags[name]?.last else { return nil }
    return value
  }
  package func number(_ name: String) -> UInt64? {
    guard case .number(let value)? = flags[name]?.last else { return nil }
    return value
  }
  package func bool(_ name: String) -> Bool { flags[name]?.last == .bool(true) }
  package func texts(_ name: String) -> [String] {
    (flags[name] ?? []).compactMap { if case .text(let value) = $0 { value } else { nil } }
  }
}

/// What the words ask for.
package enum ParseResult: Sendable {
  case command(ParsedCommand)
  /// `-h` for the command, or nil for the whole program.
  case help(CommandSpec?)
}

package struct CommandParser {
  private let program: ProgramSpec
  private let arguments: [String]
  private var position: Int
  private var result: ParsedCommand

  /// - Parameters:
  ///   - arguments: whole argv; the first `start` words are not looked at.
  package static func parse(
    _ program: ProgramSpec, _ arguments: [String], start: Int = 1
  ) throws(UsageError) -> ParseResult {
    var parser = CommandParser(program: program, arguments: arguments, position: start)
    return try parser.run()
  }

  private init(program: ProgramSpec, arguments: [String], position: Int) {
    self.program = program
    self.arguments = arguments
    self.position = position
    result = ParsedCommand(command: program.commands[0])
  }

  private mutating func run() throws(UsageError) -> ParseResult {
    var candidates = program.commands
    var depth = 0
    // The words that select the command; global flags may stand between them.
    while position < arguments.count {
      let word = arguments[position]
      if isFlag(word) {
        guard candidates.contains(where: { $0.path.count > depth }),
          depth == 0 || exact(candidates, depth) == nil
        else { break }
        if isHelp(word) { return .help(exact(candidates, depth)) }
        guard let flag = find(word, in: program.globalFlags) else {
          if depth == 0, program.commands.contains(where: { $0.path.isEmpty }) { break }
          throw UsageError(unknown(word, among: program.globalFlags))
        }
        try take(flag)
        continue
      }
      let next = candidates.filter { $0.path.count > depth && $0.path[depth].contains(word) }
      if next.isEmpty { break }
      candidates = next
      depth += 1
      position += 1
    }
    guard let command = exact(candidates, depth) else { throw incomplete(candidates, depth) }
    result.command = command

    let flags = command.flags + program.globalFlags
    var flagsEnded = false
    while position < arguments.count {
      let word = arguments[position]
      if !flagsEnded, word == "--" {
        flagsEnded = true
        position += 1
      } else if !flagsEnded, isFlag(word) {
        if isHelp(word), find(word, in: flags) == nil { return .help(command) }
        guard let flag = find(word, in: flags) else {
          throw UsageError(unknown(word, among: flags))
        }
        try take(flag)
      } else {
        if !program.isInterspersed { flagsEnded = true }
        try takePositional(word)
        position += 1
      }
    }
    let needed = command.positionals.filter { !$0.isOptional }.count
    if result.positionals.count < needed {
      throw UsageError("\(command.positionals[result.positionals.count].name) is missing")
    }
    return .command(result)
  }

  // MARK: Commands

  private func exact(_ candidates: [CommandSpec], _ depth: Int) -> CommandSpec? {
    candidates.first { $0.path.count == depth }
  }

  private func incomplete(_ candidates: [CommandSpec], _ depth: Int) -> UsageError {
    var words: [String] = []
    for command in candidates where command.path.count > depth {
      if !words.contains(command.path[depth][0]) { words.append(command.path[depth][0]) }
    }
    let list = words.joined(separator: ", ")
    if position < arguments.count, !isFlag(arguments[position]) {
      let word = TunnelNaming.printable(arguments[position])
      if let close = Spelling.closest(to: word, among: words) {
        return UsageError("unknown command \"\(word)\"; did you mean \(close)?")
      }
      return UsageError("unknown command \"\(word)\"; expected one of: \(list)")
    }
    if depth == 0 { return UsageError("no command given; expected one of: \(list)") }
    return UsageError("\(arguments[position - 1]) needs a word more, one of: \(list)")
  }

  private mutating func takePositional(_ word: String) throws(UsageError) {
    let places = result.command.positionals
    let index = result.positionals.count
    guard index < places.count || places.last?.repeats == true else {
      throw UsageError("unexpected argument \"\(TunnelNaming.printable(word))\"")
    }
    let place = places[min(index, places.count - 1)]
    guard !word.isEmpty || place.isSecret else { throw UsageError("\(place.name) is empty") }
    if place.isSecret { result.secrets.append(SecretArgument(index: position, offset: 0)) }
    result.positionals.append(word)
  }

  // MARK: Flags

  private func isFlag(_ word: String) -> Bool { word.hasPrefix("-") && word != "-" && word != "--" }

  private func isHelp(_ word: String) -> Bool {
    word == "-h" || word == "--help" || (program.style == .go && (word == "-help" || word == "--h"))
  }

  /// The name part of a flag word.
  private func name(_ word: String) -> Substring {
    let bare = word.drop { $0 == "-" }
    return bare.prefix { $0 != "=" }
  }

  private func find(_ word: String, in flags: [Flag]) -> Flag? {
    let name = name(word)
    let dashes = word.prefix { $0 == "-" }.count
    guard dashes <= 2 else { return nil }
    if program.style == .go || dashes == 2 { return flags.first { $0.name == name } }
    let letter = word.dropFirst().first
    return flags.first { $0.short != nil && $0.short == letter }
  }

  private func unknown(_ word: String, among flags: [Flag]) -> String {
    // Cut at '=': what follows might be a secret under a mistyped name.
    let shown = TunnelNaming.printable(word.prefix { $0 != "=" })
    let close = Spelling.closest(to: String(name(word)), among: flags.map(\.name))
    guard let close, let flag = flags.first(where: { $0.name == close }) else {
      return "unknown flag \(shown)"
    }
    return "unknown flag \(shown); did you mean \(program.written(flag))?"
  }

  private mutating func take(_ flag: Flag) throws(UsageError) {
    let word = arguments[position]
    let written = program.written(flag)
    let isShort = program.style == .ztm && !word.hasPrefix("--")
    let inline: Substring? =
      if isShort {
        word.count > 2 ? word.dropFirst(2) : nil
      } else {
        word.firstIndex(of: "=").map { word[word.index(after: $0)...] }
      }
    position += 1

    if let inline {
      if isShort, flag.kind == .bool {
        throw UsageError("\(word.prefix(2)) takes no value")
      }
      let offset = word.utf8.count - inline.utf8.count
      note(flag, at: position - 1, offset: offset)
      try store(flag, String(inline), written)
      return
    }
    if flag.kind == .bool {
      result.flags[flag.name] = [.bool(true)]
      return
    }
    guard position < arguments.count, !isNextOption(flag) else {
      throw UsageError("\(written) needs a value (\(flag.kind.expected))")
    }
    repeat {
      note(flag, at: position, offset: 0)
      try store(flag, arguments[position], written)
      position += 1
    } while flag.many == .words && position < arguments.count && !isNextOption(flag)
  }

  /// Go takes the next word whatever it is; ztm stops at the next option.
  private func isNextOption(_ flag: Flag) -> Bool {
    program.style == .ztm && (isFlag(arguments[position]) || arguments[position] == "--")
  }

  private mutating func note(_ flag: Flag, at index: Int, offset: Int) {
    if flag.isSecret { result.secrets.append(SecretArgument(index: index, offset: offset)) }
  }

  private mutating func store(_ flag: Flag, _ text: String, _ written: String) throws(UsageError) {
    let values: [FlagValue]
    do {
      values = try flag.values(in: text)
    } catch {
      let shown = flag.isSecret ? "" : " \"\(TunnelNaming.printable(text))\""
      throw UsageError("invalid value\(shown) for \(written): expected \(error.expected)")
    }
    switch flag.many {
    case .no: result.flags[flag.name] = values
    case .repeated, .commas, .words: result.flags[flag.name, default: []] += values
    }
  }
}

/// "Did you mean …?"
package enum Spelling {
  /// The nearest candidate within two edits, if the word is long enough for
  /// that to mean something.
  package static func closest(to word: String, among candidates: [String]) -> String? {
    guard word.utf8.count >= 2, word.utf8.count <= 40 else { return nil }
    let limit = word.utf8.count <= 4 ? 1 : 2
    let scored = candidates.map { (distance(Array(word.utf8), Array($0.utf8)), $0) }
    guard let best = scored.min(by: { $0.0 < $1.0 }), best.0 <= limit else { return nil }
    return best.1
  }

  /// Edits with neighbours swapped counting as one (optimal string alignment).
  static func distance(_ a: [UInt8], _ b: [UInt8]) -> Int {
    var rows = [[Int]](repeating: [Int](repeating: 0, count: b.count + 1), count: a.count + 1)
    for i in 0...a.count { rows[i][0] = i }
    for j in 0...b.count { rows[0][j] = j }
    for i in 0..<a.count {
      for j in 0..<b.count {
        var best = min(
          rows[i][j + 1] + 1, rows[i + 1][j] + 1, rows[i][j] + (a[i] == b[j] ? 0 : 1))
        if i > 0, j > 0, a[i] == b[j - 1], a[i - 1] == b[j] {
          best = min(best, rows[i - 1][j - 1] + 1)
        }
        rows[i + 1][j + 1] = best
      }
    }
    return rows[a.count][b.count]
  }
}
