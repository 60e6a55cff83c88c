"""`detrkit doctor`: what would go wrong, said before the first step.

environment   the machine and what is installed; imports torch only to ask it
settings      the configuration: all its problems, quirks in force
data          faults of the data set, classes, splits, images that cannot be decoded
fix           a cleaned copy of the annotations
weights       what would be loaded from a checkpoint, without building a model
forecast      measured steps: time, memory and disk of the whole run
overfit       whether the model can learn one batch by heart
examine       all of these, one section after the other
"""
