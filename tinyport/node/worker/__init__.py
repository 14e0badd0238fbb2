"""The worker: speaks SSH with strangers, with no key, no file and no network of its own."""
