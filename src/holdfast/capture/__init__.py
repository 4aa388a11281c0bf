"""Freezing memory and telling what changed in it: the kernel's calls, the arena, the page tracker, the sampler.

Works on memory alone: it knows nothing of versions, stores, users' objects or ranks. Nothing here is imported by
`import holdfast`; import the module that is wanted.
"""
