"""The auth server: certificate authority, cluster state, API."""
