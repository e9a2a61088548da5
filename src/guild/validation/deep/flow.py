"""Do the turns of a conversation follow each other? (specs/guild.md 5.2)"""

from __future__ import annotations

from guild.validation.deep.views import RowView


def find_broken_flow(view: RowView) -> str | None:
    """A system message that is not the first, two turns of one side in a row, a reply to nothing, or a question without a reply."""
    roles = view.roles
    turns = roles[1:] if roles[0] == "system" else roles
    if "system" in turns:
        return f"a system message as message {roles.index('system', 1) + 1}; it may only be the first"
    if turns[0] == "assistant":
        return "an assistant turn that answers nothing"
    if any(turns[at] == turns[at + 1] for at in range(len(turns) - 1)):
        return "two turns of one side in a row"
    if turns[-1] == "user":
        return "a last turn of the user without a reply"
    return None
