"""Layers from papers, one file each; any of them is one line of YAML away.

In their formulas DW is a depthwise and PW a 1×1 convolution, CBS a convolution with batch norm
and SiLU, GAP the mean over a map, σ the sigmoid, and [a; b] are channels one after another.
"""
