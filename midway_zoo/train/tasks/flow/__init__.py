"""Fine-tuning and evaluation of optical flow (appendix B.4)."""
