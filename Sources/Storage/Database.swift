/// SQLite behind a narrow seam: open, prepare, bind, step, transact, migrate.
/// Blocking; owned by one thread (the server's storage thread), never by a
/// loop. Knows nothing of what is stored.
///
/// Write-ahead log, so that readers (`martlet server …` beside a running
/// server) never wait and a killed process leaves a whole database. `.full`
/// syncs the log at every commit: what was committed outlives a power cut.
/// `.normal` syncs at checkpoints only: a power cut may undo the last commits,
/// never damage the file. docs/decisions/0004-sqlite.md.

internal import CSQLite

package final class Database {
  /// What a commit promises.
  package enum Durability: Sendable {
    /// Survives a power cut.
    case full
    /// Survives the process; a power cut may undo the last commits.
    case normal
  }

  package let path: String
  private let handle: OpaquePointer
  private var statements: [String: Statement] = [:]
  private var durability = Durability.full
  private var isInTransaction = false
  /// After a failed rollback nothing can be trusted to be written.
  private var isBroken = false

  private init(path: String, handle: OpaquePointer) {
    self.path = path
    self.handle = handle
  }

  deinit {
    statements.removeAll()
    sqlite3_close_v2(handle)
  }

  /// Opens or creates a database, mode 0600, and checks that it is whole.
  /// - Parameters:
  ///   - path: a file; `:memory:` for tests.
  ///   - application: SQLite's application_id; another one in the file is refused.
  package static func open(
    _ path: String, application: Int32
  ) throws(StorageFailure) -> Database {
    if path != ":memory:" {
      guard !path.isEmpty, !path.utf8.contains(0) else {
        throw StorageFailure(.cannotOpen, path: path, message: "no file name")
      }
      let code = martlet_sqlite_create_private(path)
      // A file we may only read is SQLite's to judge.
      if code != 0, code != EACCES, code != EROFS {
        throw StorageFailure(
          code == ENOSPC ? .full : .cannotOpen, path: path, message: "errno \(code)")
      }
    }
    var handle: OpaquePointer?
    let flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX
    let result = unsafe sqlite3_open_v2(path, &handle, flags, nil)
    guard let handle else {
      throw StorageFailure(.cannotOpen, path: path, message: "out of memory")
    }
    let database = Database(path: path, handle: handle)
    guard result == SQLITE_OK else { throw database.failure(result) }
    sqlite3_extended_result_codes(handle, 1)
    sqlite3_busy_timeout(handle, StorageLimits.busyMilliseconds)
    sqlite3_limit(handle, SQLITE_LIMIT_LENGTH, Int32(StorageLimits.value + 4096))
    _ = martlet_sqlite_defend(handle)
    try database.prepareFile(application)
    return database
  }

  private func prepareFile(_ application: Int32) throws(StorageFailure) {
    // The first read tells whether this is a database at all.
    let found = try integer("PRAGMA application_id")
    let tables = try integer("SELECT count(*) FROM sqlite_schema")
    guard found == Int64(application) || (found == 0 && tables == 0) else {
      throw StorageFailure(.foreign, path: path, message: "application id \(found)")
    }
    try run("PRAGMA trusted_schema = OFF")
    try run("PRAGMA cell_size_check = ON")
    try run("PRAGMA secure_delete = ON")  // secrets that were forgotten are gone
    try run("PRAGMA max_page_count = \(StorageLimits.pages)")
    try run("PRAGMA journal_mode = WAL")
    try run("PRAGMA synchronous = FULL")
    let verdict = try text("PRAGMA quick_check(1)")
    guard verdict == "ok" else {
      throw StorageFailure(.corrupt, path: path, message: verdict)
    }
    if found != Int64(application) { try run("PRAGMA application_id = \(application)") }
  }

  /// Brings the layout up to date: `steps[n]` leads from version n to n + 1,
  /// each in a transaction of its own. Never edit a step that was released.
  package func migrate(_ steps: [[String]]) throws(StorageFailure) {
    // The version is read inside the transaction: two processes may start at once.
    while true {
      let isDone = try transaction { () throws(StorageFailure) -> Bool in
        let version = Int(try integer("PRAGMA user_version"))
        guard version <= steps.count, version >= 0 else {
          throw StorageFailure(
            .newerSchema(found: version, known: steps.count), path: path, message: "")
        }
        if version == steps.count { return true }
        for statement in steps[version] { try run(statement) }
        try run("PRAGMA user_version = \(version + 1)")
        return false
      }
      if isDone { return }
    }
  }

  // MARK: Statements

  /// A statement, prepared once and kept. Its values are bound anew each time.
  package func statement(_ sql: String) throws(StorageFailure) -> Statement {
    if let statement = statements[sql] {
      statement.reset()
      return statement
    }
    var raw: OpaquePointer?
    let result = unsafe sqlite3_prepare_v3(
      handle, sql, -1, UInt32(SQLITE_PREPARE_PERSISTENT), &raw, nil)
    guard result == SQLITE_OK, let raw else { throw failure(result) }
    let statement = Statement(raw, database: self)
    if statements.count >= StorageLimits.statements { statements.removeAll() }
    statements[sql] = statement
    return statement
  }

  /// Runs one statement without values.
  package func run(_ sql: String) throws(StorageFailure) {
    var raw: OpaquePointer?
    var result = unsafe sqlite3_prepare_v2(handle, sql, -1, &raw, nil)
    guard result == SQLITE_OK, let raw else { throw failure(result) }
    repeat { result = sqlite3_step(raw) } while result == SQLITE_ROW
    let wrong = result == SQLITE_DONE ? nil : failure(result)
    sqlite3_finalize(raw)
    if let wrong { throw wrong }
  }

  private func integer(_ sql: String) throws(StorageFailure) -> Int64 {
    let statement = try statement(sql)
    defer { statement.reset() }
    return try statement.step() ? statement.integer(0) : 0
  }

  private func text(_ sql: String) throws(StorageFailure) -> String {
    let statement = try statement(sql)
    defer { statement.reset() }
    return try statement.step() ? statement.text(0) : ""
  }

  /// Rows changed by the statement before.
  package var changes: Int { Int(sqlite3_changes(handle)) }

  /// All of `body`, or nothing of it. Inside another transaction it simply
  /// takes part in that one.
  package func transaction<R>(
    _ durability: Durability = .full, _ body: () throws(StorageFailure) -> R
  ) throws(StorageFailure) -> R {
    if isInTransaction { return try body() }
    guard !isBroken else {
      throw StorageFailure(
        .inputOutput, path: path, message: "an earlier change could not be undone")
    }
    if durability != self.durability {
      try run(durability == .full ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = NORMAL")
      self.durability = durability
    }
    // IMMEDIATE takes the write lock now, where waiting for it is harmless.
    try run("BEGIN IMMEDIATE")
    isInTransaction = true
    defer { isInTransaction = false }
    do throws(StorageFailure) {
      let result = try body()
      try run("COMMIT")
      return result
    } catch {
      for statement in statements.values { statement.reset() }
      // SQLite may have rolled back by itself (disk full).
      if sqlite3_get_autocommit(handle) == 0 {
        do throws(StorageFailure) { try run("ROLLBACK") } catch { isBroken = true }
      }
      throw error
    }
  }

  // MARK: Failures

  func failure(_ code: Int32) -> StorageFailure {
    let message = unsafe String(cString: sqlite3_errmsg(handle))
    let kind: StorageFailure.Kind =
      switch code & 0xff {
      case SQLITE_CANTOPEN, SQLITE_PERM, SQLITE_AUTH: .cannotOpen
      case SQLITE_NOTADB: .notADatabase
      case SQLITE_CORRUPT: .corrupt
      case SQLITE_BUSY, SQLITE_LOCKED: .busy
      case SQLITE_READONLY: .readOnly
      case SQLITE_FULL: .full
      case SQLITE_IOERR: .inputOutput
      case SQLITE_CONSTRAINT: .constraint
      default: .other(code)
      }
    return StorageFailure(kind, path: path, message: message)
  }
}

/// A prepared statement: bind from 1, step, read columns from 0, reset.
package final class Statement {
  private let raw: OpaquePointer
  private unowned let database: Database

  fileprivate init(_ raw: OpaquePointer, database: Database) {
    self.raw = raw
    self.database = database
  }

  deinit { sqlite3_finalize(raw) }

  package func bind(_ index: Int, _ value: Int64) throws(StorageFailure) {
    try check(sqlite3_bind_int64(raw, Int32(index), value))
  }

  /// Kept as the signed number of the same bits: order is not kept above 2^63.
  package func bind(_ index: Int, _ value: UInt64) throws(StorageFailure) {
    try bind(index, Int64(bitPattern: value))
  }

  package func bind(_ index: Int, _ value: String) throws(StorageFailure) {
    let bytes = Array(value.utf8)
    let code = unsafe bytes.withUnsafeBufferPointer { buffer in
      unsafe buffer.withMemoryRebound(to: CChar.self) {
        unsafe martlet_sqlite_bind_text(
          raw, Int32(index), $0.baseAddress ?? emptyText, Int32($0.count))
      }
    }
    try check(code)
  }

  package func bind(_ index: Int, _ value: [UInt8]?) throws(StorageFailure) {
    guard let value else { return try check(sqlite3_bind_null(raw, Int32(index))) }
    guard value.count <= StorageLimits.value else {
      throw StorageFailure(.full, path: database.path, message: "a value is too large")
    }
    try check(unsafe martlet_sqlite_bind_blob(raw, Int32(index), value, Int32(value.count)))
  }

  /// The next row; false when there is none.
  package func step() throws(StorageFailure) -> Bool {
    let result = sqlite3_step(raw)
    switch result {
    case SQLITE_ROW: return true
    case SQLITE_DONE:
      reset()
      return false
    default:
      let failure = database.failure(result)
      reset()
      throw failure
    }
  }

  /// Runs a statement that has no rows.
  package func run() throws(StorageFailure) {
    while try step() {}
  }

  package func integer(_ column: Int) -> Int64 { sqlite3_column_int64(raw, Int32(column)) }
  package func unsigned(_ column: Int) -> UInt64 { UInt64(bitPattern: integer(column)) }
  package func isNull(_ column: Int) -> Bool {
    sqlite3_column_type(raw, Int32(column)) == SQLITE_NULL
  }

  package func text(_ column: Int) -> String { String(decoding: bytes(column), as: UTF8.self) }

  package func bytes(_ column: Int) -> [UInt8] {
    guard let start = unsafe sqlite3_column_blob(raw, Int32(column)) else { return [] }
    let count = Int(sqlite3_column_bytes(raw, Int32(column)))
    return unsafe [UInt8](UnsafeRawBufferPointer(start: start, count: count))
  }

  func reset() {
    sqlite3_reset(raw)
    // Bound secrets do not linger in a statement that is kept.
    sqlite3_clear_bindings(raw)
  }

  private func check(_ code: Int32) throws(StorageFailure) {
    guard code == SQLITE_OK else { throw database.failure(code) }
  }
}

/// Something to point at for an empty string: NULL would bind NULL.
nonisolated(unsafe) private let emptyText: UnsafePointer<CChar> = {
  let byte = UnsafeMutablePointer<CChar>.allocate(capacity: 1)
  unsafe byte.initialize(to: 0)
  return unsafe UnsafePointer(byte)
}()
