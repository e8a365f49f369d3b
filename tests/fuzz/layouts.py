"""Steps that move elements and compute nothing; they take codes as well as numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from tests.fuzz.draft import Dice, Draft, Skip, Value

__all__ = ["Layouts"]


@dataclass(eq=False)
class Layouts:
    """Steps of a network in the making."""

    dice: Dice
    draft: Draft

    def __call__(self, x: Value) -> Value:
        """One of them, likely ones more often."""
        often = [self.slice, self.pad, self.reshape, self.transpose]
        others = [self.flatten, self.unsqueeze, self.gather, self.depth_to_space, self.space_to_depth]
        step: Callable[[Value], Value] = self.dice.pick([*often, *often, *others])
        return step(x)

    def slice(self, x: Value) -> Value:
        axes = sorted(
            int(a) for a in self.dice.random.permutation(range(1, x.rank))[: self.dice.integer(1, max(1, x.rank - 1))]
        )
        starts, ends, steps = [], [], []
        for axis in axes:
            n, step = x.shape[axis], self.dice.pick([1, 1, 2, 3, -1, -2])
            first, last = sorted((self.dice.integer(0, n - 1), self.dice.integer(0, n - 1)))
            start, end = (first, last + 1) if step > 0 else (last, first - 1)
            starts.append(start - n if self.dice.chance(0.3) else start)
            ends.append(end if 0 <= end < n or step > 0 else -n - 1)
            steps.append(step)
        if self.draft.opset < 10:
            if min(steps) < 1:
                raise Skip("no steps then")
            return self.draft.op("Slice", x, axes=axes, starts=starts, ends=ends)
        more = [steps] if max(steps) > 1 or min(steps) < 1 or self.dice.chance(0.3) else []
        return self.draft.op("Slice", x, *(self.draft.const(v, "int64") for v in (starts, ends, axes, *more)))

    def pad(self, x: Value) -> Value:
        pads = [self.dice.pick([0, 0, 1, 2]) for _ in range(2 * x.rank)]
        pads[0] = pads[x.rank] = 0
        code = x.frames.dtype.kind in "iu"
        value = self.dice.integer(0, 5) if code else x.scale * self.dice.integer(0, 3) if self.dice.chance(0.4) else 0.0
        if self.draft.opset < 11:
            return self.draft.op("Pad", x, pads=pads, value=float(value))
        given = [self.draft.const(value, str(x.frames.dtype))] if value or self.dice.chance(0.3) or code else []
        return self.draft.op("Pad", x, self.draft.const(pads, "int64"), *given)

    def reshape(self, x: Value) -> Value:
        total = prod(x.shape)
        first = self.dice.pick([n for n in range(1, total + 1) if total % n == 0])
        second = self.dice.pick([n for n in range(1, total // first + 1) if total // first % n == 0])
        shapes = [[1, -1], [1, *x.shape[:0:-1]], [1, first, -1], [1, first, second, total // first // second]]
        return self.draft.op("Reshape", x, self.draft.const(self.dice.pick(shapes), "int64"))

    def flatten(self, x: Value) -> Value:
        return self.draft.op("Flatten", x, axis=1)

    def transpose(self, x: Value) -> Value:
        return self.draft.op("Transpose", x, perm=[0, *(int(p) + 1 for p in self.dice.random.permutation(x.rank - 1))])

    def unsqueeze(self, x: Value) -> Value:
        axis = self.dice.integer(1, x.rank)
        if x.rank > 3:
            raise Skip("enough axes")
        if self.draft.opset >= 13:
            return self.draft.op("Unsqueeze", x, self.draft.const([axis], "int64"))
        return self.draft.op("Unsqueeze", x, axes=[axis])

    def gather(self, x: Value) -> Value:
        axis = self.dice.integer(1, x.rank - 1)
        low = -x.shape[axis] if self.dice.chance(0.3) and self.draft.opset >= 11 else 0
        indices = self.dice.random.integers(low, x.shape[axis], self.dice.pick([(), (1,), (2,), (3,)]))
        return self.draft.op("Gather", x, self.draft.const(indices, "int64"), axis=axis)

    def depth_to_space(self, x: Value) -> Value:
        mode = {"mode": self.dice.pick(["DCR", "CRD"])} if self.draft.opset >= 11 else {}
        return self.draft.op("DepthToSpace", x, blocksize=2, **mode)

    def space_to_depth(self, x: Value) -> Value:
        return self.draft.op("SpaceToDepth", x, blocksize=2)
