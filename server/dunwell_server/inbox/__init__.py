"""Provider events: taken in once, kept byte for byte, applied once, in any order."""
