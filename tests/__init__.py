"""The tests mirror the package; scenarios run whole programs."""
