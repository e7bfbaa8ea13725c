"""`demo`: a whole example on the sandbox, told through the public RPCs."""
