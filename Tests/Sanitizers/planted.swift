// One bug for each sanitizer, planted to prove that it sees and that its report
// is found (scripts/sanitize). The first argument chooses: address, leak, thread.
import Glibc

/// What both threads write, and where the read past the end begins.
let shared = UnsafeMutablePointer<Int>.allocate(capacity: 4)
shared.initialize(repeating: 0, count: 4)

switch CommandLine.arguments.dropFirst().first {
case "address":
  // The index is not known to the compiler.
  print(shared[4 * Int(CommandLine.argc) / 2])
case "leak":
  // Several: the last ones may still be found in a register or on the stack.
  for number in 0..<10 { forget(number) }
case "thread":
  var thread = pthread_t()
  pthread_create(
    &thread, nil,
    { _ in
      for _ in 0..<1000 { shared.pointee += 1 }
      return nil
    }, nil)
  for _ in 0..<1000 { shared.pointee += 1 }
  pthread_join(thread, nil)
  print(shared.pointee)
default:
  exit(2)
}

@inline(never)
func forget(_ number: Int) {
  let lost = UnsafeMutablePointer<Int>.allocate(capacity: 10)
  lost.initialize(repeating: number, count: 10)
  print(lost[Int(CommandLine.argc)])
}
