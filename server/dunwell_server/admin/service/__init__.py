"""The use cases of AdminService. They take a unit of work, and never commit."""
