"""The signs of the thinking protocol: what opens a line of thought, what ends a reply. (specs/guild.md 2.2.1, 5.2)"""

from __future__ import annotations

THINKING = ("🤔", "💭", "🧠", "💡", "🎯", "🔍", "🤨", "🧐", "⚡", "✨")
STOP = ("🛑", "⛔", "🚫", "❌", "🔴", "⏹️", "🔚", "✋", "🚦", "🛡️")
