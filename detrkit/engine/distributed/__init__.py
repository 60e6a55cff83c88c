"""Training on several devices: one process each, on one machine or more.

    place.py       which of the processes this is (torchrun, srun, detrkit's launcher); no torch
    launch.py      starts processes on this machine, and again after a crash; no torch
    lifeline.py    a started process notices that its launcher wants it to stop, or is gone
    meeting.py     the processes find each other and speak with one voice
    group.py       their devices, and values that travel between them
    agreement.py   a wish of one process becomes known to all at the same step
    replicas.py    the model in DistributedDataParallel
    sync_bn.py     batch norm over all processes

A single process never touches any of it: functions return at once.

Batch k of an epoch holds the same images for every number of processes, augmented alike and at
the same size, and losses are divided by what the whole batch holds. So the gradient is that of a
single process with the same total batch, with `sync_bn` also through batch norm, and a run may be
resumed by another number of processes. Different are only

- the noise of denoising queries and dropout, which each process draws for its images;
- which images MixUp and CopyBlend combine: those of one process;
- D-FINE's distillation, which averages over the queries of a process, as its authors' does;
- batch norm without `sync_bn`: the main process's statistics are kept, as in the authors' code.
"""
