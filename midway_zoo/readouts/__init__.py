"""Evaluations of frozen features, for this zoo's backbones and any ViT of timm."""
