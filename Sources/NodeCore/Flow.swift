/// One tunnelled connection: which stream of which peer carries it, and, until
/// it is open, what may still be tried. Values only; the rules are in
/// `Node+Flows.swift`.

#if canImport(Bytes)
  internal import Bytes
  internal import Mux
  internal import Tunnels
#endif

struct Flow {
  enum Phase {
    /// The slot is free.
    case free
    /// Near: a stream was opened, the exit has not answered.
    case opening
    /// Far: the driver dials.
    case dialing
    case open
  }

  /// Near end, until the exit has accepted.
  struct Attempt {
    var service: OpenRequest
    /// Peers in the order to try; `steps` indexes it.
    var exits: [Int]
    var steps: ExitAttempt
    /// Sent with the SYN and kept until an exit accepts, so that the next exit
    /// gets the same bytes (nothing was delivered by the one that refused).
    var early: [UInt8] = []
    var finishedEarly = false
    /// It waits for a road that its terms permit; no stream was opened.
    var isHeld = false
    /// When the stream of this attempt was opened: data sealed for the peer
    /// since then may have carried its SYN.
    var openedAt: Instant
    var due: Instant
  }

  /// Far end, until a target has answered.
  struct Dial {
    var targets: [TunnelTarget]
    var requestedHost: String?
    var tried = TargetChooser.Tried()
    var current = 0
  }

  var generation: UInt32 = 0
  var phase = Phase.free
  var peer = -1
  var stream = StreamID(number: 0, epoch: 0)
  /// What its bytes are counted under; nil for an app's far end.
  var owner: TunnelOwner?
  var isNear = false
  var terms = StreamTerms.usual
  /// The peer whose roads its terms count for; -1: none yet.
  var engaged = -1
  var isCounted = false
  var attempt: Attempt?
  var dial: Dial?
  var toTarget: UInt64 = 0
  var toCaller: UInt64 = 0
  var target = ""

  /// Bytes a near flow may write before its exit accepted.
  static let earlyLimit = 16 * 1024
}
