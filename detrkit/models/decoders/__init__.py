"""Decoders: feature maps to classes and boxes."""
