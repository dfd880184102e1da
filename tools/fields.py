"""The README's list of the fields of a config, made from the table in jaxconv/config.py.

python -m tools.fields
"""

from jaxconv.config import FIELDS
from tools.results import README, write

BEGIN = "<!-- made by: python -m tools.fields -->\n"


def markdown_table() -> str:
    """List the fields in Markdown: key, type, default, meaning, and what the value must be."""
    lines = [
        f"| `{key}` | {field.type_name} | `{field.initial!r}` | {field.meaning} | "
        f"{field.check.words if field.check else ''} |\n"
        for key, field in FIELDS.items()
    ]
    return "".join(["| field | type | default | meaning | must be |\n", "| --- | --- | --- | --- | --- |\n", *lines])


def main() -> None:
    """Write the list into the README."""
    write(README, BEGIN, markdown_table())


if __name__ == "__main__":
    main()
