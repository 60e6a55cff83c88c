"""What each layer of a model costs, and how tensors flow between layers.

`running` tells listeners which layer runs; everything here is measured with it. A quantity belongs
to the innermost layer that runs; that of a layer and all below it by name is the sum (`totals`),
so that the layers of a table add up to the whole, whoever calls whom.
"""
