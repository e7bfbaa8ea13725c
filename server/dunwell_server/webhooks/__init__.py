"""The webhook sidecar: an HTTP process that hands providers' webhooks to the RPC server.

It knows no secret but its own credential, reads no body, decides nothing, and has no way to a database.
"""
