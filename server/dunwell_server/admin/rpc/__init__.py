"""AdminService: the servicer and its converters."""
