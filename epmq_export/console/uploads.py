"""What goes to the hub, or went there, as `epmq push` shows it."""

from rich.text import Text

from epmq_export.console.terminal import out, plain_table, print_result, show_line, visible
from epmq_export.pipeline.publish import Pushed


def show_uploads(pushed: Pushed) -> None:
    """Show each file by its place in the repository, then the commit's address, or that nothing went."""
    table = plain_table(visible(pushed.repository), "place", "bytes")
    for file in pushed.files:
        table.add_row(Text(visible(file.place)), f"{file.bytes:,}")
    table.add_row("all", f"{sum(file.bytes for file in pushed.files):,}", style="bold")
    out.print(table)
    if pushed.url is None:
        show_line("nothing was uploaded: --upload does it")
    else:
        print_result(pushed.url)
