"""Pretraining of Midway Networks; never imported by `import midway_zoo`."""
