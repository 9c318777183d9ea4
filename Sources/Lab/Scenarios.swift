import NAT
enum Scenarios {
  static func unknownKind(_ name: String) -> String {
    "there is no kind \(name); there are: \(NATKind.all.map(\.name).joined(separator: ", "))"
  }
}
