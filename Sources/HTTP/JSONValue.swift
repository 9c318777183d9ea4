/// JSON as a value: what the REST faces, config.json and the state files speak.
/// Keeps what a decoder into Swift types loses: the order of members, members
/// it does not know, and numbers to the last digit (a token is a UInt64; a
/// double would round it). Never touches files. RFC 8259; the reasons for not
/// taking FoundationEssentials are in docs/decisions/0003-own-http.md.

/// One JSON value.
public enum JSONValue: Sendable, Equatable {
  case null
  case bool(Bool)
  case number(JSONNumber)
  case string(String)
  case array([JSONValue])
  case object(JSONObject)
}

/// A number as it was written. Equality is that of the text: 1 and 1.0 differ.
public struct JSONNumber: Sendable, Hashable {
  /// RFC 8259 §6 grammar, always.
  public let text: String

  /// The parser's way in: the text is known to follow the grammar.
  init(grammatical text: String) { self.text = text }

  public init(_ value: some FixedWidthInteger) { text = String(value) }

  /// - Parameter value: must be finite: JSON has no infinity.
  public init(_ value: Double) {
    precondition(value.isFinite, "JSON has no infinity and no NaN")
    if value == value.rounded(), value.magnitude < 9_007_199_254_740_992 {
      text = String(Int64(value))
    } else {
      text = value.description
    }
  }

  /// The value as an integer of type `T`; nil when it has a fraction, or does
  /// not fit. `1.0` and `1e3` count as integers up to 2^53.
  public func integer<T: FixedWidthInteger>(as type: T.Type = T.self) -> T? {
    if let exact = T(text) { return exact }
    guard let value = Double(text), value.magnitude <= 9_007_199_254_740_992 else { return nil }
    guard text.utf8.contains(where: { $0 == UInt8(ascii: ".") || $0 | 0x20 == UInt8(ascii: "e") })
    else { return nil }
    return T(exactly: value)
  }

  /// The nearest double; infinite when the text is beyond its range.
  public var double: Double { Double(text) ?? .nan }
}

/// Members in the order they were written; no two share a name.
/// Names compare as Swift strings do (canonical equivalence).
public struct JSONObject: Sendable {
  public struct Member: Sendable, Equatable {
    public let name: String
    public var value: JSONValue
  }

  public private(set) var members: [Member] = []
  /// Built once there are more members than a scan is worth.
  private var index: [String: Int] = [:]
  private static let scanLimit = 12

  public init() {}

  public var count: Int { members.count }
  public var isEmpty: Bool { members.isEmpty }
  public var names: [String] { members.map(\.name) }

  /// Reads, replaces in place, appends, or (nil) removes.
  public subscript(name: String) -> JSONValue? {
    get { position(of: name).map { members[$0].value } }
    set {
      switch (position(of: name), newValue) {
      case (let position?, let value?): members[position].value = value
      case (let position?, nil):
        members.remove(at: position)
        reindex()
      case (nil, let value?): append(Member(name: name, value: value))
      case (nil, nil): break
      }
    }
  }

  /// The same, where `Token` and `token` are one name (ASCII letters only).
  /// A replaced member keeps the spelling it had. Exact spelling wins.
  public subscript(ignoringCase name: String) -> JSONValue? {
    get { self[spelling(of: name)] }
    set { self[spelling(of: name)] = newValue }
  }

  /// How `name` is written in this object, letters' case aside.
  public func spelling(of name: String) -> String {
    if position(of: name) != nil { return name }
    return members.first { $0.name.equalsIgnoringASCIICase(name) }?.name ?? name
  }

  func position(of name: String) -> Int? {
    if members.count <= Self.scanLimit { return members.firstIndex { $0.name == name } }
    return index[name]
  }

  /// The caller knows that the name is new.
  private mutating func append(_ member: Member) {
    members.append(member)
    if members.count == Self.scanLimit + 1 {
      reindex()
    } else if members.count > Self.scanLimit {
      index[member.name] = members.count - 1
    }
  }

  private mutating func reindex() {
    index.removeAll(keepingCapacity: true)
    guard members.count > Self.scanLimit else { return }
    for (position, member) in members.enumerated() { index[member.name] = position }
  }
}

extension JSONObject: Equatable {
  /// Order counts: this type exists to keep it.
  public static func == (a: JSONObject, b: JSONObject) -> Bool { a.members == b.members }
}

