"""Trained and published models through the running service, each beside torch."""
