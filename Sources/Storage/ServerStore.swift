/// What a server keeps: the records of its machine (meshes with their
/// authority's secret, node bindings, eviction lists, relay usage), settings,
/// API keys (hashes only), when nodes were seen, and the newest events.
/// Blocking, for the server's storage thread. Values are opaque here: their
/// layouts belong to whoever writes them, and begin with a version.
///
/// ```
/// record  (kind, key) → value               one row per thing of the machine
/// setting name → value                      sdwan, apps, TLS pair, …
/// api_key name → hash, scopes, created, used
/// seen    (mesh, node) → endpoint, address, first, last
/// event   id → time, mesh, kind, detail     newest 10,000
/// ```

/// One row of the machine's state; nil deletes it.
package struct StoredRecord: Sendable, Equatable {
  package var kind: UInt8
  package var key: [UInt8]
  package var value: [UInt8]?

  package init(kind: UInt8, key: [UInt8], value: [UInt8]?) {
    self.kind = kind
    self.key = key
    self.value = value
  }
}

/// An API key without the key: it is only known to whom it was given.
package struct StoredAPIKey: Sendable, Equatable {
  package var name: String
  /// SHA-256 of the key.
  package var hash: [UInt8]
  /// What it may do, in the caller's words.
  package var scopes: String
  /// Seconds since 1970.
  package var created: Int64
  /// Seconds since 1970; 0 = never.
  package var lastUsed: Int64

  package init(name: String, hash: [UInt8], scopes: String, created: Int64, lastUsed: Int64 = 0) {
    self.name = name
    self.hash = hash
    self.scopes = scopes
    self.created = created
    self.lastUsed = lastUsed
  }
}

/// When and where a node was last online.
package struct StoredSighting: Sendable, Equatable {
  package var mesh: String
  package var node: String
  /// UUID text, or empty.
  package var endpoint: String
  package var address: String
  /// Seconds since 1970.
  package var firstSeen: Int64
  package var lastSeen: Int64

  package init(
    mesh: String, node: String, endpoint: String, address: String, firstSeen: Int64, lastSeen: Int64
  ) {
    self.mesh = mesh
    self.node = node
    self.endpoint = endpoint
    self.address = address
    self.firstSeen = firstSeen
    self.lastSeen = lastSeen
  }
}

/// One line of the event log.
package struct StoredEvent: Sendable, Equatable {
  /// Given by the store, rising; 0 in a new one.
  package var id: Int64
  /// Seconds since 1970.
  package var time: Int64
  /// Empty for events of the server itself.
  package var mesh: String
  package var kind: String
  /// In the caller's words (JSON or plain).
  package var detail: String

  package init(id: Int64 = 0, time: Int64, mesh: String, kind: String, detail: String) {
    self.id = id
    self.time = time
    self.mesh = mesh
    self.kind = kind
    self.detail = detail
  }
}

