/// Environment variables for tests: which seeds, how many, with a trace.
import Glibc

func environment(_ name: String) -> String? {
  guard let value = unsafe getenv(name) else { return nil }
  return unsafe String(cString: value)
}
