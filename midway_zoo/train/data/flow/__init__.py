"""Data of flow training and evaluation: data sets as published, their mixtures, and the augmentation."""
