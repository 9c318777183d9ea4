/// The server's records on a thread of their own: written in order, in one
/// transaction per batch, and all on disk when `close` returns.

internal import Bytes
internal import Reactor
internal import ServerCore
internal import Storage

final class ServerStorage {
  /// The one user of the store after the start is the worker's thread.
  private final class Owner: @unchecked Sendable {
    let store: ServerStore
    init(_ store: ServerStore) { self.store = store }
  }

  private let owner: Owner
  private let worker: WorkerThread
  private var pending: [StoredRecord] = []
  /// What was stored before this start.
  let initialRecords: [StoreRecord]
  /// Random bytes of this server, made once.
  let salt: [UInt8]

  init(path: String, random: inout SeededRandom) throws(ServerStartFailure) {
    let parts: (ServerStore, [StoreRecord], [UInt8])
    do throws(StorageFailure) {
      parts = try Self.open(path, &random)
    } catch {
      throw ServerStartFailure("\(error)")
    }
    (owner, initialRecords, salt) = (Owner(parts.0), parts.1, parts.2)
    do throws(SystemError) {
      worker = try WorkerThread(name: "storage", threads: 1, limit: 4096)
    } catch {
      throw ServerStartFailure("no thread for the storage: \(error)")
    }
  }

  private static func open(
    _ path: String, _ random: inout SeededRandom
  ) throws(StorageFailure) -> (ServerStore, [StoreRecord], [UInt8]) {
    let store = try ServerStore(path: path)
    let records = try store.records().compactMap { record in
      StoreRecord.Kind(rawValue: record.kind).map {
        StoreRecord(kind: $0, key: record.key, value: record.value)
      }
    }
    if let known = try store.setting("salt") { return (store, records, known) }
    let salt = random.bytes(32)
    try store.set("salt", to: salt)
    return (store, records, salt)
  }

  func write(_ record: StoreRecord) {
    pending.append(
      StoredRecord(kind: record.kind.rawValue, key: record.key, value: record.value))
  }

  /// Blocking; only before the first `flush`, while no other thread uses the store.
  func applyAtStart(_ records: [StoreRecord]) throws(StorageFailure) {
    try owner.store.apply(
      records.map { StoredRecord(kind: $0.kind.rawValue, key: $0.key, value: $0.value) })
  }

  func flush() {
    guard !pending.isEmpty else { return }
    let records = pending
    let owner = owner
    let isQueued = worker.submit {
      do throws(StorageFailure) {
        try owner.store.apply(records)
      } catch {
        ServerLog.emergency("the database cannot be written: \(error)")
      }
    }
    // A full queue keeps them for the next batch.
    if isQueued { pending.removeAll(keepingCapacity: true) }
  }

  func close() {
    flush()
    worker.close()
  }

  /// Without a running server: removes the nodes of that name.
  /// - Returns: how many there were.
  static func forget(node: String, mesh: String?, path: String) throws(StorageFailure) -> Int {
    let store = try ServerStore(path: path)
    var deletions: [StoredRecord] = []
    for record in try store.records() where record.kind == StoreRecord.Kind.node.rawValue {
      var reader = ByteReader(record.key.span.bytes)
      guard let itsMesh = reader.string16(limit: 255), let name = reader.string16(limit: 255),
        name == node, mesh == nil || mesh == itsMesh
      else { continue }
      deletions.append(StoredRecord(kind: record.kind, key: record.key, value: nil))
    }
    try store.apply(deletions)
    return deletions.count
  }
}
