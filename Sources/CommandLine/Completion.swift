/// Completion scripts for bash and zsh from the tables: words of commands,
/// flags, and the choices of a flag. The scripts call no program, so they
/// complete as fast as a shell can and never touch the network.

package enum Completion {
  package enum Shell: String, CaseIterable, Sendable { case bash, zsh }

  package static func script(_ program: ProgramSpec, _ shell: Shell) -> String {
    switch shell {
    case .bash: bash(program)
    case .zsh: zsh(program)
    }
  }

  /// What may follow: a route of words → next words and flags.
  private struct Node {
    var route: [String]
    var next: [String]
  }

  /// Every route, the other spellings included.
  private static func nodes(_ program: ProgramSpec) -> [Node] {
    var order: [[String]] = []
    var next: [[String]: [String]] = [:]
    func add(_ route: [String], _ words: [String]) {
      if next[route] == nil {
        order.append(route)
        next[route] = []
      }
      for word in words where next[route]?.contains(word) == false { next[route]?.append(word) }
    }
    add([], program.globalFlags.map(program.written))
    for command in program.commands {
      var routes: [[String]] = [[]]
      for spellings in command.path {
        for route in routes { add(route, [spellings[0]]) }
        routes = routes.flatMap { route in spellings.map { route + [$0] } }
      }
      for route in routes {
        add(route, (command.flags + program.globalFlags).map(program.written))
      }
    }
    return order.map { Node(route: $0, next: next[$0] ?? []) }
  }

  /// Words that follow a flag with fixed choices.
  private static func choices(_ program: ProgramSpec) -> [(flag: String, words: [String])] {
    var seen: Set<String> = []
    return (program.commands.flatMap(\.flags) + program.globalFlags).compactMap { flag in
      guard case .choice(let words) = flag.kind, seen.insert(flag.name).inserted else { return nil }
      return (program.written(flag), words.filter { Int($0) == nil })
    }
  }

  private static func function(_ program: ProgramSpec) -> String {
    "_martlet_" + program.name.map { $0.isLetter || $0.isNumber ? String($0) : "_" }.joined()
  }

  /// The body both shells share; `words` and the current index differ.
  private static func routing(_ program: ProgramSpec, emit: (String) -> String) -> String {
    let nodes = nodes(program)
    let inner = nodes.filter { !$0.route.isEmpty }
    var text = ""
    if !inner.isEmpty {
      let patterns = inner.map { "\" \($0.route.joined(separator: " "))\"" }.joined(separator: "|")
      text +=
        "    case \"$route $word\" in\n      \(patterns)) route=\"$route $word\" ;;\n    esac\n"
    }
    text += "  done\n"
    for (flag, words) in choices(program) {
      text +=
        "  if [[ \"$previous\" == \"\(flag)\" ]]; then\n    \(emit(words.joined(separator: " ")))\n    return\n  fi\n"
    }
    text += "  case \"$route\" in\n"
    for node in nodes {
      let route = node.route.isEmpty ? "\"\"" : "\" \(node.route.joined(separator: " "))\""
      text += "    \(route)) \(emit(node.next.joined(separator: " "))) ;;\n"
    }
    return text + "  esac\n"
  }

  private static func bash(_ program: ProgramSpec) -> String {
    let name = function(program)
    return """
      # bash completion for \(program.name); source it, or install it as
      # /usr/share/bash-completion/completions/\(program.name)
      \(name)() {
        local current="${COMP_WORDS[COMP_CWORD]}" previous="" route="" word i
        ((COMP_CWORD > 0)) && previous="${COMP_WORDS[COMP_CWORD-1]}"
        for ((i = 1; i < COMP_CWORD; i++)); do
          word="${COMP_WORDS[i]}"

      """
        + routing(program) { "COMPREPLY=($(compgen -W \"\($0)\" -- \"$current\"))" }
          + """
          }
          complete -o default -F \(name) \(program.name)

          """
  }

  private static func zsh(_ program: ProgramSpec) -> String {
    let name = function(program)
    return """
      #compdef \(program.name)
      # zsh completion for \(program.name); put it into a directory of $fpath as _\(program.name)
      \(name)() {
        local previous="${words[CURRENT-1]}" route="" word i
        for ((i = 2; i < CURRENT; i++)); do
          word="${words[i]}"

      """
        + routing(program) { $0.isEmpty ? "_files" : "compadd -- \($0); _files" }
          + """
          }
          compdef \(name) \(program.name)

          """
  }
}
