"""AWS as AWS documents itself, with a seed: the same rules before the brokers of the world and before an emulator.

`rules` says what may happen and how often, `layer` does it to one call, `memory` are clients of an AWS that lives in
this process, `proxy` is an HTTP server on loopback in front of an emulator.
"""
