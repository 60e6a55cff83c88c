"""What the server imports, of which test processes are forked: all that a training needs."""

import gc
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # tensorboard's own imports
    import hotcoco
    import torch.utils.tensorboard

    import detrkit.engine.training
    from detrkit.registry import MODULES

assert hotcoco
assert torch.utils.tensorboard
assert detrkit.engine.training
assert list(MODULES)

gc.freeze()  # those that are forked need not look through it
