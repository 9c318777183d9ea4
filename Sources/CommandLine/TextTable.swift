/// Aligned columns for terminals, as ztm prints them: a header in capitals, two
/// spaces between columns, no trailing blanks. What peers named themselves
/// cannot move the cursor: control characters are shown as '?'.

#if canImport(Bytes)
  import Tunnels
#endif

package struct TextTable: Sendable {
  package var header: [String]
  package var rows: [[String]] = []

  package init(_ header: [String]) { self.header = header }

  package mutating func add(_ cells: [String]) { rows.append(cells) }

  /// Lines, each ended by a line feed.
  package var text: String {
    let lines = ([header] + rows).map { row in
      (0..<header.count).map { $0 < row.count ? Self.cell(row[$0]) : "" }
    }
    var widths = [Int](repeating: 0, count: header.count)
    for line in lines {
      for (column, cell) in line.enumerated() {
        widths[column] = max(widths[column], Self.width(cell))
      }
    }
    var text = ""
    for line in lines {
      var out = ""
      for (column, cell) in line.enumerated() {
        out += cell
        if column < line.count - 1 {
          out += String(repeating: " ", count: widths[column] - Self.width(cell) + 2)
        }
      }
      while out.last == " " { out.removeLast() }
      text += out + "\n"
    }
    return text
  }

  /// Free of control characters; not shortened.
  package static func cell(_ text: String) -> String {
    var view = String.UnicodeScalarView()
    for scalar in text.unicodeScalars {
      switch scalar.properties.generalCategory {
      case .control, .format, .lineSeparator, .paragraphSeparator: view.append("?")
      default: view.append(scalar)
      }
    }
    return String(view)
  }

  /// Columns on a terminal: East Asian wide characters take two.
  static func width(_ text: String) -> Int {
    text.reduce(0) { sum, character in
      guard let first = character.unicodeScalars.first else { return sum }
      switch first.value {
      case 0x1100...0x115f, 0x2e80...0x303e, 0x3041...0xa4cf, 0xac00...0xd7a3, 0xf900...0xfaff,
        0xfe30...0xfe6f, 0xff00...0xff60, 0xffe0...0xffe6, 0x1f300...0x1faff, 0x20000...0x3fffd:
        return sum + 2
      default: return sum + 1
      }
    }
  }
}

/// Numbers for people.
package enum Show {
  /// "512 B", "1.5 KB", "20 MB" (powers of 1024).
  package static func bytes(_ count: UInt64) -> String {
    let units = ["KB", "MB", "GB", "TB", "PB", "EB"]
    guard count >= 1024 else { return "\(count) B" }
    var value = Double(count) / 1024
    var unit = 0
    while value >= 1023.95, unit < units.count - 1 {
      value /= 1024
      unit += 1
    }
    return "\(decimal(value)) \(units[unit])"
  }

  /// "0.4 ms", "44 ms", "1.2 s".
  package static func milliseconds(_ value: Double) -> String {
    value < 1000 ? "\(decimal(value)) ms" : "\(decimal(value / 1000)) s"
  }

  /// "3s", "5m", "2h 10m", "4d 1h".
  package static func age(seconds: Int64) -> String {
    let seconds = max(0, seconds)
    switch seconds {
    case ..<60: return "\(seconds)s"
    case ..<3600: return "\(seconds / 60)m"
    case ..<86_400: return "\(seconds / 3600)h \(seconds % 3600 / 60)m"
    default: return "\(seconds / 86_400)d \(seconds % 86_400 / 3600)h"
    }
  }

  /// One decimal below ten, none from ten on.
  private static func decimal(_ value: Double) -> String {
    guard value < 9.95 else { return String(Int64(value.rounded())) }
    let tenths = Int64((value * 10).rounded())
    return tenths % 10 == 0 ? "\(tenths / 10)" : "\(tenths / 10).\(tenths % 10)"
  }
}
