"""Distillation: a student learns from a teacher's feature maps and detections.

    losses/      one file per loss, registered, so that a configuration names it
    taps.py      feature maps of named stages, seen while a model runs
    adapters.py  a student's map in the width and the size of a teacher's
    layout.py    which map of the student goes with which of the teacher
    pairing.py   which query of the student answers for which of the teacher
    probes.py    queries that both answer at the same place
    teacher.py   a frozen detector or backbone and what it says about a batch
    cache.py     its answers to pictures that come again
    terms.py     the losses of a step
    schedule.py  when they count, and how much
    distiller.py all of it, for one training
    names.py     of the losses in the logs
    settings.py  the `distillation` section of a configuration

Models and losses lie below; the engine opens the teacher and trains.
"""
