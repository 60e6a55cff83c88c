"""Training, evaluation and use of detectors; the one place where all parts meet."""
