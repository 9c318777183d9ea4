import CommandLine
import Testing

/// The matrix every flag goes through, made from the tables themselves, so that
/// a new flag cannot be forgotten.
@Suite struct FlagMatrixTests {
  /// A text the kind takes, one that has the wrong form, and one above its range.
  private func samples(_ kind: FlagKind) -> (good: String, wrong: String, above: String?) {
    switch kind {
    case .bool: ("true", "maybe", nil)
    case .text: ("x", "a\u{1}", nil)
    case .name: ("nodeA", " lead", String(repeating: "n", count: 129))
    case .uint64: ("18446744073709551615", "abc", "18446744073709551616")
    case .number(let range): ("\(range.lowerBound)", "abc", "\(range.upperBound + 1)")
    case .port: ("65535", "abc", "65536")
    case .bandwidth: ("1000000", "fast", "1000000.001")
    case .path: ("/tmp/x", "a\n", String(repeating: "p", count: 4097))
    case .host: ("your-server.com", "http://h", String(repeating: "h", count: 254))
    case .hostPort: ("host:1", "host", "host:65536")
    case .address: ("fd00::1", "host", "256.1.1.1")
    case .listen: ("0.0.0.0:9000", "x", "65536")
    case .target: ("192.168.1.100:8080", "x", "h:65536")
    case .rule: ("192.168.1.0/24:80,443", "x", "h:65536")
    case .relayPolicy: ("to:nodeB,only,via:nodeC", "sometimes", "never,only")
    case .relay: ("only,not:nodeC", "to:nodeB,only", "never,via:nodeC")
    case .proxy: ("http://proxy:3128", "proxy:3128", "http://pro xy")
    case .block: ("10.0.0.0/8", "x", "10.0.0.0/33")
    case .choice(let words): (words[0], "nonsense", nil)
    }
  }

  private func takesNegative(_ kind: FlagKind) -> Bool {
    switch kind {
    case .text, .name, .path: true
    case .bool, .uint64, .number, .port, .bandwidth, .host, .hostPort, .address, .listen, .target,
      .rule, .relayPolicy, .relay, .proxy, .block, .choice:
      false
    }
  }

  /// A command line for one command with everything else it needs.
  private func line(
    _ program: ProgramSpec, _ command: CommandSpec, _ flag: [String]
  ) -> [String] {
    [program.name] + command.path.map { $0[0] }
      + command.positionals.filter { !$0.isOptional }.map { _ in "x" } + flag
  }

  private enum Answer: Equatable {
    case values([FlagValue])
    case refused
  }

  private func answer(
    _ program: ProgramSpec, _ command: CommandSpec, _ flag: Flag, _ words: [String]
  ) -> Answer {
    do {
      // Flags stand before positionals where the program wants that.
      guard
        case .command(let parsed) = try CommandParser.parse(program, line(program, command, words))
      else { return .refused }
      return .values(parsed.flags[flag.name] ?? [])
    } catch {
      #expect(error.status == 2)
      #expect(!error.message.isEmpty)
      return .refused
    }
  }

