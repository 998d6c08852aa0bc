"""The version of this package, in the one place that the build and the wire read."""

__version__ = "0.1.0"
