/// First in, first out, never more than `limit` elements.

struct BoundedQueue<Element> {
  private var elements: [Element] = []
  private var head = 0
  let limit: Int

  init(limit: Int) { self.limit = limit }

  var isEmpty: Bool { head == elements.count }
  var count: Int { elements.count - head }

  /// False when full.
  mutating func append(_ element: Element) -> Bool {
    guard count < limit else { return false }
    elements.append(element)
    return true
  }

  mutating func popFirst() -> Element? {
    guard head < elements.count else { return nil }
    let element = elements[head]
    head += 1
    if head == elements.count {
      elements.removeAll(keepingCapacity: head <= 64)
      head = 0
    } else if head >= 256, head * 2 > elements.count {
      elements.removeFirst(head)
      head = 0
    }
    return element
  }
}
