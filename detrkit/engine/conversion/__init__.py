"""Weights between the authors' names, Hugging Face transformers and safetensors.

rules        which tensor is called what
names        state dicts by either names
hf_config    a configuration in the words of transformers, where its classes are the same model
hf_folder    reads folders of transformers
hf_export    writes them, after comparing both models' answers
safetensors  files that hold tensors and text, and no code
convert      one file or folder into another
"""
