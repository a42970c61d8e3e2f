"""Training of Midway networks: pretraining, fine-tuning, and the loop they share.

The library never imports this package; it needs the ``train`` extra (accelerate, OmegaConf, PyAV).
"""
