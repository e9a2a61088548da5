"""The session with a pool's coordinator: one outbound WebSocket, through which work comes in and answers go out. (spec 3.5)"""

from macprovider.coordinator.attach import make_session

__all__ = ["make_session"]
