"""AWS as its documentation describes it, driven by a seed: the same rules apply in memory and in front of an emulator.

`rules` says what may happen and how often, `layer` applies it to one call, `memory` has clients of an AWS in this
process, and `proxy` is an HTTP server on loopback in front of an emulator.
"""
