"README.md is nbs/index.ipynb, with its links counted from the top of the repository: python tests/readme.py > README.md"

import re
from pathlib import Path

import nbformat

INDEX = Path(__file__).parents[1] / "nbs" / "index.ipynb"


def readme() -> str:
    cells = [
        c.source.strip()
        for c in nbformat.read(INDEX, 4).cells
        if c.cell_type == "markdown"
    ]
    text = "\n\n".join(cells) + "\n"
    return (
        "<!-- written from nbs/index.ipynb by `make readme`; edit that -->\n\n"
        + re.sub(r"(\]\()(?!https?:|#|\.\./)", r"\1nbs/", text).replace(
            "](../", "]("
        )
    )


if __name__ == "__main__":
    print(readme(), end="")
