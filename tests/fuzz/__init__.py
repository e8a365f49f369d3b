"""Differential fuzzing: random small networks, compiled and compared with onnxruntime, integer by integer.

``python -m tests.fuzz --count 2000 --seed 0`` runs the networks of 2000 seeds; see `tests.fuzz.generate` for what they
hold and `tests.fuzz.run` for what counts as a failure.
"""
