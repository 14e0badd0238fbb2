"""The node daemon: monitor, link, keeper, worker and sessions."""
