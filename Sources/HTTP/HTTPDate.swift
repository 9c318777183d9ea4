/// The Date field (RFC 9110 §5.6.7), from a number of seconds: no calendar
/// library, no clock.

package enum HTTPDate {
  private static let days = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"]
  private static let months = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
  ]

  /// `Sun, 06 Nov 1994 08:49:37 GMT`.
  /// - Parameter unixTime: seconds since 1970; years 0 to 9999.
  package static func text(unixTime: Int64) -> String {
    let time = parts(unixTime)
    func two(_ value: Int64) -> String { value < 10 ? "0\(value)" : "\(value)" }
    let year = String(time.year)
    let padded = String(repeating: "0", count: max(0, 4 - year.count)) + year
    return
      "\(days[Int(time.weekday)]), \(two(time.day)) \(months[Int(time.month - 1)]) \(padded) \(two(time.hour)):\(two(time.minute)):\(two(time.second)) GMT"
  }

  /// `1994-11-06T08:49:37Z` (RFC 3339), for JSON and logs.
  package static func iso(unixTime: Int64) -> String {
    let time = parts(unixTime)
    func two(_ value: Int64) -> String { value < 10 ? "0\(value)" : "\(value)" }
    let year = String(time.year)
    let padded = String(repeating: "0", count: max(0, 4 - year.count)) + year
    return
      "\(padded)-\(two(time.month))-\(two(time.day))T\(two(time.hour)):\(two(time.minute)):\(two(time.second))Z"
  }

  private struct Parts {
    var year, month, day, hour, minute, second, weekday: Int64
  }

  /// Civil date from days, in 400-year eras that begin on 1 March.
  private static func parts(_ unixTime: Int64) -> Parts {
    // Years beyond four digits have no text in either form.
    let time = min(max(unixTime, -62_167_219_200), 253_402_300_799)
    let day = time >= 0 ? time / 86_400 : (time - 86_399) / 86_400
    let second = time - day * 86_400
    let shifted = day + 719_468
    let era = (shifted >= 0 ? shifted : shifted - 146_096) / 146_097
    let dayOfEra = shifted - era * 146_097
    let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
    let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
    let month = (5 * dayOfYear + 2) / 153
    let civilMonth = month < 10 ? month + 3 : month - 9
    return Parts(
      year: yearOfEra + era * 400 + (civilMonth <= 2 ? 1 : 0), month: civilMonth,
      day: dayOfYear - (153 * month + 2) / 5 + 1, hour: second / 3600, minute: second / 60 % 60,
      second: second % 60, weekday: ((day % 7) + 11) % 7)
  }
}
