"""Detectors as files for other runtimes: ONNX, OpenVINO, TensorRT, TorchScript, torch.export."""
