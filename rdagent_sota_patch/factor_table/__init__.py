"""The factor table: read, check, fingerprint, convert, write."""
