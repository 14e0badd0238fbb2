"""tsh, the user's client."""
