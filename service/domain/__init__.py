"""Decisions: pure functions and frozen dataclasses.

No I/O, no clock, no gRPC, no SQL: time and chance come in by argument. Beyond the standard library
only the libraries that decide something for us: jwt, cryptography, nacl, precis_i18n.
"""
