// Host names to addresses. getaddrinfo blocks, so it has threads of its own;
// literals and localhost never get there (RFC 6761 §6.3), because an empty
// chroot has no files to look them up in. Every question ends: with addresses,
// with an error, or at its deadline.

package import Bytes
internal import CLinux

/// Why a name gave no addresses.
package enum LookupFailure: Error, Sendable, Equatable {
  /// Not a host name: empty, too long, or with bytes no name has.
  case invalidName
  /// The resolver's words: no such name, no server.
  case notFound(String)
  case timedOut
  /// Too many questions wait already.
  case busy
}

/// Looks names up for one loop.
package final class NameLookup {
  /// Names a question.
  package struct Token: Hashable, Sendable { let id: UInt64 }

  private struct Question {
    var completion: (Result<[IPAddress], LookupFailure>) -> Void
    var timer: TimerToken
  }

  private let loop: EventLoop
  private let worker: WorkerThread
  private let resolver: Resolver
  private var questions: [UInt64: Question] = [:]
  private var lastID: UInt64 = 0

  /// Asks for one name and blocks; runs on any of the lookup threads.
  package typealias Resolver = @Sendable (String) -> Result<[IPAddress], LookupFailure>

  /// - Parameter resolver: getaddrinfo unless a test wants another.
  package init(
    _ loop: EventLoop, resolver: @escaping Resolver = NameLookup.systemResolver
  ) throws(SystemError) {
    self.loop = loop
    self.resolver = resolver
    worker = try WorkerThread(
      name: "name lookup", threads: ReactorLimits.lookupThreads, limit: ReactorLimits.lookupQueue)
  }

  /// Drops the open questions and lets the threads end; does not wait for a
  /// resolver that is stuck.
  package func close() {
    for question in questions.values { loop.cancel(question.timer) }
    questions.removeAll()
    worker.abandon()
  }

  /// Questions not answered yet.
  package var pending: Int { questions.count }

  /// Asks for the addresses of `host`, in the resolver's order, at most 16. The
  /// answer always comes later, on the loop, never inside this call.
  /// - Parameter host: a name, a literal address, or `[v6]`.
  @discardableResult
  package func resolve(
    _ host: String, timeout: TimeAmount = ReactorLimits.lookupTimeout,
    completion: @escaping (Result<[IPAddress], LookupFailure>) -> Void
  ) -> Token {
    lastID += 1
    let id = lastID
    if let known = Self.known(host) {
      let timer = loop.schedule(at: loop.now) { [weak self] in self?.answer(id, known) }
      questions[id] = Question(completion: completion, timer: timer)
      return Token(id: id)
    }
    let deadline = EventLoop.clock() + timeout
    let resolver = resolver
    let isQueued = worker.submit(
      for: loop,
      {
        // Nobody waits any more: do not hold up the others.
        EventLoop.clock() < deadline ? resolver(host) : .failure(.timedOut)
      }, completion: { [weak self] in self?.answer(id, $0) })
    let timer = loop.schedule(at: isQueued ? deadline : loop.now) { [weak self] in
      self?.answer(id, .failure(isQueued ? .timedOut : .busy))
    }
    questions[id] = Question(completion: completion, timer: timer)
    return Token(id: id)
  }

  /// Forgets a question; its completion is not called.
  package func cancel(_ token: Token) {
    guard let question = questions.removeValue(forKey: token.id) else { return }
    loop.cancel(question.timer)
  }

  private func answer(_ id: UInt64, _ result: Result<[IPAddress], LookupFailure>) {
    guard let question = questions.removeValue(forKey: id) else { return }
    loop.cancel(question.timer)
    question.completion(result)
  }

  /// Answers that need no resolver.
  package static func known(_ host: String) -> Result<[IPAddress], LookupFailure>? {
    let name = host.utf8
    guard !name.isEmpty, name.count <= ReactorLimits.hostNameBytes + 2,
      name.allSatisfy({ $0 > 0x20 && $0 != 0x7f })
    else { return .failure(.invalidName) }
    if host.hasPrefix("["), host.hasSuffix("]") {
      guard host.contains(":"), let address = IPAddress(host.dropFirst().dropLast()) else {
        return .failure(.invalidName)
      }
      return .success([address])
    }
    if let address = IPAddress(host) { return .success([address]) }
    if host.contains(":") { return .failure(.invalidName) }
    let lower = (host.hasSuffix(".") ? String(host.dropLast()) : host).lowercased()
    if lower == "localhost" || lower.hasSuffix(".localhost") {
      return .success([.loopbackV4, .loopbackV6])
    }
    // Never exists (RFC 6761 §6.4).
    if lower == "invalid" || lower.hasSuffix(".invalid") {
      return .failure(.notFound("no such name"))
    }
    return nil
  }

  /// getaddrinfo: etc/hosts, then DNS, as the system is set up.
  package static func systemResolver(_ host: String) -> Result<[IPAddress], LookupFailure> {
    unsafe withUnsafeTemporaryAllocation(
      of: martlet_endpoint.self, capacity: ReactorLimits.addressesPerName
    ) { buffer in
      let count = unsafe martlet_lookup(host, buffer.baseAddress, Int32(buffer.count))
      guard count > 0 else {
        let words =
          count == 0 ? "no address" : unsafe String(cString: martlet_lookup_text(count))
        return .failure(.notFound(words))
      }
      var addresses: [IPAddress] = []
      for index in 0..<Int(count) {
        let address = unsafe buffer[index].address
        if !addresses.contains(address) { addresses.append(address) }
      }
      return .success(addresses)
    }
  }
}
