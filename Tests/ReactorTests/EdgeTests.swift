import Bytes
import Reactor
import Testing

/// Lets resolvers through once a thread has ended. Joined by the first that comes.
private final class WorkerGate: @unchecked Sendable {
  private let lock = Lock(false)
  func wait(for thread: LoopThread) {
    lock.withLock { isOpen in
      if !isOpen { thread.join() }
      isOpen = true
    }
  }
}

@Suite struct EdgeTests {
  // MARK: Workers and names

  @Test func workerKeepsOrderAndAnswersOnTheLoop() throws {
    let loop = try EventLoop()
    let worker = try WorkerThread(name: "test worker")
    var answers: [Int] = []
    var allOnLoop = true
    for index in 0..<500 {
      #expect(
        worker.submit(for: loop, { index * 2 }) { value in
          answers.append(value)
          allOnLoop = allOnLoop && loop.isCurrent
        })
    }
    #expect(loop.run { answers.count == 500 })
    #expect(answers == (0..<500).map { $0 * 2 })
    #expect(allOnLoop)
    worker.close()
    #expect(!worker.submit {})
  }

  @Test func workerQueueIsBounded() throws {
    let loop = try EventLoop()
    let worker = try WorkerThread(name: "test worker", limit: 3)
    let (gate, gateThread) = try LoopThread.running(name: "gate")
    // The only thread waits for the gate's thread to end, so the queue fills.
    #expect(worker.submit { gateThread.join() })
    var accepted = 0
    var done = 0
    for _ in 0..<10 where worker.submit(for: loop, {}, completion: { done += 1 }) { accepted += 1 }
    #expect(accepted == 2 || accepted == 3)
    gate.stop()
    #expect(loop.run { done == accepted })
    worker.close()
    #expect(worker.queued == 0)
  }

  @Test func literalsAndLocalhostNeedNoResolver() throws {
    let loop = try EventLoop()
    let names = try NameLookup(loop)
    let table: [(String, Result<[IPAddress], LookupFailure>)] = [
      ("127.0.0.1", .success([.loopbackV4])),
      ("::1", .success([.loopbackV6])),
      ("[::1]", .success([.loopbackV6])),
      ("localhost", .success([.loopbackV4, .loopbackV6])),
      ("LocalHost.", .success([.loopbackV4, .loopbackV6])),
      ("a.localhost", .success([.loopbackV4, .loopbackV6])),
      ("", .failure(.invalidName)),
      ("a b", .failure(.invalidName)),
      ("[1.2.3.4]", .failure(.invalidName)),
      ("x:y", .failure(.invalidName)),
      (String(repeating: "a", count: 300), .failure(.invalidName)),
    ]
    for (host, expected) in table {
      var answer: Result<[IPAddress], LookupFailure>?
      names.resolve(host) { answer = $0 }
      #expect(answer == nil, "\(host)")
      #expect(loop.run { answer != nil }, "\(host)")
      #expect(answer == expected, "\(host)")
    }
    #expect(names.pending == 0)
    #expect(loop.timerCount == 0)
    names.close()
  }

  @Test func everyQuestionEnds() throws {
    let loop = try EventLoop()
    let (gate, gateThread) = try LoopThread.running(name: "gate")
    // A resolver that answers nobody before the gate opens.
    let first = WorkerGate()
    let names = try NameLookup(loop) { host in
      first.wait(for: gateThread)
      return host == "good" ? .success([.loopbackV4]) : .failure(.notFound("no"))
    }
    var answers = 0
    var busy = 0
    var late = 0
    for index in 0..<200 {
      names.resolve("n\(index)", timeout: .milliseconds(20)) { result in
        answers += 1
        if result == .failure(.busy) { busy += 1 }
        if result == .failure(.timedOut) { late += 1 }
      }
    }
    let cancelled = names.resolve("n1") { _ in answers += 1000 }
    names.cancel(cancelled)
    #expect(loop.run { answers >= 200 })
    #expect(answers == 200)
    #expect(busy + late == 200)
    #expect(busy >= 200 - ReactorLimits.lookupQueue - ReactorLimits.lookupThreads)
    #expect(late >= ReactorLimits.lookupQueue)
    #expect(names.pending == 0)
    gate.stop()
    var good: Result<[IPAddress], LookupFailure>?
    // The queue empties without asking the late ones.
    var bad: Result<[IPAddress], LookupFailure>?
    func ask(_ host: String, _ told: @escaping (Result<[IPAddress], LookupFailure>) -> Void) {
      names.resolve(host) { $0 == .failure(.busy) ? ask(host, told) : told($0) }
    }
    ask("good") { good = $0 }
    ask("bad") { bad = $0 }
    #expect(loop.run { good != nil && bad != nil })
    #expect(good == .success([.loopbackV4]))
    #expect(bad == .failure(.notFound("no")))
    names.close()
    #expect(loop.timerCount == 0)
  }

  @Test func hostsFileIsAsked() throws {
    // Only where that file has the name: nothing may go to a server.
    let hosts = String(decoding: try Files.read("/etc/hosts", limit: 1 << 20), as: UTF8.self)
    guard hosts.contains("ip6-localhost") else { return }
    let loop = try EventLoop()
    let names = try NameLookup(loop)
    var answer: Result<[IPAddress], LookupFailure>?
    names.resolve("ip6-localhost") { answer = $0 }
    #expect(loop.run { answer != nil })
    #expect(answer == .success([.loopbackV6]))
    names.close()
  }

  // MARK: Netlink

  @Test func loopbackIsAmongTheInterfaces() throws {
    let all = try NetworkInterfaces.current()
    let loopback = try #require(all.first { $0.isLoopback })
    #expect(loopback.isUp)
    #expect(loopback.name == "lo")
    #expect(loopback.mtu > 1000)
    #expect(
      loopback.addresses.contains { $0.address == .loopbackV4 && $0.prefix == 8 && !$0.isTentative }
    )
    #expect(Set(all.map(\.index)).count == all.count)
    _ = try NetworkInterfaces.defaultRoutes()
  }

  @Test func monitorOpensAndCloses() throws {
    let loop = try EventLoop()
    let before = loop.descriptorCount
    let monitor = try NetworkMonitor(loop) {}
    #expect(loop.descriptorCount == before + 1)
    monitor.close()
    monitor.close()
    #expect(loop.descriptorCount == before)
  }

  @Test func ownerOfALoopbackConnectionIsKnown() throws {
    let loop = try EventLoop()
    for address in [loopback4, loopback6] {
      var uid: UInt32?
      var asked = false
      var strange: UInt32? = 1
      let listener = try StreamListener(loop, on: address) { connection in
        guard let local = connection.local, let remote = connection.remote else { return }
        do throws(SystemError) {
          uid = try NetworkInterfaces.userID(ofLoopbackConnection: local, remote: remote)
          strange = try NetworkInterfaces.userID(
            ofLoopbackConnection: local, remote: Endpoint(remote.address, 1))
        } catch {
          Issue.record("\(error)")
        }
        asked = true
        connection.close()
      }
      let script = StreamScript()
      let client = try StreamConnection.connect(loop, to: listener.local!, delegate: script)
      #expect(loop.run { asked })
      #expect(uid == ProcessSettings.userID)
      #expect(strange == nil)
      client.close()
      listener.close()
    }
  }

  // MARK: Files

  private func directory(_ name: String) throws -> String {
    let path = "/tmp/martlet-test-\(ProcessSettings.processID)-\(name)/a/b"
    try Files.makeDirectory(path)
    return path
  }

  @Test func filesAreReplacedWhole() throws {
    let path = try directory("files") + "/state"
    #expect(!Files.exists(path))
    for size in [0, 1, 65_535, 65_536, 65_537, 300_000] {
      try Files.write(path, pattern(size))
      #expect(try Files.read(path, limit: size) == pattern(size))
      #expect(Files.permissions(path) == 0o600)
    }
    try Files.write(path, pattern(10), mode: 0o644)
    #expect(Files.permissions(path) == 0o644)
    #expect(throws: FileFailure.tooLarge(path: path, limit: 9)) { try Files.read(path, limit: 9) }
    #expect(try Files.list(try directory("files")) == ["state"])
    try Files.remove(path)
    try Files.remove(path)
    do throws(FileFailure) {
      _ = try Files.read(path, limit: 9)
      Issue.record("read a removed file")
    } catch {
      #expect(error.isNotFound)
      #expect("\(error)" == "\(path): open: No such file or directory (ENOENT)")
    }
    #expect(throws: FileFailure.self) { try Files.write("/proc/martlet/none", [1]) }
  }

  @Test func directoriesAreMadeInDepthAndPrivate() throws {
    let path = try directory("deep") + "/c/d"
    try Files.makeDirectory(path)
    try Files.makeDirectory(path)
    #expect(Files.isDirectory(path))
    #expect(Files.permissions(path) == 0o700)
    try Files.write(path + "/file", [1])
    #expect(throws: FileFailure.self) { try Files.makeDirectory(path + "/file") }
    #expect(throws: FileFailure.self) { try Files.makeDirectory(path + "/file/x") }
    try Files.remove(path + "/file")
  }

  @Test func lockHasOneHolder() throws {
    let path = try directory("lock") + "/lock"
    let lock = try LockFile(path)
    #expect(throws: FileFailure.locked(path: path, by: ProcessSettings.processID)) {
      try LockFile(path)
    }
    lock.release()
    let again = try LockFile(path)
    again.release()
  }

  // MARK: Process

  @Test func processFactsAreThere() throws {
    #expect(ProcessSettings.systemName == "Linux")
    #expect(!ProcessSettings.hostName.isEmpty)
    #expect(!ProcessSettings.machine.isEmpty)
    let a = try ProcessSettings.randomBytes(64)
    #expect(a.count == 64)
    #expect(try ProcessSettings.randomBytes(64) != a)
    #expect(try ProcessSettings.randomBytes(0).isEmpty)
  }
}
