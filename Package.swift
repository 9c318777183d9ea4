// swift-tools-version: 6.2
// Martlet: one package, one binary. The order below is the order of the
// arrows: a target may depend only on targets above it (scripts/check-imports).
import PackageDescription

let settings: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("InternalImportsByDefault"),
  .enableUpcomingFeature("MemberImportVisibility"),
]

// One program with little memory: packed relocations instead of 800 KB of them,
// and no table of symbols for libraries to find us by (docs/decisions/0022).
let linking: [LinkerSetting] = [
  .unsafeFlags([
    "-use-ld=lld", "-Xlinker", "-z", "-Xlinker", "pack-relative-relocs",
    "-Xlinker", "--no-export-dynamic",
  ])
]

func target(
  _ name: String, _ dependencies: [Target.Dependency] = [], extra: [SwiftSetting] = []
) -> Target {
  .target(name: name, dependencies: dependencies, swiftSettings: settings + extra)
}

func tests(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
  .testTarget(name: name + "Tests", dependencies: dependencies, swiftSettings: settings)
}

let package = Package(
  name: "martlet",
  products: [.executable(name: "martlet", targets: ["martlet"])],
  targets: [
    // C shims and system libraries.
    .target(name: "CLinux"),
    .systemLibrary(name: "COpenSSL", pkgConfig: "libssl", providers: [.apt(["libssl-dev"])]),
    .systemLibrary(
      name: "CMiniUPnPc", pkgConfig: "miniupnpc", providers: [.apt(["libminiupnpc-dev"])]),
    .systemLibrary(name: "CSQLite", pkgConfig: "sqlite3", providers: [.apt(["libsqlite3-dev"])]),

    // Core: bytes and time in, values out.
    target("Bytes", extra: [.enableExperimentalFeature("Lifetimes")]),
    target("Crypto", ["Bytes", "COpenSSL"]),
    target("NAT"),
    target("STUN", ["Bytes", "Crypto", "NAT"]),
    target("WireGuard", ["Bytes", "Crypto"]),
    target("Mux", ["Bytes"]),
    target("Paths", ["Bytes", "NAT"]),
    target("PortMapping", ["Bytes"]),
    target("Relay", ["Bytes", "Crypto", "Mux"]),
    target("Signaling", ["Bytes", "Crypto", "NAT"]),
    target("Tunnels", ["Bytes"]),
    target(
      "NodeCore",
      [
        "Bytes", "Crypto", "NAT", "STUN", "WireGuard", "Mux", "Paths", "Relay", "Signaling",
        "Tunnels",
      ]),
    target("ServerCore", ["Bytes", "Crypto", "NAT", "Mux", "Relay", "Signaling"]),
    target(
      "Simulation",
      [
        "Bytes", "Crypto", "NAT", "STUN", "WireGuard", "Mux", "Paths", "Relay", "Signaling",
        "Tunnels",
        "NodeCore", "ServerCore",
      ]),

    // Drivers: sockets, TLS, files.
    target("Reactor", ["Bytes", "CLinux"]),
    target("TLS", ["Bytes", "COpenSSL"]),
    target("HTTP", ["Bytes"]),
    target("UPnP", ["Bytes", "CMiniUPnPc"]),
    target("Storage", ["Bytes", "CSQLite"]),
    target("Transport", ["Bytes", "Reactor", "TLS", "HTTP"]),
    target("CommandLine", ["Bytes", "Crypto", "CLinux", "HTTP", "NAT", "Tunnels"]),
    target(
      "Agent",
      [
        "Bytes", "Crypto", "NAT", "STUN", "WireGuard", "Mux", "Paths", "PortMapping", "Relay",
        "Signaling", "Tunnels", "NodeCore", "Reactor", "TLS", "HTTP", "UPnP", "Transport",
        "CommandLine",
      ]),
    target(
      "Server",
      [
        "Bytes", "Crypto", "STUN", "Mux", "Relay", "Signaling", "ServerCore", "Reactor", "TLS",
        "HTTP", "Transport", "Storage", "CommandLine",
      ]),
    target("Lab", ["Bytes", "NAT", "CLinux", "Reactor", "HTTP", "CommandLine"]),
    .executableTarget(
      name: "martlet",
      dependencies: [
        "Bytes", "Crypto", "CLinux", "Reactor", "HTTP", "Tunnels", "CommandLine", "Agent", "Server",
        "Lab",
      ],
      swiftSettings: settings, linkerSettings: linking),

    // Tests.
    tests("Bytes", ["Bytes"]),
    tests("Crypto", ["Bytes", "Crypto"]),
    tests("NAT", ["NAT"]),
    tests("STUN", ["Bytes", "Crypto", "NAT", "STUN"]),
    tests("WireGuard", ["Bytes", "Crypto", "WireGuard"]),
    tests("Mux", ["Bytes", "Mux"]),
    tests("Paths", ["Bytes", "NAT", "Paths"]),
    tests("PortMapping", ["Bytes", "PortMapping"]),
    tests("Relay", ["Bytes", "Crypto", "Mux", "Relay"]),
    tests("Signaling", ["Bytes", "Crypto", "NAT", "Signaling"]),
    tests("Tunnels", ["Bytes", "Tunnels"]),
    tests(
      "Simulation",
      [
        "Bytes", "Crypto", "NAT", "Mux", "NodeCore", "Paths", "ServerCore", "Signaling",
        "Simulation", "Tunnels",
      ]),
    tests("ServerCore", ["Bytes", "Crypto", "NAT", "Relay", "Signaling", "ServerCore"]),
    tests("Reactor", ["Bytes", "Reactor"]),
    tests("TLS", ["Bytes", "TLS"]),
    tests("HTTP", ["Bytes", "HTTP"]),
    tests("Storage", ["Bytes", "Storage"]),
    tests("Lab", ["Bytes", "NAT", "HTTP", "CommandLine", "Lab"]),
    tests("CommandLine", ["Bytes", "Crypto", "HTTP", "Tunnels", "CommandLine"]),
  ]
)
