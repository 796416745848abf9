"""The ``fastsi`` command: parse, call ``fastsi.api``, print.

One module per command. Heavy imports happen inside the commands, so that ``fastsi --help`` and a
bad option answer at once.
"""
