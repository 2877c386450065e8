"""A workflow drawn from the routing table: lanes, Mermaid, SVG, the drawings in the docs. Needs no running system."""
