"""`detrkit doctor`: what would go wrong, said before the first step.

examine           everything, section by section
environment       the machine; torch_facts, packages: what is installed on it
settings          the configuration: all its problems, quirks in force
data              splits and advice; fault_checks, image_checks: what is wrong with them
cleaned           `--fix`: a cleaned copy of the annotations
weights           what would be loaded from a checkpoint, without building a model
forecast          measured steps: time, memory and disk of the whole run; forecast_checks:
                  what the numbers mean
overfit           whether the model can learn one batch by heart
report            checks, sections, exit codes
"""
