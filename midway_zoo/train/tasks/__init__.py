"""What can be trained: one folder each."""
