/// Where each value comes from: flag > environment > file > default. One
/// checking path for all four, so that a port in the file is held to the same
/// rule as a port on the command line.

#if canImport(Bytes)
  import Tunnels
#endif

/// The origin of a value.
package enum FlagSource: Hashable, Sendable {
  case flag
  case environment
  case file
  case byDefault
}

/// The values of one command after precedence.
package struct ResolvedFlags: Sendable {
  private var values: [String: [FlagValue]] = [:]
  private var sources: [String: FlagSource] = [:]
  /// "-super is not active yet".
  package private(set) var notices: [String] = []

  /// - Parameter config: nil when there is no file, or it is to be ignored.
  /// - Throws: `UsageError` for a bad environment variable or file value, or a
  ///   required flag that nothing gives.
  package init(
    _ parsed: ParsedCommand, program: ProgramSpec, environment: [String: String],
    config: ConfigFile?
  ) throws(UsageError) {
    for flag in parsed.command.flags {
      let written = program.written(flag)
      if let given = parsed.flags[flag.name] {
        set(flag, given, .flag)
      } else if let name = flag.environment, let text = environment[name], !text.isEmpty {
        do {
          set(flag, try flag.values(in: text), .environment)
        } catch {
          guard flag.isAmbient else {
            throw UsageError("invalid value in \(name): expected \(error.expected)")
          }
          notices.append("\(name) is ignored: expected \(error.expected)")
        }
      } else if let key = flag.configKey, let config, let texts = try Self.texts(config, key) {
        var found: [FlagValue] = []
        for text in texts {
          do {
            found += try flag.values(in: text)
          } catch {
            throw UsageError(
              "configuration file: \(key): expected \(error.expected)", showsUsage: false)
          }
        }
        if !found.isEmpty { set(flag, found, .file) }
      }
      if values[flag.name] == nil, let value = Self.byDefault(flag) {
        set(flag, value, .byDefault)
      }
      if flag.isRequired, values[flag.name] == nil {
        let ways = [flag.environment, flag.configKey.map { "\($0) in the configuration file" }]
          .compactMap { $0 }.joined(separator: ", or ")
        throw UsageError("\(written) is required" + (ways.isEmpty ? "" : " (or \(ways))"))
      }
      if flag.isAmbient, sources[flag.name] == .environment { continue }
      // A file that the agent wrote itself holds defaults that nobody asked for.
      let isOwnDefault = sources[flag.name] == .file && values[flag.name] == Self.byDefault(flag)
      if flag.isInactive, isGiven(flag.name), values[flag.name] != [.bool(false)], !isOwnDefault {
        notices.append("\(written) is not active yet in this version; it has no effect")
      }
    }
  }

  private static func byDefault(_ flag: Flag) -> [FlagValue]? {
    guard let text = flag.defaultText else { return nil }
    do {
      return [try flag.kind.value(of: text)]
    } catch {
      preconditionFailure("the table's default of -\(flag.name) is not of its kind")
    }
  }

  private static func texts(_ config: ConfigFile, _ key: String) throws(UsageError) -> [String]? {
    do {
      return try config.texts(key)
    } catch {
      throw UsageError("configuration file: \(error)", showsUsage: false)
    }
  }

  private mutating func set(_ flag: Flag, _ found: [FlagValue], _ source: FlagSource) {
    values[flag.name] = flag.many == .no ? found.suffix(1) : found
    sources[flag.name] = source
  }

  package func source(_ name: String) -> FlagSource? { sources[name] }
  /// By flag, environment or file.
  package func isGiven(_ name: String) -> Bool { sources[name].map { $0 != .byDefault } ?? false }

  package func text(_ name: String) -> String? {
    guard case .text(let value)? = values[name]?.last else { return nil }
    return value
  }
  package func texts(_ name: String) -> [String] {
    (values[name] ?? []).compactMap { if case .text(let value) = $0 { value } else { nil } }
  }
  package func number(_ name: String) -> UInt64? {
    guard case .number(let value)? = values[name]?.last else { return nil }
    return value
  }
  package func numbers(_ name: String) -> [UInt64] {
    (values[name] ?? []).compactMap { if case .number(let value) = $0 { value } else { nil } }
  }
  package func bool(_ name: String) -> Bool { values[name]?.last == .bool(true) }
  package func port(_ name: String) -> UInt16? {
    number(name).map { UInt16(truncatingIfNeeded: $0) }
  }
  /// Only when something other than the default gives it.
  package func givenPort(_ name: String) -> UInt16? { isGiven(name) ? port(name) : nil }
}
