"""Extraction: many videos and images to shards."""
