"""Formats that vehicles, receivers and TAK clients speak, as pure codecs: bytes or lines in, rows out, and back.

No module here opens a socket or a file; `tools.bridges` and `tools.imports` do. Heavy libraries are imported by the codec that
needs them, and only there.
"""
