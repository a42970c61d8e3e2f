"""Data of training: videos, pairs of frames and their views, generated scenes, flow datasets."""
