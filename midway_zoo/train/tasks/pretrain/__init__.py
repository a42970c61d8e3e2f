"""Midway pretraining (paper section 3): objective, model and task."""
