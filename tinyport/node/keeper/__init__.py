"""The keeper: owns the host key, judges who may become whom, and is the parent of every session."""
