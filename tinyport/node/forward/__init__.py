"""The helper that opens forwardings, agent and X11 sockets as the user."""
