"""jobguard."""
