"""`hjepa search`: the train images nearest to images of the user's own, at each level, as a table and as a picture."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hjepa_eval.cli.console import print_json, told_errors
from hjepa_eval.cli.options import add_command, given_flags, option_parameters
from hjepa_eval.config import load
from hjepa_eval.errors import ResultError
from hjepa_eval.evaluation.settings import SearchSettings

if TYPE_CHECKING:
    from hjepa_eval.evaluation.gallery.search import SearchResult
    from hjepa_eval.report.page.search import ShownSearch

_DESCRIPTION = """Find the train images nearest to your own, at each level.

Prints file name, class and cosine of the nearest train images, and draws them in --out: an HTML file that opens without
a server, or a PNG. The search is exact; features of the train images come from the cache, or fill it."""
_ENDINGS = (".html", ".htm", ".png")


def register(app: typer.Typer) -> None:
    """Add the command to the program."""

    def run(config_file: Path | None = None, assignments: list[str] | None = None, **options: Any) -> None:
        with told_errors():
            from hjepa_eval.evaluation.front import search

            images = options.pop("images")
            settings = load(
                SearchSettings, config=config_file, assignments=assignments or (), flags=given_flags(options)
            )
            if settings.out.suffix.lower() not in _ENDINGS or settings.out.is_dir():
                raise ResultError(f"--out {settings.out}: name a file ending in .html or .png")
            result = search(images, settings=settings, pictures=True)
            _draw(result, settings.out)
            _say(result, settings)

    parameters = [
        inspect.Parameter(
            "images",
            inspect.Parameter.KEYWORD_ONLY,
            annotation=Annotated[list[Path], typer.Argument(help="JPEG, PNG, GIF or WebP files", metavar="IMAGE...")],
        ),
        *option_parameters([SearchSettings]),
    ]
    add_command(app, "search", run, parameters, _DESCRIPTION)


def _draw(result: SearchResult, out: Path) -> None:
    from hjepa_eval.report.formats.named import write_output
    from hjepa_eval.report.page.search import search_page, search_png

    shown = _shown(result)
    about = {"model": result.model, "dataset": result.dataset}
    png = out.suffix.lower() == ".png"
    write_output(out, search_png(shown, **about) if png else search_page(shown, **about))


def _shown(result: SearchResult) -> list[ShownSearch]:
    from hjepa_eval.report.page.search import ShownNeighbour, ShownSearch

    asked, near = result.pictures
    classes = result.classes

    def neighbours(level: int, image: int) -> tuple[ShownNeighbour, ...]:
        return tuple(
            ShownNeighbour(
                near[int(result.index[level, image, place])],
                str(result.names[level, image, place]),
                str(classes[level, image, place]),
                float(result.cosine[level, image, place]),
            )
            for place in range(result.index.shape[2])
        )

    return [
        ShownSearch(
            asked[image],
            name,
            tuple((number, reads, neighbours(level, image)) for level, (number, reads) in enumerate(result.levels)),
        )
        for image, name in enumerate(result.images)
    ]


def _say(result: SearchResult, settings: SearchSettings) -> None:
    """Print the answer: a line per neighbour, or all of it as JSON."""
    from hjepa_eval.results.text import one_line

    answers = [
        {
            "image": image,
            "level": number,
            "neighbours": [
                {"name": str(name), "class": str(kind), "cosine": round(float(cosine), 6)}
                for name, kind, cosine in zip(
                    result.names[level, place], result.classes[level, place], result.cosine[level, place], strict=True
                )
            ],
        }
        for place, image in enumerate(result.images)
        for level, (number, _) in enumerate(result.levels)
    ]
    if settings.as_json:
        print_json({"model": result.model, "dataset": result.dataset, "out": str(settings.out), "answers": answers})
        return
    for answer in answers:
        print(one_line(f"{answer['image']}, level {answer['level']}"))
        for each in answer["neighbours"]:  # type: ignore[attr-defined]
            print(f"  {each['cosine']:6.3f}  {one_line(each['class'])}  {one_line(each['name'])}")
    print(f"drawn: {settings.out}")
