"""The executed notebooks of a profile as one page that opens offline."""

from pathlib import Path

from .. import files
from ..files import InputError, write_atomic


def join(profile: str) -> Path:
    """Join the executed notebooks of a profile into one self-contained HTML page that opens offline."""
    import nbformat
    from nbconvert import HTMLExporter

    executed = sorted((files.RESULTS / profile / "notebooks").glob("[0-9]*.ipynb"))
    executed = [path for path in executed if ".running" not in path.name]
    if not executed:
        raise InputError(f"No executed notebook of profile {profile} yet: make reproduce PROFILE={profile} makes them.")
    whole = nbformat.read(executed[0], as_version=4)
    for path in executed[1:]:
        whole.cells += nbformat.read(path, as_version=4).cells
    for cell in whole.cells:
        if cell.cell_type == "markdown":
            cell.attachments = cell.get("attachments", {})
            cell.source = cell.source.replace("](../", "](../../")  # links are from notebooks/, the page is deeper
    exporter = HTMLExporter(
        template_name="lab", embed_images=True, mathjax_url="", mermaid_js_url="", require_js_url=""
    )
    body, _ = exporter.from_notebook_node(whole, {"metadata": {"name": f"Facial cartoonization, profile {profile}"}})
    path = files.RESULTS / profile / "report.html"
    write_atomic(path, body)
    return path
