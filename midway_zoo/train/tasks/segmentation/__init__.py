"""Semantic segmentation by a linear head on a frozen network."""
