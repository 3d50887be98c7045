"""What an evaluation returns: its records as a table, as rows and as files; and two of them compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hjepa_eval.errors import ConfigError
from hjepa_eval.report.tables.model_pairs import Located, ModelPair
from hjepa_eval.results.outcomes import SampleOutcomes
from hjepa_eval.results.records import Record

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Evaluated:
    """A record, the outcome of every sample, and the file that both were written to, if any."""

    record: Record
    samples: SampleOutcomes
    path: Path | None = None


# Columns of a table that fits a screen.
_READABLE = ("model", "dataset", "probe", "level", "level_name", "metric", "parameters", "value", "low", "high")


class Result:
    """Records of one evaluation; in a notebook its last line shows the table, `print` shows the terminal's.

    Attributes:
        records: a record per model and probe, as `hjepa eval` writes them.
    """

    def __init__(self, evaluated: Sequence[Evaluated]) -> None:
        """Take what an evaluation returned."""
        self._evaluated = tuple(evaluated)
        self.records: tuple[Record, ...] = tuple(entry.record for entry in evaluated)

    @cached_property
    def located(self) -> list[Located]:
        """The records, each with the outcomes of its samples."""
        return [
            Located(entry.record, Path() if entry.path is None else entry.path.parent, entry.path, entry.samples)
            for entry in self._evaluated
        ]

    def __repr__(self) -> str:
        models = len({record.model.name for record in self.records})
        probes = ", ".join(dict.fromkeys(record.headed.title for record in self.records))
        return f"<Result of {probes} on {models} models; print it for the table>"

    def __str__(self) -> str:
        from hjepa_eval.report.formats.named import FORMATS

        return FORMATS["table"](self.records).rstrip("\n")

    def _repr_html_(self) -> str:
        from hjepa_eval.report.formats.notebook import html_table

        return html_table(self.records)

    def to_pandas(self, *, full: bool = False) -> pd.DataFrame:
        """Return one row per number.

        Args:
            full: all columns, as the CSV report has them: parameters, tests, costs, fingerprints.

        Raises:
            ConfigError: pandas is not installed.
        """
        from hjepa_eval.report.formats.tidy import tidy

        rows = tidy(self.records)
        return _frame(rows if full else [{name: row[name] for name in _READABLE} for row in rows])

    def save(self, path: str | Path) -> Path:
        """Write the result and return the path.

        A name that ends in `.html` becomes the page, `.md`, `.csv`, `.json`, `.tex` or `.txt` the table in that format;
        any other is a folder, which gets the records as `hjepa eval` writes them: for `hjepa report`, `read_records`.

        Raises:
            ResultError: it cannot be written.
        """
        from hjepa_eval.report.formats.named import FORMATS
        from hjepa_eval.report.written import choose_format, write_report

        target = Path(path).expanduser()
        if target.suffix and not target.is_dir():
            chosen = choose_format(None, target, (*FORMATS, "html"))
            folders = [entry.path.parent for entry in self._evaluated if entry.path is not None]
            write_report(self.located, chosen, target, list(dict.fromkeys(folders)))
            return target
        from hjepa_eval.evaluation.measure import Measured
        from hjepa_eval.results.files import check_folder

        check_folder(target)
        for entry in self._evaluated:
            Measured(entry.record, entry.samples).write(target, predictions=True)
        return target


class Compared:
    """Models side by side on the same images.

    Attributes:
        pairs: of two models, a paired comparison per probe and level; of more none.
        located: the records compared.
    """

    def __init__(self, pairs: Sequence[ModelPair], located: Sequence[Located] = ()) -> None:
        """Take the comparisons of two models, or the records of several."""
        self.pairs, self.located = tuple(pairs), tuple(located)

    def __repr__(self) -> str:
        models = len({entry.record.model.name for entry in self.located})
        what = f"{len(self.pairs)} paired comparisons" if self.pairs else f"{models} models against the best"
        return f"<{what}; print them for the table>"

    def text(self, format: str = "table") -> str:
        """Return the comparison as `table`, `md`, `csv`, `json` or `latex`."""
        from hjepa_eval.report.formats.pairs import PAIR_FORMATS
        from hjepa_eval.report.formats.ranks import RANK_FORMATS

        return PAIR_FORMATS[format](self.pairs) if self.pairs else RANK_FORMATS[format](self.located)

    def __str__(self) -> str:
        return self.text().rstrip("\n")

    def _repr_html_(self) -> str:
        from hjepa_eval.report.formats.notebook import html_pairs, html_text

        return html_pairs(self.pairs) if self.pairs else html_text(str(self))

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per comparison; of more than two models one per model.

        Raises:
            ConfigError: pandas is not installed.
        """
        from hjepa_eval.report.formats.pairs import flat

        return _frame([flat(pair) for pair in self.pairs] if self.pairs else json.loads(self.text("json")))


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    try:
        import pandas as pd
    except ImportError:
        raise ConfigError("to_pandas() needs pandas, which is not installed: pip install 'hjepa[pandas]'") from None
    return pd.DataFrame(rows)
