"""The monitor: the process that starts the others, parses nothing from the network, and is always there. Light."""
