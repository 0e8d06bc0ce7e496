"""The page of error messages: a section for each cause."""

import error_messages
from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util import logging


class Messages(Directive):
    """`{messages}`: a section for each cause, with its messages."""

    def run(self) -> list[nodes.Node]:
        """Parses the sections as if they stood in the page."""
        groups, rest = error_messages.by_cause()
        for message in rest:
            logging.getLogger(__name__).warning("no cause in errors.toml claims: %s", message)
        result: list[nodes.Node] = []
        for cause, found in groups.items():
            if not found:
                logging.getLogger(__name__).warning("no message has the cause: %s", cause.title)
            section = nodes.section(ids=[nodes.make_id(cause.title)], names=[cause.title.lower()])
            section += nodes.title(cause.title, cause.title)
            self.state.nested_parse(
                StringList(cause.text.strip().splitlines(), "errors.toml"), 0, section
            )
            listing = nodes.bullet_list(classes=["messages"])
            for message in found:
                listing += nodes.list_item("", nodes.paragraph("", "", nodes.literal("", message)))
            section += listing
            result.append(section)
        return result


def setup(app: Sphinx) -> None:
    """Registers the directive."""
    app.add_directive("messages", Messages)
