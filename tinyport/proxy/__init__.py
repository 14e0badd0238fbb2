"""The proxy: one public port, tunnels, gateway."""
