"""Training on several devices: one process each, on one machine or more.

    place.py       which of the processes this is (torchrun, srun, detrkit's launcher); no torch
    launch.py      starts processes on this machine, and again after a crash; no torch
    lifeline.py    a started process notices that its launcher wants it to stop, or is gone
    group.py       the processes meet, speak with one voice, and exchange values
    agreement.py   a wish of one process becomes known to all at the same step
    replicas.py    the model in DistributedDataParallel
    sync_bn.py     batch norm over all processes

A single process never touches any of it: functions return at once.
"""
