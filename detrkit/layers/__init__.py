"""Layers shared by backbones, encoders and decoders."""