package final class ServerStore {
  package let database: Database
  private let eventLimit: Int

  /// `MRTL`.
  private static let application: Int32 = 0x4d52_544c

  /// Opens or creates; brings an older layout up to date.
  /// - Parameter eventLimit: newest events kept.
  package init(path: String, eventLimit: Int = StorageLimits.events) throws(StorageFailure) {
    database = try Database.open(path, application: Self.application)
    self.eventLimit = eventLimit
    try database.migrate(Self.layout)
  }

  /// Append only: a released step is never edited.
  private static let layout: [[String]] = [
    [
      """
      CREATE TABLE record (
        kind INTEGER NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL,
        PRIMARY KEY (kind, key)) WITHOUT ROWID
      """,
      "CREATE TABLE setting (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
      """
      CREATE TABLE api_key (
        name TEXT PRIMARY KEY, hash BLOB NOT NULL UNIQUE, scopes TEXT NOT NULL,
        created INTEGER NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID
      """,
      """
      CREATE TABLE seen (
        mesh TEXT NOT NULL, node TEXT NOT NULL, endpoint TEXT NOT NULL, address TEXT NOT NULL,
        first INTEGER NOT NULL, last INTEGER NOT NULL, PRIMARY KEY (mesh, node)) WITHOUT ROWID
      """,
      """
      CREATE TABLE event (
        id INTEGER PRIMARY KEY AUTOINCREMENT, time INTEGER NOT NULL, mesh TEXT NOT NULL,
        kind TEXT NOT NULL, detail TEXT NOT NULL)
      """,
    ]
  ]

  // MARK: Records

  /// Every record, by kind and key.
  package func records() throws(StorageFailure) -> [StoredRecord] {
    let statement = try database.statement("SELECT kind, key, value FROM record ORDER BY kind, key")
    var found: [StoredRecord] = []
    while try statement.step() {
      found.append(
        StoredRecord(
          kind: UInt8(truncatingIfNeeded: statement.integer(0)), key: statement.bytes(1),
          value: statement.bytes(2)))
    }
    return found
  }

  /// Writes and deletes, in order, all or nothing; on stable storage when it returns.
  package func apply(_ records: [StoredRecord]) throws(StorageFailure) {
    guard !records.isEmpty else { return }
    try database.transaction { () throws(StorageFailure) in
      for record in records {
        let statement = try database.statement(
          record.value == nil
            ? "DELETE FROM record WHERE kind = ?1 AND key = ?2"
            : "INSERT OR REPLACE INTO record (kind, key, value) VALUES (?1, ?2, ?3)")
        try statement.bind(1, Int64(record.kind))
        try statement.bind(2, record.key)
        if let value = record.value { try statement.bind(3, value) }
        try statement.run()
      }
    }
  }

  // MARK: Settings

  package func setting(_ name: String) throws(StorageFailure) -> [UInt8]? {
    let statement = try database.statement("SELECT value FROM setting WHERE name = ?1")
    try statement.bind(1, name)
    defer { statement.reset() }
    return try statement.step() ? statement.bytes(0) : nil
  }

  /// nil removes.
  package func set(_ name: String, to value: [UInt8]?) throws(StorageFailure) {
    try database.transaction { () throws(StorageFailure) in
      let statement = try database.statement(
        value == nil
          ? "DELETE FROM setting WHERE name = ?1"
          : "INSERT OR REPLACE INTO setting (name, value) VALUES (?1, ?2)")
      try statement.bind(1, name)
      if let value { try statement.bind(2, value) }
      try statement.run()
    }
  }

  /// Names that begin with `prefix`, sorted, with their values.
  package func settings(
    prefix: String
  ) throws(StorageFailure) -> [(name: String, value: [UInt8])] {
    let statement = try database.statement("SELECT name, value FROM setting ORDER BY name")
    var found: [(name: String, value: [UInt8])] = []
    while try statement.step() {
      let name = statement.text(0)
      if name.utf8.starts(with: prefix.utf8) { found.append((name, statement.bytes(1))) }
    }
    return found
  }

  // MARK: API keys

  /// `.constraint` when the name or the hash is taken.
  package func addAPIKey(_ key: StoredAPIKey) throws(StorageFailure) {
    try database.transaction { () throws(StorageFailure) in
      let statement = try database.statement(
        "INSERT INTO api_key (name, hash, scopes, created, used) VALUES (?1, ?2, ?3, ?4, ?5)")
      try statement.bind(1, key.name)
      try statement.bind(2, key.hash)
      try statement.bind(3, key.scopes)
      try statement.bind(4, key.created)
      try statement.bind(5, key.lastUsed)
      try statement.run()
    }
  }

  /// By name. Few: the caller keeps them in memory and compares hashes.
  package func apiKeys() throws(StorageFailure) -> [StoredAPIKey] {
    let statement = try database.statement(
      "SELECT name, hash, scopes, created, used FROM api_key ORDER BY name")
    var found: [StoredAPIKey] = []
    while try statement.step() {
      found.append(
        StoredAPIKey(
          name: statement.text(0), hash: statement.bytes(1), scopes: statement.text(2),
          created: statement.integer(3), lastUsed: statement.integer(4)))
    }
    return found
  }

  /// - Returns: whether there was one of that name.
  package func removeAPIKey(_ name: String) throws(StorageFailure) -> Bool {
    try database.transaction { () throws(StorageFailure) in
      let statement = try database.statement("DELETE FROM api_key WHERE name = ?1")
      try statement.bind(1, name)
      try statement.run()
      return database.changes > 0
    }
  }

  package func noteUse(ofAPIKey name: String, at time: Int64) throws(StorageFailure) {
    try database.transaction(.normal) { () throws(StorageFailure) in
      let statement = try database.statement("UPDATE api_key SET used = ?2 WHERE name = ?1")
      try statement.bind(1, name)
      try statement.bind(2, time)
      try statement.run()
    }
  }

  // MARK: Sightings

  /// Notes nodes seen; `firstSeen` counts for new ones only. An empty endpoint
  /// or address keeps what was known.
  package func note(_ sightings: [StoredSighting]) throws(StorageFailure) {
    guard !sightings.isEmpty else { return }
    try database.transaction(.normal) { () throws(StorageFailure) in
      for sighting in sightings {
        let statement = try database.statement(
          """
          INSERT INTO seen (mesh, node, endpoint, address, first, last)
          VALUES (?1, ?2, ?3, ?4, ?5, ?6)
          ON CONFLICT (mesh, node) DO UPDATE SET last = max(last, ?6),
            endpoint = CASE ?3 WHEN '' THEN endpoint ELSE ?3 END,
            address = CASE ?4 WHEN '' THEN address ELSE ?4 END
          """)
        try statement.bind(1, sighting.mesh)
        try statement.bind(2, sighting.node)
        try statement.bind(3, sighting.endpoint)
        try statement.bind(4, sighting.address)
        try statement.bind(5, sighting.firstSeen)
        try statement.bind(6, sighting.lastSeen)
        try statement.run()
      }
    }
  }

  /// By mesh and node.
  package func sightings() throws(StorageFailure) -> [StoredSighting] {
    let statement = try database.statement(
      "SELECT mesh, node, endpoint, address, first, last FROM seen ORDER BY mesh, node")
    var found: [StoredSighting] = []
    while try statement.step() {
      found.append(
        StoredSighting(
          mesh: statement.text(0), node: statement.text(1), endpoint: statement.text(2),
          address: statement.text(3), firstSeen: statement.integer(4),
          lastSeen: statement.integer(5)
        ))
    }
    return found
  }

  package func forgetSighting(mesh: String, node: String) throws(StorageFailure) {
    try database.transaction { () throws(StorageFailure) in
      let statement = try database.statement("DELETE FROM seen WHERE mesh = ?1 AND node = ?2")
      try statement.bind(1, mesh)
      try statement.bind(2, node)
      try statement.run()
    }
  }

  // MARK: Events

  /// Appends events and drops the oldest beyond the limit.
  package func append(_ events: [StoredEvent]) throws(StorageFailure) {
    guard !events.isEmpty else { return }
    try database.transaction(.normal) { () throws(StorageFailure) in
      for event in events {
        let statement = try database.statement(
          "INSERT INTO event (time, mesh, kind, detail) VALUES (?1, ?2, ?3, ?4)")
        try statement.bind(1, event.time)
        try statement.bind(2, event.mesh)
        try statement.bind(3, event.kind)
        try statement.bind(4, event.detail)
        try statement.run()
      }
      let statement = try database.statement(
        "DELETE FROM event WHERE id <= (SELECT max(id) FROM event) - ?1")
      try statement.bind(1, Int64(eventLimit))
      try statement.run()
    }
  }

  /// Events, newest first.
  /// - Parameters:
  ///   - mesh: nil for all.
  ///   - before: only those with a smaller id (to page back).
  package func events(
    mesh: String? = nil, before: Int64 = .max, limit: Int
  ) throws(StorageFailure) -> [StoredEvent] {
    let statement = try database.statement(
      """
      SELECT id, time, mesh, kind, detail FROM event
      WHERE id < ?1 AND (?2 = 0 OR mesh = ?3) ORDER BY id DESC LIMIT ?4
      """)
    try statement.bind(1, before)
    try statement.bind(2, mesh == nil ? Int64(0) : 1)
    try statement.bind(3, mesh ?? "")
    try statement.bind(4, Int64(max(0, min(limit, eventLimit))))
    var found: [StoredEvent] = []
    while try statement.step() {
      found.append(
        StoredEvent(
          id: statement.integer(0), time: statement.integer(1), mesh: statement.text(2),
          kind: statement.text(3), detail: statement.text(4)))
    }
    return found
  }
}
