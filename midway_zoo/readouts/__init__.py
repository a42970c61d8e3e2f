"""What frozen features tell, of this zoo's backbones and of any ViT of timm beside them."""
