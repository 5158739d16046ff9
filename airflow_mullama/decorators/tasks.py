"""The decorated operators, built as Airflow builds ``@task.bash`` and ``@task.llm``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

from airflow.sdk.bases.decorator import DecoratedOperator, TaskDecorator, task_decorator_factory
from airflow.sdk.definitions._internal.types import SET_DURING_EXECUTION
from airflow.sdk.definitions.context import context_merge

from airflow_mullama.compat import AirflowFailException, function_arguments
from airflow_mullama.operators.base import NOT_RETRIED, MullamaOperator
from airflow_mullama.operators.embed import MullamaEmbedOperator
from airflow_mullama.operators.generate import MullamaGenerateOperator


class _RowsFromFunction(DecoratedOperator, MullamaOperator):
    """Calls the function when the task runs, and takes what it returns for ``input_path``.

    Args:
        python_callable: the function.
        op_args, op_kwargs: its arguments (templated).
        **kwargs: of the operator, without ``input_path``.
    """

    custom_operator_name: ClassVar[str]
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedOperator.template_fields_renderers,
        **MullamaOperator.template_fields_renderers,
    }
    # The UI shows the input once it is known.
    overwrite_rtif_after_execution = True

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if "input_path" in kwargs:
            raise TypeError(f"{self.custom_operator_name} takes no input_path: the function returns it.")
        super().__init__(
            python_callable=python_callable,
            op_args=op_args,
            op_kwargs=op_kwargs,
            input_path=SET_DURING_EXECUTION,
            **kwargs,
        )

    def execute(self, context: Any) -> dict[str, Any]:
        from airflow_mullama.decorators.source import input_path_of, remove_source
        from airflow_mullama.hooks.filesystems import resolve_in_task

        context_merge(context, self.op_kwargs)
        arguments = function_arguments(self.python_callable, self.op_args, context)
        returned = self.python_callable(*self.op_args, **arguments)
        try:
            self.input_path = input_path_of(returned, self.output_path, resolve_in_task)
        except NOT_RETRIED as error:
            raise AirflowFailException(f"{self.custom_operator_name}: {error}") from error
        self.input_path = self.render_template(self.input_path, context)
        manifest = MullamaOperator.execute(self, context)
        remove_source(returned, self.output_path, resolve_in_task)  # a failed task keeps its rows for the next try
        return manifest


class _MullamaGenerateDecoratedOperator(_RowsFromFunction, MullamaGenerateOperator):
    """What ``@task.mullama_generate`` makes of a function."""

    template_fields: ClassVar[Sequence[str]] = (  # type: ignore[misc]
        *DecoratedOperator.template_fields,
        *MullamaGenerateOperator.template_fields,
    )
    custom_operator_name = "@task.mullama_generate"


class _MullamaEmbedDecoratedOperator(_RowsFromFunction, MullamaEmbedOperator):
    """What ``@task.mullama_embed`` makes of a function."""

    template_fields: ClassVar[Sequence[str]] = (  # type: ignore[misc]
        *DecoratedOperator.template_fields,
        *MullamaEmbedOperator.template_fields,
    )
    custom_operator_name = "@task.mullama_embed"


def mullama_generate_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:
    """``@task.mullama_generate``: generate a text for each row that a function names.

    Args:
        python_callable: returns the rows' source: a path or URL, a list of them, an ``ObjectStoragePath``, or a
            :class:`pyarrow.Table` (which needs an ``output_path`` ending in ``.parquet``).
        **kwargs: of :class:`airflow_mullama.operators.generate.MullamaGenerateOperator`, without ``input_path``.
    """
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=_MullamaGenerateDecoratedOperator, **kwargs
    )


def mullama_embed_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:
    """``@task.mullama_embed``: embed a text of each row that a function names.

    Args:
        python_callable: as for :func:`mullama_generate_task`.
        **kwargs: of :class:`airflow_mullama.operators.embed.MullamaEmbedOperator`, without ``input_path``.
    """
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=_MullamaEmbedDecoratedOperator, **kwargs
    )
