"""Networks as files that run without this package: ONNX, torch.export and TorchScript.

The function is ``midway_zoo.export``; this package has another name so that neither hides the other.
"""
