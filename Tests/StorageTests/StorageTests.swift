import FoundationEssentials
import Storage
import Testing

/// A directory of its own for one test.
private struct Scratch: ~Copyable {
  let directory: String

  init() throws {
    directory =
      FileManager.default.temporaryDirectory.path
      + "/martlet-storage-\(UInt64.random(in: 0 ... .max))"
    try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
  }

  deinit {
    // Left behind when that fails: it is only a test's.
    _ = try? FileManager.default.removeItem(atPath: directory)
  }

  func file(_ name: String) -> String { directory + "/" + name }
}

private func kind(_ body: () throws -> Void) -> StorageFailure.Kind? {
  do {
    try body()
    return nil
  } catch {
    return (error as? StorageFailure)?.kind
  }
}

@Test func recordsOutliveTheProcess() throws {
  let scratch = try Scratch()
  let path = scratch.file("server.db")
  do {
    let store = try ServerStore(path: path)
    try store.apply([
      StoredRecord(kind: 2, key: [1, 2], value: [9]), StoredRecord(kind: 1, key: [], value: []),
      StoredRecord(kind: 2, key: [1], value: [UInt8](repeating: 7, count: 100_000)),
    ])
    try store.apply([
      StoredRecord(kind: 2, key: [1, 2], value: [8]), StoredRecord(kind: 9, key: [0], value: nil),
    ])
  }
  let store = try ServerStore(path: path)
  #expect(
    try store.records() == [
      StoredRecord(kind: 1, key: [], value: []),
      StoredRecord(kind: 2, key: [1], value: [UInt8](repeating: 7, count: 100_000)),
      StoredRecord(kind: 2, key: [1, 2], value: [8]),
    ])
  try store.apply([StoredRecord(kind: 2, key: [1], value: nil)])
  #expect(try store.records().count == 2)
}

@Test func onlyTheOwnerMayReadTheFile() throws {
  let scratch = try Scratch()
  let path = scratch.file("server.db")
  let store = try ServerStore(path: path)
  try store.set("x", to: [1])
  for file in [path, path + "-wal", path + "-shm"] {
    let attributes = try FileManager.default.attributesOfItem(atPath: file)
    #expect(
      attributes[.posixPermissions] as? UInt == 0o600
        || attributes[.posixPermissions] as? Int == 0o600, "\(file)")
  }
}

/// A kill -9 leaves the database and its log as they are at that moment.
@Test func aCrashInTheMiddleOfATransactionUndoesOnlyThat() throws {
  let scratch = try Scratch()
  let path = scratch.file("server.db")
  let store = try ServerStore(path: path)
  for i in 0..<50 { try store.apply([StoredRecord(kind: 1, key: [UInt8(i)], value: [UInt8(i)])]) }
  var copied = false
  try store.database.transaction { () throws(StorageFailure) in
    for i in 0..<200 {
      try store.apply([
        StoredRecord(kind: 2, key: [UInt8(i)], value: [UInt8](repeating: 1, count: 20_000))
      ])
    }
    copied =
      (try? FileManager.default.copyItem(atPath: path, toPath: scratch.file("crash.db"))) != nil
      && (try? FileManager.default.copyItem(
        atPath: path + "-wal", toPath: scratch.file("crash.db-wal"))) != nil
  }
  #expect(copied)
  let after = try ServerStore(path: scratch.file("crash.db"))
  #expect(try after.records().count == 50)
  #expect(try after.records().allSatisfy { $0.kind == 1 })
  #expect(try store.records().count == 250)
}

