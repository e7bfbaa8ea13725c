"""Messages and stubs of the contract `dunwell.v1`. The modules are generated; `make generate` writes them."""
