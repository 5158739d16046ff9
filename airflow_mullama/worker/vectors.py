"""What every engine's vectors go through: cut, checked, normalised, in that order, the same for each engine."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from airflow_mullama.rows import ErrorType, RowError

FloatMatrix = npt.NDArray[np.float32]


def finish_vectors(
    vectors: FloatMatrix, *, normalize: bool, dimensions: int | None, dtype: str
) -> tuple[FloatMatrix, list[RowError | None]]:
    """Turn raw vectors into stored ones, in their place.

    Args:
        vectors: ``float32[rows, n_embd]``, as the model gave them.
        normalize: scale each to length 1.
        dimensions: keep only this many numbers, the first ones, before normalising.
        dtype: what they will be stored as; a number that ``float16`` cannot hold is an error too.

    Returns:
        ``float32[rows, dimensions]`` and, per row, what is wrong with its vector (``None`` if nothing is).
    """
    kept = vectors if dimensions is None else vectors[:, :dimensions]
    # float64: a sum of squares of large float32 numbers cannot overflow, so that it is finite where all numbers are.
    lengths = np.sqrt(np.einsum("ij,ij->i", kept, kept, dtype=np.float64))
    finite = np.isfinite(lengths)
    zero = finite & (lengths == 0.0)
    if normalize:
        divisors = np.where(finite & ~zero, lengths, 1.0)
        kept = np.divide(kept, divisors[:, None], out=kept, casting="same_kind")
    if dtype == "float16":
        finite &= (np.abs(np.where(np.isfinite(kept), kept, 0.0)) <= np.finfo(np.float16).max).all(axis=1)
    errors: list[RowError | None] = [None] * len(kept)
    for row in np.flatnonzero(~finite):
        errors[row] = RowError(
            ErrorType.NON_FINITE_EMBEDDING, f"the engine's vector holds NaN, infinity or a number beyond {dtype}"
        )
    for row in np.flatnonzero(zero):
        errors[row] = RowError(ErrorType.ZERO_EMBEDDING, "the engine's vector is all zeros")
    return np.ascontiguousarray(kept, dtype=np.float32), errors
