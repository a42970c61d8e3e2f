"""From videos to batches of views."""
