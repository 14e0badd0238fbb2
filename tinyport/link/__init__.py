"""Between our programs: authenticated channels, framing, the auth API's client."""
