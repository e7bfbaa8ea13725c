"""The stages every call passes, outer to inner: metrics, access log, errors, size, authentication, permission, rate,
load, deadline, validation.

Each stage is a small module of its own; `chain` composes them into one handler per method when the server is built,
so that a call costs function calls and no closures, look-ups or nested coroutines.
"""
