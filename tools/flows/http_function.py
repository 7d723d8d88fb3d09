"""A flow's webhook: called in a worker as other functions, but while its server is away the flow waits, and no row has failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mycomesh.tools.flows.rows_function import RowsFunction
from mycomesh.tools.flows.sql_function import NotReadyError
from mycomesh.tools.flows.worker import AwayError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["HttpFunction"]

_AWAY = f"{AwayError.__name__}: "


class HttpFunction(RowsFunction):
    """The webhook of one flow."""

    def prepare(self, changes: Sequence[Mapping[str, Any]]) -> None:
        """Call the webhook for these changes; raises `NotReadyError` while its server is away."""
        super().prepare(changes)
        away = next((each for each in self._answers.values() if isinstance(each, str) and each.startswith(_AWAY)), None)
        if away is not None:
            raise NotReadyError(away.removeprefix(_AWAY))
