"""Detectors: backbones, encoders, decoders, and what turns their outputs into detections."""
