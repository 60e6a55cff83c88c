"""What the server imports, of which test processes are forked: all that a training needs."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # tensorboard's own imports
    import hotcoco
    import torch.utils.tensorboard

    import detrkit.engine.training
    from detrkit.registry import MODULES
    from tests.garbage import freeze

assert hotcoco
assert torch.utils.tensorboard
assert detrkit.engine.training
assert list(MODULES)

freeze()