/// The log may end anywhere: every commit is there whole or not at all.
@Test func aLogCutAnywhereYieldsAPrefixOfTheCommits() throws {
  let scratch = try Scratch()
  let path = scratch.file("server.db")
  let store = try ServerStore(path: path)
  for i in 0..<20 {
    try store.apply([
      StoredRecord(kind: 1, key: [UInt8(i), 0], value: [UInt8](repeating: 1, count: 3000)),
      StoredRecord(kind: 1, key: [UInt8(i), 1], value: [UInt8](repeating: 2, count: 3000)),
    ])
  }
  let main = try Data(contentsOf: URL(filePath: path))
  let log = try Data(contentsOf: URL(filePath: path + "-wal"))
  var last = 0
  for step in 0...40 {
    let cut = log.prefix(log.count * step / 40)
    let copy = scratch.file("cut\(step).db")
    try main.write(to: URL(filePath: copy))
    try cut.write(to: URL(filePath: copy + "-wal"))
    let records = try ServerStore(path: copy).records()
    #expect(records.count % 2 == 0 && records.count >= last, "log cut to \(cut.count)")
    for (position, record) in records.enumerated() {
      #expect(record.key == [UInt8(position / 2), UInt8(position % 2)])
    }
    last = records.count
  }
  #expect(last == 40)
}

@Test func aFailedTransactionLeavesNothing() throws {
  let store = try ServerStore(path: ":memory:")
  try store.addAPIKey(StoredAPIKey(name: "a", hash: [1], scopes: "all", created: 1))
  let failure = kind {
    try store.database.transaction { () throws(StorageFailure) in
      try store.set("left", to: [1])
      try store.addAPIKey(StoredAPIKey(name: "b", hash: [1], scopes: "all", created: 1))
    }
  }
  #expect(failure == .constraint)
  #expect(try store.setting("left") == nil)
  try store.set("next", to: [2])
  #expect(try store.setting("next") == [2])
}

@Test func aFileThatIsNoDatabaseIsRefusedAndKept() throws {
  let scratch = try Scratch()
  let path = scratch.file("server.db")
  let junk = Data((0..<5000).map { UInt8(truncatingIfNeeded: $0 &* 7) })
  try junk.write(to: URL(filePath: path))
  #expect(kind { _ = try ServerStore(path: path) } == .notADatabase)
  #expect(try Data(contentsOf: URL(filePath: path)) == junk)
}

@Test func aDamagedDatabaseIsReportedAndKept() throws {
  let scratch = try Scratch()
  let path = scratch.file("server.db")
  do {
    let store = try ServerStore(path: path)
    for i in 0..<100 {
      try store.apply([
        StoredRecord(kind: 1, key: [UInt8(i)], value: [UInt8](repeating: 3, count: 2000))
      ])
    }
  }
  var bytes = try Data(contentsOf: URL(filePath: path))
  for position in 4096..<(bytes.count - 100) where position % 3 == 0 { bytes[position] = 0xff }
  try bytes.write(to: URL(filePath: path))
  let failure = kind { _ = try ServerStore(path: path).records() }
  #expect(failure == .corrupt)
  #expect(try Data(contentsOf: URL(filePath: path)) == bytes)
  do {
    _ = try ServerStore(path: path)
  } catch {
    #expect("\(error)".contains("damaged") && "\(error)".contains(path))
  }
}

@Test func foreignAndNewerDatabasesAreRefused() throws {
  let scratch = try Scratch()
  let other = scratch.file("other.db")
  do {
    let database = try Database.open(other, application: 7)
    try database.run("CREATE TABLE t (x)")
  }
  #expect(kind { _ = try ServerStore(path: other) } == .foreign)
  let newer = scratch.file("newer.db")
  do {
    let store = try ServerStore(path: newer)
    try store.database.run("PRAGMA user_version = 1000")
  }
  #expect(kind { _ = try ServerStore(path: newer) } == .newerSchema(found: 1000, known: 1))
  #expect(kind { _ = try ServerStore(path: scratch.file("no/such/dir.db")) } == .cannotOpen)
  #expect(kind { _ = try ServerStore(path: scratch.directory) } == .cannotOpen)
  #expect(kind { _ = try ServerStore(path: "") } == .cannotOpen)
}

