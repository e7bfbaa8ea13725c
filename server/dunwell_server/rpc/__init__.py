"""The RPC floor: server builder, interceptors, authentication, error mapping, and the kinds of call."""
