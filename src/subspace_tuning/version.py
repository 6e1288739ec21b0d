"""The version, in one place: the build, runs, exports and reports read it here."""

VERSION = "0.2.0"
