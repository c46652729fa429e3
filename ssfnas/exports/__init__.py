"""Trained networks in forms that others load: ONNX, torch.export, a folder for timm and the Hub."""