extension JSONObject: ExpressibleByDictionaryLiteral {
  /// A name given twice is a bug.
  public init(dictionaryLiteral elements: (String, JSONValue)...) {
    for (name, value) in elements {
      precondition(position(of: name) == nil, "a JSON object names \(name) twice")
      self[name] = value
    }
  }
}

// MARK: Building

extension JSONValue: ExpressibleByNilLiteral, ExpressibleByBooleanLiteral,
  ExpressibleByIntegerLiteral, ExpressibleByFloatLiteral, ExpressibleByStringLiteral,
  ExpressibleByStringInterpolation, ExpressibleByArrayLiteral, ExpressibleByDictionaryLiteral
{
  public init(nilLiteral: ()) { self = .null }
  public init(booleanLiteral value: Bool) { self = .bool(value) }
  public init(integerLiteral value: Int64) { self = .number(JSONNumber(value)) }
  public init(floatLiteral value: Double) { self = .number(JSONNumber(value)) }
  public init(stringLiteral value: String) { self = .string(value) }
  public init(arrayLiteral elements: JSONValue...) { self = .array(elements) }
  public init(dictionaryLiteral elements: (String, JSONValue)...) {
    var object = JSONObject()
    for (name, value) in elements {
      precondition(object[name] == nil, "a JSON object names \(name) twice")
      object[name] = value
    }
    self = .object(object)
  }
}

extension JSONValue {
  public init(_ value: some FixedWidthInteger) { self = .number(JSONNumber(value)) }
  /// Infinity and NaN become null: they come from divisions of measurements.
  public init(_ value: Double) { self = value.isFinite ? .number(JSONNumber(value)) : .null }
  public init(_ value: Bool) { self = .bool(value) }
  public init(_ value: String) { self = .string(value) }
  public init(_ values: some Sequence<String>) { self = .array(values.map(JSONValue.string)) }
  public init(_ values: some Sequence<JSONValue>) { self = .array(Array(values)) }
  /// nil becomes null.
  public init(_ value: String?) { self = value.map(JSONValue.string) ?? .null }
}

// MARK: Reading

extension JSONValue {
  public var isNull: Bool { self == .null }
  public var bool: Bool? { if case .bool(let value) = self { value } else { nil } }
  public var string: String? { if case .string(let value) = self { value } else { nil } }
  public var array: [JSONValue]? { if case .array(let value) = self { value } else { nil } }
  public var object: JSONObject? { if case .object(let value) = self { value } else { nil } }
  public var number: JSONNumber? { if case .number(let value) = self { value } else { nil } }
  public var double: Double? { number?.double }
  public var int: Int? { integer() }
  public var uint64: UInt64? { integer() }
  public func integer<T: FixedWidthInteger>(as type: T.Type = T.self) -> T? {
    number?.integer(as: type)
  }
  /// An integer written as a number or as a string of digits: how users write tokens.
  public func lenientInteger<T: FixedWidthInteger>(as type: T.Type = T.self) -> T? {
    if case .string(let text) = self {
      guard !text.hasPrefix("+") else { return nil }
      return T(text)
    }
    return integer(as: type)
  }

  /// The member of an object; nil for every other kind of value.
  public subscript(name: String) -> JSONValue? {
    get { object?[name] }
    set { change { $0[name] = newValue } }
  }
  /// The member whatever the case of its letters.
  public subscript(ignoringCase name: String) -> JSONValue? {
    get { object?[ignoringCase: name] }
    set { change { $0[ignoringCase: name] = newValue } }
  }
  /// The element of an array; nil outside it and for every other kind.
  public subscript(position: Int) -> JSONValue? {
    guard let array, array.indices.contains(position) else { return nil }
    return array[position]
  }

  /// Whatever is not an object becomes one.
  private mutating func change(_ body: (inout JSONObject) -> Void) {
    var object = object ?? JSONObject()
    self = .null  // the object is not shared while it changes
    body(&object)
    self = .object(object)
  }

  /// What kind of value this is, in words for messages.
  public var kind: String {
    switch self {
    case .null: "null"
    case .bool: "a boolean"
    case .number: "a number"
    case .string: "a string"
    case .array: "an array"
    case .object: "an object"
    }
  }
}

extension StringProtocol {
  /// Equal but for the case of A–Z; other letters must match as they are.
  package func equalsIgnoringASCIICase(_ other: some StringProtocol) -> Bool {
    utf8.elementsEqual(other.utf8) { a, b in
      a == b || (a | 0x20 == b | 0x20 && (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(a | 0x20))
    }
  }
}
