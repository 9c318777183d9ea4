/// The arithmetic of NIST P-256 that SPAKE2 needs, on libcrypto's EC_POINT.
/// Points are kept as their 65 bytes between steps: a value, `Sendable`, and
/// checked to be on the curve each time it is read. The point at infinity has no
/// value here; whatever would give it gives nil.

internal import COpenSSL

/// A point of the curve other than infinity: `04 | x(32) | y(32)`.
struct P256Point: Sendable, Equatable {
  let bytes: [UInt8]

  fileprivate init(trusted bytes: [UInt8]) { self.bytes = bytes }

  /// nil when `bytes` are not 65, not uncompressed, or no point of the curve.
  init?(decoding bytes: [UInt8]) {
    guard bytes.count == 65, bytes[0] == 4 else { return nil }
    let arithmetic = P256Arithmetic()
    guard arithmetic.point(bytes) != nil else { return nil }
    self.bytes = bytes
  }
}

enum P256 {
  /// RFC 9382 §6, M and N for P-256.
  static let m = point(
    "02886e2f97ace46e55ba9dd7242579f2993b64e16ef3dcab95afd497333d8fa12f")
  static let n = point(
    "03d8bbd6c639c62937b04d997f38c3770719c629d7014d49a24b4f98baa1292b49")

  /// `bytes` as a big-endian number modulo the order; 32 bytes.
  static func reduce(_ bytes: [UInt8]) -> [UInt8] {
    let arithmetic = P256Arithmetic()
    let number = arithmetic.number(bytes)
    mustSucceed(
      unsafe BN_nnmod(
        number, number, EC_GROUP_get0_order(arithmetic.group), arithmetic.scratch))
    var output = [UInt8](repeating: 0, count: 32)
    precondition(unsafe BN_bn2binpad(number, &output, 32) == 32)
    return output
  }

  static func multiplyBase(by scalar: [UInt8]) -> P256Point? {
    let arithmetic = P256Arithmetic()
    let result = arithmetic.newPoint()
    // One scalar per call: only then is the time independent of it.
    mustSucceed(
      unsafe EC_POINT_mul(
        arithmetic.group, result, arithmetic.number(scalar), nil, nil, arithmetic.scratch))
    return arithmetic.encode(result)
  }

  static func multiply(_ point: P256Point, by scalar: [UInt8]) -> P256Point? {
    let arithmetic = P256Arithmetic()
    guard let source = arithmetic.point(point.bytes) else { return nil }
    let result = arithmetic.newPoint()
    mustSucceed(
      unsafe EC_POINT_mul(
        arithmetic.group, result, nil, source, arithmetic.number(scalar), arithmetic.scratch))
    return arithmetic.encode(result)
  }

  static func add(_ a: P256Point, _ b: P256Point) -> P256Point? {
    combine(a, b, invertSecond: false)
  }

  static func subtract(_ a: P256Point, _ b: P256Point) -> P256Point? {
    combine(a, b, invertSecond: true)
  }

  private static func combine(_ a: P256Point, _ b: P256Point, invertSecond: Bool) -> P256Point? {
    let arithmetic = P256Arithmetic()
    guard let first = arithmetic.point(a.bytes), let second = arithmetic.point(b.bytes) else {
      return nil
    }
    if invertSecond {
      mustSucceed(unsafe EC_POINT_invert(arithmetic.group, second, arithmetic.scratch))
    }
    mustSucceed(
      unsafe EC_POINT_add(arithmetic.group, first, first, second, arithmetic.scratch))
    return arithmetic.encode(first)
  }

  /// A constant in compressed hexadecimal.
  private static func point(_ hexadecimal: String) -> P256Point {
    let arithmetic = P256Arithmetic()
    guard
      let point = unsafe EC_POINT_hex2point(arithmetic.group, hexadecimal, nil, arithmetic.scratch)
    else { preconditionFailure("a constant is no point") }
    arithmetic.adopt(point)
    guard let encoded = arithmetic.encode(point) else {
      preconditionFailure("a constant is infinity")
    }
    return encoded
  }
}

/// The curve, scratch space and every object made for one calculation; all are
/// wiped and freed together.
private final class P256Arithmetic {
  /// Read only after it was made; libcrypto allows that from any thread.
  nonisolated(unsafe) private static let sharedGroup: OpaquePointer = {
    guard let group = unsafe EC_GROUP_new_by_curve_name(NID_X9_62_prime256v1) else {
      preconditionFailure("libcrypto has no P-256")
    }
    return group
  }()

  let group = P256Arithmetic.sharedGroup
  let scratch: OpaquePointer
  private var points: [OpaquePointer] = []
  private var numbers: [OpaquePointer] = []

  init() {
    guard let scratch = unsafe BN_CTX_secure_new() else { preconditionFailure("out of memory") }
    self.scratch = scratch
  }

  deinit {
    for point in points { unsafe EC_POINT_clear_free(point) }
    for number in numbers { unsafe BN_clear_free(number) }
    unsafe BN_CTX_free(scratch)
  }

  func adopt(_ point: OpaquePointer) { points.append(point) }

  func newPoint() -> OpaquePointer {
    guard let point = unsafe EC_POINT_new(group) else { preconditionFailure("out of memory") }
    points.append(point)
    return point
  }

  /// nil when the bytes are no point of the curve, or infinity.
  func point(_ bytes: [UInt8]) -> OpaquePointer? {
    let point = newPoint()
    guard unsafe EC_POINT_oct2point(group, point, bytes, bytes.count, scratch) == 1,
      unsafe EC_POINT_is_at_infinity(group, point) == 0
    else {
      forgetErrors()
      return nil
    }
    return point
  }

  func number(_ bytes: [UInt8]) -> OpaquePointer {
    guard let number = unsafe BN_bin2bn(bytes, CInt(bytes.count), nil) else {
      preconditionFailure("out of memory")
    }
    numbers.append(number)
    unsafe BN_set_flags(number, BN_FLG_CONSTTIME)
    return number
  }

  /// nil for infinity.
  func encode(_ point: OpaquePointer) -> P256Point? {
    guard unsafe EC_POINT_is_at_infinity(group, point) == 0 else { return nil }
    var bytes = [UInt8](repeating: 0, count: 65)
    let count = unsafe EC_POINT_point2oct(
      group, point, POINT_CONVERSION_UNCOMPRESSED, &bytes, bytes.count, scratch)
    precondition(count == 65)
    return P256Point(trusted: bytes)
  }
}
