/// What can go wrong with a database file, in kinds that call for different
/// deeds. Nothing here ever deletes or replaces a file: a damaged database is
/// the owner's to look at.

/// A failure and the file it happened to.
package struct StorageFailure: Error, Sendable, Hashable {
  package enum Kind: Sendable, Hashable {
    /// The file cannot be opened or created.
    case cannotOpen
    /// It is there, but is no SQLite database.
    case notADatabase
    /// It is a database of some other program.
    case foreign
    /// It is damaged.
    case corrupt
    /// It was written by a newer version of this program.
    case newerSchema(found: Int, known: Int)
    /// Another process held it too long.
    case busy
    case readOnly
    /// The disk, or the limit on the database's size, is full.
    case full
    case inputOutput
    /// A rule of the schema was broken (a name taken twice).
    case constraint
    /// Anything else; SQLite's extended result code.
    case other(Int32)
  }

  package let kind: Kind
  package let path: String
  /// SQLite's own words.
  package let message: String

  package init(_ kind: Kind, path: String, message: String) {
    self.kind = kind
    self.path = path
    self.message = message
  }
}

extension StorageFailure: CustomStringConvertible {
  /// What happened and what to do next.
  package var description: String {
    switch kind {
    case .cannotOpen:
      "cannot open \(path) (\(message)): check that its directory exists and is writable"
    case .notADatabase:
      "\(path) is not a database: move it away, or name another directory with -data"
    case .foreign:
      "\(path) is a database of another program: name another directory with -data"
    case .corrupt:
      "\(path) is damaged (\(message)): it is left as it is; restore a copy, or move it away to start anew"
    case .newerSchema(let found, let known):
      "\(path) was written by a newer version (layout \(found), this one knows \(known)): upgrade this program"
    case .busy: "\(path) is in use by another process"
    case .readOnly: "\(path) cannot be written to: check its owner and mode"
    case .full: "no room left for \(path)"
    case .inputOutput: "reading or writing \(path) failed: \(message)"
    case .constraint: "\(path): \(message)"
    case .other(let code): "\(path): \(message) (SQLite \(code))"
    }
  }
}

/// Limits of a database.
package enum StorageLimits {
  /// How long a call waits for another process.
  package static let busyMilliseconds: Int32 = 5_000
  /// Pages of 4096 bytes: 1 GB.
  package static let pages = 262_144
  /// Bytes of one value.
  package static let value = 1 << 20
  /// Newest events kept.
  package static let events = 10_000
  /// Prepared statements kept.
  package static let statements = 64
}
