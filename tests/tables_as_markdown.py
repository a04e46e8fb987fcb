"What a kernel runs before a page: tables become Markdown, which needs no script and isn't cut short."


def markdown(table):
    import pandas as pd

    frame = table.to_frame() if isinstance(table, pd.Series) else table
    if not all(isinstance(c, str) for c in frame.columns):
        frame = frame.rename(columns=str)
    return frame.to_markdown(index=not isinstance(frame.index, pd.RangeIndex))


def nothing(table):
    "No HTML beside the Markdown"


def register():
    formatters = get_ipython().display_formatter.formatters  # noqa: F821
    for kind in ("DataFrame", "Series"):
        for module in (
            "pandas",
            f"pandas.core.{'frame' if kind == 'DataFrame' else 'series'}",
        ):
            formatters["text/markdown"].for_type_by_name(module, kind, markdown)
            formatters["text/html"].for_type_by_name(module, kind, nothing)


register()
del register
