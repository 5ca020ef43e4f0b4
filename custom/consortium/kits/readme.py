"""The README of a kit, for the person who receives it."""

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from consortium import __version__

README = "README.md"
_TEMPLATES = {"server": "orchestrator.md.j2", "client": "hospital.md.j2"}


def write_readme(kit: Path, participant: str, role: str, project: str) -> None:
    """Writes a kit's README.

    Args:
        kit: the kit's folder.
        participant: its name.
        role: `server`, `client` or an admin's role.
        project: name of the consortium's project.
    """
    pages = Environment(
        loader=PackageLoader("consortium.kits", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown; the names in it were checked
    )
    page = pages.get_template(_TEMPLATES.get(role, "admin.md.j2"))
    text = page.render(participant=participant, role=role, project=project, version=__version__)
    (kit / README).write_text(text, encoding="utf-8")
