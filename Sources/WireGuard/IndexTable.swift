/// Receiver indices to what they name, for every packet: open addressing over
/// the random 32-bit index itself, which is its own hash. Index 0 means empty
/// and is never given out.

struct IndexTable {
  /// What an index names: a keypair, or (keypair nil) a handshake of `peer`.
  struct Entry {
    var index: UInt32
    var peer: SessionPeer?
    var keypair: Keypair?
  }

  private var entries = [Entry](repeating: Entry(index: 0, peer: nil, keypair: nil), count: 64)
  private(set) var count = 0

  /// Position of `index`, or nil.
  private func find(_ index: UInt32) -> Int? {
    guard index != 0 else { return nil }
    let mask = entries.count - 1
    var at = Int(index) & mask
    while entries[at].index != 0 {
      if entries[at].index == index { return at }
      at = (at + 1) & mask
    }
    return nil
  }

  func contains(_ index: UInt32) -> Bool { find(index) != nil }

  func keypair(_ index: UInt32) -> Keypair? {
    guard let at = find(index) else { return nil }
    return entries[at].keypair
  }

  func entry(_ index: UInt32) -> Entry? { find(index).map { entries[$0] } }

  /// Adds or replaces.
  mutating func set(_ entry: Entry) {
    precondition(entry.index != 0)
    if let at = find(entry.index) {
      entries[at] = entry
      return
    }
    if (count + 1) * 2 > entries.count { grow() }
    insert(entry)
    count += 1
  }

  mutating func remove(_ index: UInt32) {
    guard var hole = find(index) else { return }
    count -= 1
    let mask = entries.count - 1
    var at = hole
    // Close the gap: move back every entry whose own place is not after the hole.
    while true {
      at = (at + 1) & mask
      let entry = entries[at]
      if entry.index == 0 { break }
      let home = Int(entry.index) & mask
      if (at - home) & mask >= (at - hole) & mask {
        entries[hole] = entry
        hole = at
      }
    }
    entries[hole] = Entry(index: 0, peer: nil, keypair: nil)
  }

  private mutating func insert(_ entry: Entry) {
    let mask = entries.count - 1
    var at = Int(entry.index) & mask
    while entries[at].index != 0 { at = (at + 1) & mask }
    entries[at] = entry
  }

  private mutating func grow() {
    let old = entries
    entries = [Entry](
      repeating: Entry(index: 0, peer: nil, keypair: nil), count: old.count * 2)
    for entry in old where entry.index != 0 { insert(entry) }
  }
}
