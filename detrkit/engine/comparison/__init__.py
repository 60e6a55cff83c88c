"""`detrkit compare`: runs, reports and files of detections side by side.

inputs      what a path on the command line holds: numbers, curves, detections, ground truth
compare     differences, bootstrap intervals, winners; plain values for JSON
tables      CSV, Markdown, LaTeX
page        the HTML page
"""

from detrkit.engine.comparison.compare import Comparison, Delta, Model, compare
from detrkit.engine.comparison.inputs import Entry, read_entries

__all__ = ["Comparison", "Delta", "Entry", "Model", "compare", "read_entries"]
