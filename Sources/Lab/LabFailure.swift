/// Why the lab could not do something, in words for the person who typed the
/// command; `isRefused` tells a machine that gives no namespaces from a fault.

package enum LabFailure: Error, Sendable {
  /// The kernel or a missing program does not let us have a lab at all.
  case refused(String)
  case failed(String)
  /// A signal asked us to end.
  case interrupted

  package var words: String {
    switch self {
    case .refused(let words), .failed(let words): words
    case .interrupted: "interrupted"
    }
  }
}
