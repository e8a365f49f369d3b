"""Malformed files: ONNX files spoilt at random, none of which may end in a traceback, a hang or half-written output.

``python -m tests.mutated --count 2000 --seed 0`` spoils 2000 files; see `tests.mutated.spoil` for how and
`tests.mutated.run` for what counts as a failure.
"""
