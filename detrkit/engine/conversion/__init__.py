"""Weights between the authors' names, Hugging Face transformers and safetensors.

names        which tensor is called what
hf_config    a configuration in the words of transformers, where its classes are the same model
hf_folder    folders that transformers loads: written (and checked), read
safetensors  files that hold tensors and text, and no code
"""
