"""Link: the process without privileges that listens, keeps the tunnels, and carries events and recordings up. Light."""
