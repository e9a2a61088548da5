"""Machines and the addresses of their services: `registry` looks them up, `health` asks them, `addresses` holds the defaults."""
