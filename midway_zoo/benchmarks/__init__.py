"""What ``midway-zoo benchmark`` measures, one module a subject: ours and the peer in turn, in one run.

Only the command imports this room. A subject's ``measure`` yields a :class:`~.measuring.Comparison` for each thing
that is compared, as soon as it is known.
"""
