"""An input whose rows are made of another's: what the two have in common, told once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from airflow_mullama.storage.parquet.annotations import Annotations
from airflow_mullama.storage.parquet.int96 import Int96
from airflow_mullama.storage.partition_input import InputFile, PartitionInput


class DerivedInput:
    """Most of a :class:`airflow_mullama.storage.partition_input.PartitionInput`, as the input it is made of has it.

    Which rows there are, and of what schema, whoever derives says.
    """

    whole: PartitionInput

    @property
    def files(self) -> Sequence[InputFile]:
        """Of the whole."""
        return self.whole.files

    @property
    def identity(self) -> str:
        """Of the whole."""
        return self.whole.identity

    @property
    def size(self) -> int:
        """Bytes of all files: they are read, though not every row may be used."""
        return self.whole.size

    @property
    def annotations(self) -> Annotations:
        """Of the whole."""
        return self.whole.annotations

    @property
    def int96(self) -> Int96:
        """Of the whole."""
        return self.whole.int96

    @property
    def promotions(self) -> Sequence[str]:
        """Of the whole."""
        return self.whole.promotions

    @property
    def unreadable_rows(self) -> Mapping[int, str]:
        """Of the whole."""
        return self.whole.unreadable_rows
