// Wall-clock time as people and log files want it.

/// UTC as `2026-11-21T07:00:00.123Z` (RFC 3339), from nanoseconds since 1970.
package enum ISOTime {
  package static func now() -> String { text(EventLoop.wallClockNanoseconds) }

  package static func text(_ nanoseconds: Int64) -> String {
    let milliseconds = nanoseconds / 1_000_000
    let seconds = milliseconds / 1000
    let days = seconds / 86_400
    let inDay = seconds % 86_400
    // Days to a date: Howard Hinnant's civil_from_days, for dates after 1970.
    let z = days + 719_468
    let era = z / 146_097
    let dayOfEra = z % 146_097
    let yearOfEra =
      (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
    let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
    let shifted = (5 * dayOfYear + 2) / 153
    let day = dayOfYear - (153 * shifted + 2) / 5 + 1
    let month = shifted < 10 ? shifted + 3 : shifted - 9
    let year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
    return pad(year, 4) + "-" + pad(month, 2) + "-" + pad(day, 2) + "T" + pad(inDay / 3600, 2)
      + ":" + pad(inDay / 60 % 60, 2) + ":" + pad(inDay % 60, 2) + "."
      + pad(milliseconds % 1000, 3) + "Z"
  }

  private static func pad(_ value: Int64, _ width: Int) -> String {
    let digits = String(value)
    return String(repeating: "0", count: max(0, width - digits.count)) + digits
  }
}
