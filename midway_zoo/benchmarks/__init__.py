"""The subjects of ``midway-zoo benchmark``, one module each: ours and a peer take turns in the same run.

Only the command imports this package. A subject's ``measure`` yields a :class:`~.measuring.Comparison` for each thing
that is compared, as soon as it is measured.
"""
