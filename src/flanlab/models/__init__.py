"""Models: loading them, scoring options, generating answers."""
