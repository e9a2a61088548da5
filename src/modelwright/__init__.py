"""The kernel of Modelwright: what every long job shares. It imports none of the rooms."""

__version__ = "0.1.0"
