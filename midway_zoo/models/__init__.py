"""Encoder, dynamics and the network that joins them."""
