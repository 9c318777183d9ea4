/// What survives a restart: reading it back, and writing serial numbers ahead.
#if canImport(Bytes)
  internal import Bytes
#endif
#if canImport(Relay)
  internal import Relay
#endif
#if canImport(Signaling)
  internal import Signaling
#endif

/// Stored rows, decoded; what does not decode is named and left alone.
struct LoadedRecords {
  var authorities: [String: AuthorityRecord] = [:]
  var nodes: [String: [NodeRecord]] = [:]
  var evictions: [String: EvictionList] = [:]
  var usages: [String: UsageRecord] = [:]
  var bad: [StoreRecord.Kind] = []

  init(_ records: [StoreRecord]) {
    for record in records where record.value != nil {
      switch record.kind {
      case .authority:
        guard let value = AuthorityRecord(record) else {
          bad.append(.authority)
          continue
        }
        authorities[value.mesh] = value
      case .node:
        guard let value = NodeRecord(record) else {
          bad.append(.node)
          continue
        }
        nodes[value.mesh, default: []].append(value)
      case .evictions:
        guard let list = Self.evictionList(record) else {
          bad.append(.evictions)
          continue
        }
        evictions[list.mesh] = list
      case .usage:
        guard let value = UsageRecord(record) else {
          bad.append(.usage)
          continue
        }
        usages[value.mesh] = value
      }
    }
  }

  private static func evictionList(_ record: StoreRecord) -> EvictionList? {
    guard let value = record.value else { return nil }
    do { return try EvictionList(decoding: value) } catch { return nil }
  }
}

extension CoordinationServer {
  func loadMembers(_ index: Int, _ loaded: inout LoadedRecords) {
    let authority = meshes[index].authority.publicKey
    // In the order of serials: where a crash left one key under two names, the
    // later certificate is the true one.
    var found: [(NodeRecord, Certificate)] = []
    for record in loaded.nodes[meshes[index].name] ?? [] {
      do {
        let certificate = try Certificate(verifying: record.certificate, authority: authority)
        found.append((record, certificate))
      } catch {
        loaded.bad.append(.node)
      }
    }
    found.sort { $0.1.serial < $1.1.serial }
    for (record, certificate) in found.suffix(ServerLimits.members) {
      if let earlier = meshes[index].memberOfKey[record.staticKey] {
        meshes[index].members[earlier.name] = nil
        store(NodeRecord.deletion(mesh: record.mesh, node: earlier.name))
      }
      insert(
        ServerMember(
          number: nextMember, mesh: index, name: record.node, staticKey: record.staticKey,
          secret: record.secret, certificate: certificate))
    }
  }

  func insert(_ member: ServerMember) {
    nextMember += 1
    meshes[member.mesh].members[member.name] = member
    meshes[member.mesh].memberOfKey[member.staticKey] = member
  }

  func storeMember(_ member: ServerMember) {
    store(
      NodeRecord(
        mesh: meshes[member.mesh].name, node: member.name, staticKey: member.staticKey,
        secret: member.secret, certificate: member.certificateBytes
      ).record)
  }

  /// Keeps the stored ceiling well above the serials in use. Half of the
  /// reserve is always left, so a crash that loses the newest write repeats none.
  func reserveSerials(_ index: Int, now: Instant) {
    let record = meshes[index].authority.record(now: now)
    guard record.nextSerial + ServerLimits.serialsAhead / 2 >= meshes[index].serialCeiling else {
      return
    }
    meshes[index].serialCeiling = record.nextSerial + ServerLimits.serialsAhead
    store(
      AuthorityRecord(
        mesh: meshes[index].name, seed: meshes[index].seed,
        serialCeiling: meshes[index].serialCeiling, authorityTime: record.time
      ).record)
  }

  /// Relay quotas: a new day begins at zero; the count is kept now and then.
  func keepUsage(now: Instant) {
    let day = serverTime(now) / 86_400_000_000_000
    if day != usageDay {
      usageDay = day
      router.resetQuotas()
      for index in meshes.indices {
        meshes[index].usageStored = 0
        meshes[index].quotaLogged = false
      }
    }
    for index in meshes.indices {
      guard let quota = settings.meshes[index].relayQuotaBytes else { continue }
      let used = router.bytesUsed(mesh: UInt32(index))
      // At most 1 % of the quota is forgotten by a crash.
      if used - min(used, meshes[index].usageStored) > quota / 100 {
        meshes[index].usageStored = used
        store(UsageRecord(mesh: meshes[index].name, day: usageDay, bytes: used).record)
      }
      if used >= quota, !meshes[index].quotaLogged {
        meshes[index].quotaLogged = true
        log(.relayQuotaUsed(mesh: meshes[index].name))
      }
    }
  }
}
