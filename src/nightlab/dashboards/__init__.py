"""What people see: explorers that work in a notebook cell, in a served page and behind a hub.

Nothing heavy is imported here; ``from nightlab.dashboards.images...`` and the like import what they need.
"""
