"""Encoders: feature maps of one width, fused over the scales."""