  @Test func everyFlagThroughTheMatrix() throws {
    var checked = 0
    for name in Program.names {
      let program = try #require(Program.spec(name))
      for command in program.commands {
        for flag in command.flags + program.globalFlags {
          checked += 1
          let where_ = Comment(rawValue: "\(name) \(command.title) \(program.written(flag))")
          let written = program.written(flag)
          let (good, wrong, above) = samples(flag.kind)
          let value = try flag.kind.value(of: good)
          func ask(_ words: [String]) -> Answer { answer(program, command, flag, words) }

          // The forms.
          #expect(ask([written + "=" + good]) == .values([value]), where_)
          if flag.kind == .bool {
            #expect(ask([written]) == .values([.bool(true)]), where_)
            #expect(ask([written + "=false"]) == .values([.bool(false)]), where_)
          } else {
            #expect(ask([written, good]) == .values([value]), where_)
            // Missing.
            #expect(ask([written]) == .refused, where_)
            // Empty, apart.
            #expect(ask([written, ""]) == .refused, where_)
            // −1, apart: Go takes the next word whatever it is, ztm does not.
            let negative = ask([written, "-1"])
            if takesNegative(flag.kind), program.style == .go {
              #expect(negative == .values([.text("-1")]), where_)
            } else {
              #expect(negative == .refused, where_)
            }
          }
          if program.style == .go {
            #expect(ask(["-" + written + "=" + good]) == .values([value]), where_)
          }
          if let short = flag.short, flag.kind != .bool {
            #expect(ask(["-\(short)\(good)"]) == .values([value]), where_)
            #expect(ask(["-\(short)", good]) == .values([value]), where_)
          }
          // Empty, inline.
          #expect(ask([written + "="]) == .refused, where_)
          // Text of the wrong form; too large.
          #expect(ask([written + "=" + wrong]) == .refused, where_)
          if let above { #expect(ask([written + "=" + above]) == .refused, where_) }
          if !takesNegative(flag.kind) { #expect(ask([written + "=-1"]) == .refused, where_) }
          // Twice.
          let twice = ask([written + "=" + good, written + "=" + good])
          #expect(twice == .values(flag.many == .no ? [value] : [value, value]), where_)
        }
      }
    }
    #expect(checked > 100)
  }

  @Test func secretsAreNeverRepeatedInErrors() {
    for words in [
      ["inp2ps", "-token", "secret99x"], ["inp2pc", "-token=secret99x"],
      ["inp2pc", "-tokn=secret99x"],
      ["inp2ps", "-token", "1,secret99x"], ["inp2pc", "-token", "-secret99x"],
    ] {
      guard case .exit(let exit) = Program.parse(words, environment: [:]).invocation else {
        Issue.record("must be refused")
        continue
      }
      #expect(exit.status == 2 && exit.output.isEmpty)
      #expect(!exit.errorOutput.contains("secret99x"), "\(words)")
    }
    let (invocation, _) = Program.parse(
      ["inp2pc", "-node", "a", "-serverhost", "h"], environment: ["INP2P_TOKEN": "secret99x"])
    guard case .agent(let arguments) = invocation,
      case .exit(let exit) = arguments.resolve(config: nil)
    else { return #expect(Bool(false)) }
    #expect(exit.errorOutput.contains("INP2P_TOKEN") && !exit.errorOutput.contains("secret99x"))
  }

  @Test func tablesAreSound() throws {
    for name in Program.names {
      let program = try #require(Program.spec(name))
      for command in program.commands {
        let flags = command.flags + program.globalFlags
        #expect(Set(flags.map(\.name)).count == flags.count, "\(name) \(command.title)")
        let shorts = flags.compactMap(\.short)
        #expect(Set(shorts).count == shorts.count, "\(name) \(command.title)")
        for flag in flags {
          #expect(!flag.help.isEmpty && !flag.help.hasSuffix("."), "\(flag.name)")
          if let text = flag.defaultText { _ = try flag.kind.value(of: text) }
        }
      }
      let help = HelpText.help(program, program.commands.count == 1 ? program.commands[0] : nil)
      #expect(help.split(separator: "\n").allSatisfy { $0.count <= 120 }, "\(name)")
      for flag in program.globalFlags { #expect(help.contains("-" + flag.name)) }
    }
  }

  @Test func mistypedWordsGetASuggestion() {
    for (words, hint) in [
      (["inp2ps", "-tokne", "1"], "did you mean -token?"),
      (["ztm", "tunel", "get", "tunnel"], "did you mean tunnel?"),
      (["ztm", "tunnel", "open", "inbuond", "x"], "did you mean inbound?"),
      (["martlet", "stauts"], "did you mean status?"),
      (["ztm", "tunnel", "open", "inbound", "x", "--listne", "1"], "did you mean --listen?"),
    ] {
      guard case .exit(let exit) = Program.parse(words, environment: [:]).invocation else {
        Issue.record("\(words)")
        continue
      }
      #expect(exit.status == 2 && exit.errorOutput.contains(hint), "\(words): \(exit.errorOutput)")
    }
  }
}
