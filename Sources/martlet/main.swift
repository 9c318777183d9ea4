// The one binary under all its names. The face is chosen by argv[0].

internal import Glibc

Glibc.exit(Entry.run())
