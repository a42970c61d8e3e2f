"""From images and clips to features, motion latents and flow."""