@Test func migrationsRunOnceAndInOrder() throws {
  let scratch = try Scratch()
  let path = scratch.file("m.db")
  let steps = [
    ["CREATE TABLE t (x INTEGER)"], ["INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)"],
  ]
  do {
    let database = try Database.open(path, application: 1)
    try database.migrate(Array(steps.prefix(1)))
  }
  let database = try Database.open(path, application: 1)
  try database.migrate(steps)
  try database.migrate(steps)
  let count = try database.statement("SELECT count(*) FROM t")
  #expect(try count.step())
  #expect(count.integer(0) == 2)
  // A step that fails changes nothing, the version included.
  #expect(kind { try database.migrate(steps + [["INSERT INTO t VALUES (3)", "nonsense"]]) } != nil)
  try database.migrate(steps)
  let again = try database.statement("SELECT count(*) FROM t")
  #expect(try again.step())
  #expect(again.integer(0) == 2)
}

@Test func twoProcessesShareAFile() throws {
  let scratch = try Scratch()
  let path = scratch.file("server.db")
  let one = try ServerStore(path: path)
  let two = try ServerStore(path: path)
  try one.set("a", to: [1])
  #expect(try two.setting("a") == [1])
  try two.set("a", to: nil)
  #expect(try one.setting("a") == nil)
}

@Test func settingsKeysAndSightingsAreKept() throws {
  let store = try ServerStore(path: ":memory:")
  try store.set("sdwan/a", to: Array("é".utf8))
  try store.set("sdwan/b", to: [])
  try store.set("tls", to: [1])
  #expect(try store.settings(prefix: "sdwan/").map(\.name) == ["sdwan/a", "sdwan/b"])
  #expect(try store.setting("sdwan/b") == [])
  #expect(try store.setting("sdwan") == nil)

  let key = StoredAPIKey(
    name: "ops", hash: [UInt8](repeating: 5, count: 32), scopes: "read", created: 10)
  try store.addAPIKey(key)
  #expect(kind { try store.addAPIKey(key) } == .constraint)
  try store.noteUse(ofAPIKey: "ops", at: 99)
  #expect(try store.apiKeys().map(\.lastUsed) == [99])
  #expect(try store.removeAPIKey("ops"))
  #expect(try !store.removeAPIKey("ops"))

  try store.note([
    StoredSighting(
      mesh: "m", node: "n", endpoint: "e", address: "1.2.3.4:5", firstSeen: 1, lastSeen: 1)
  ])
  try store.note([
    StoredSighting(mesh: "m", node: "n", endpoint: "", address: "", firstSeen: 7, lastSeen: 7)
  ])
  #expect(
    try store.sightings() == [
      StoredSighting(
        mesh: "m", node: "n", endpoint: "e", address: "1.2.3.4:5", firstSeen: 1, lastSeen: 7)
    ])
  try store.forgetSighting(mesh: "m", node: "n")
  #expect(try store.sightings().isEmpty)
  // Text that SQL could mistake for itself stays text.
  let odd = "'; DROP TABLE seen; -- \u{0}\u{1F426}"
  try store.set(odd, to: [1])
  #expect(try store.setting(odd) == [1])
  #expect(try store.settings(prefix: "").contains { $0.name == odd })
}

@Test func theEventLogKeepsTheNewest() throws {
  let store = try ServerStore(path: ":memory:", eventLimit: 100)
  for round in 0..<10 {
    try store.append(
      (0..<50).map {
        StoredEvent(
          time: Int64(round * 50 + $0), mesh: $0 % 2 == 0 ? "a" : "b", kind: "k", detail: "d")
      })
  }
  let all = try store.events(limit: 1000)
  #expect(all.count == 100)
  #expect(all.first?.time == 499 && all.last?.time == 400)
  #expect(try store.events(mesh: "a", limit: 10).allSatisfy { $0.mesh == "a" })
  let page = try store.events(before: all[9].id, limit: 10)
  #expect(page == Array(all[10..<20]))
  #expect(try store.events(limit: 0).isEmpty)
}

@Test func valuesHaveALimit() throws {
  let store = try ServerStore(path: ":memory:")
  let large = [UInt8](repeating: 0, count: StorageLimits.value)
  try store.set("x", to: large)
  #expect(kind { try store.set("x", to: large + [0]) } == .full)
  #expect(try store.setting("x")?.count == large.count)
}
